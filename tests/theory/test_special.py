from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from lightning_init.theory.special import (
    composite_gauss_legendre,
    gauss_legendre,
    log_gamma_two_minus,
    normal_cdf,
)


@given(st.floats(1e-3, 1.0))
def test_log_gamma_agrees_with_scipy(r: float) -> None:
    # Absolute: near its zero at 1 neither library keeps relative accuracy.
    assert float(log_gamma_two_minus(r)) == pytest.approx(special.gammaln(2 - r), abs=2e-15)


@given(st.floats(1e-300, 1e-6))
def test_log_gamma_keeps_relative_accuracy(r: float) -> None:
    expected = -(special.digamma(2.0) - special.polygamma(1, 2) * r / 2) * r
    assert float(log_gamma_two_minus(r)) == pytest.approx(expected, rel=1e-12)


def test_log_gamma_is_vectorised_and_continuous_at_the_switch() -> None:
    r = np.array([[0.0, 0.3], [np.nextafter(0.3, 1.0), 1.0]])
    values = log_gamma_two_minus(r)
    assert values.shape == (2, 2)
    assert values[0, 0] == 0.0
    assert values[0, 1] == pytest.approx(values[1, 0], rel=1e-15)
    assert values[1, 1] == 0.0


def test_rules_are_cached_and_read_only() -> None:
    nodes, weights = gauss_legendre(7)
    assert gauss_legendre(7)[0] is nodes
    assert weights.sum() == pytest.approx(2.0, rel=1e-15)
    with pytest.raises(ValueError, match="read-only"):
        nodes[0] = 0.0


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=6, unique=True), st.integers(2, 8))
def test_composite_rule_is_exact_for_its_degree(edges: list[float], points: int) -> None:
    edges = sorted(edges)
    nodes, weights = composite_gauss_legendre(edges, points)
    assert len(nodes) == points * (len(edges) - 1)
    degree = 2 * points - 1
    exact = (edges[-1] ** (degree + 1) - edges[0] ** (degree + 1)) / (degree + 1)
    scale = max(abs(edge) for edge in edges) ** (degree + 1)
    assert weights @ nodes**degree == pytest.approx(exact, abs=1e-12 * scale + 1e-300)


@given(st.floats(-30, 30))
def test_normal_cdf(x: float) -> None:
    assert normal_cdf(x) == pytest.approx(stats.norm.cdf(x), rel=1e-12)
    assert normal_cdf(-math.inf) == 0.0
