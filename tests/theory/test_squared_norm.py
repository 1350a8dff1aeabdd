from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import ELEMENTWISE_CASES, HOMOGENEOUS_CASES, case_id, homogeneous_laws
from scipy import special

from lightning_init.theory.activation_laws import ActivationLaw, activation_law
from lightning_init.theory.squared_norm import squared_norm_moments


@given(homogeneous_laws(), st.integers(1, 10_000))
@settings(max_examples=60, deadline=None)
def test_one_vector_serves_every_order(law: ActivationLaw, width: int) -> None:
    moments = squared_norm_moments(law, width)
    orders = np.array([1e-9, 0.1, 0.7, 1.0, 1.9, 2.0])
    together = moments.log_moments(orders)
    alone = [float(moments.log_moments(order)) for order in orders]
    # Rounding falls with the order, so that sigma = exp(-log moment / s) keeps its digits.
    allowed = 2e-15 * orders + 1e-14 * np.abs(alone)
    assert np.all(np.abs(together - alone) <= allowed)
    # E[Q / E Q | Q > 0] = 1 / P(Q > 0): the mean is known in closed form.
    assert together[-1] == pytest.approx(-moments.log_alive, abs=1e-13)


@pytest.mark.parametrize("case", HOMOGENEOUS_CASES + ELEMENTWISE_CASES, ids=case_id)
@pytest.mark.parametrize("width", [1, 3, 64, 1_000_000])
def test_integrals_reproduce_the_closed_mean(case: tuple, width: int) -> None:
    law = activation_law(*case)
    moments = squared_norm_moments(law, width)
    assert float(moments.log_moments(2.0)) == pytest.approx(-moments.log_alive, abs=5e-14)
    assert moments.mean == pytest.approx(width * law.mean, rel=1e-15)


@pytest.mark.parametrize("case", HOMOGENEOUS_CASES + ELEMENTWISE_CASES, ids=case_id)
def test_small_orders_give_the_mean_log(case: tuple) -> None:
    """log E[Q^r] = r E log Q + r^2 / 2 Var log Q + O(r^3) ties all three integrals together."""
    moments = squared_norm_moments(activation_law(*case), 6)
    r = 1e-4
    plus = float(moments.log_moments(2 * r))
    assert plus / r == pytest.approx(moments.mean_log + 0.5 * r * moments.variance_log, abs=1e-6)


@pytest.mark.parametrize("dropout", [0.2, 0.999, 1 - 1e-12])
def test_almost_dead_layers_keep_their_digits(dropout: float) -> None:
    keep = 1 - dropout
    moments = squared_norm_moments(activation_law("linear", dropout=dropout), 3)
    assert moments.log_alive == pytest.approx(
        math.log(-math.expm1(3 * math.log1p(-keep))), rel=1e-13
    )
    # Given survival of exactly one input, Q = z^2 / keep^2.
    if keep < 1e-6:
        expected = special.digamma(0.5) + math.log(2) - math.log(3 * keep)
        assert moments.mean_log == pytest.approx(expected, rel=1e-10)


def test_results_are_cached() -> None:
    law = activation_law("relu")
    assert squared_norm_moments(law, 64) is squared_norm_moments(activation_law("relu"), 64)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "rrelu", "linear"])
def test_wide_layers_tend_to_the_normal_limit(name: str) -> None:
    law = activation_law(name)
    moments = squared_norm_moments(law, 1_000_000)
    assert moments.variance_log * 1e6 == pytest.approx(law.c2, rel=1e-4)
    assert moments.mean_log * 1e6 == pytest.approx(-law.c2 / 2, rel=1e-4)
