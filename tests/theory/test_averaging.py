from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_init.theory.averaging import averaging_shrinkage

counts = st.integers(1, 5000)


@given(counts, st.floats(0.0, 1.0), st.booleans())
@settings(max_examples=40, deadline=None)
def test_uniform_weights(positions: int, correlation: float, causal: bool) -> None:
    lengths = np.arange(1, positions + 1) if causal else np.array([positions])
    square = float(np.mean(correlation + (1 - correlation) / lengths))
    found = averaging_shrinkage(positions, causal=causal, correlation=correlation)
    assert found == pytest.approx(math.sqrt(square), rel=1e-12)


@given(counts, st.floats(0.001, 9.0), st.booleans())
@settings(max_examples=25, deadline=None)
def test_scores_shrink_less_than_uniform_weights(
    positions: int, variance: float, causal: bool
) -> None:
    spread = averaging_shrinkage(positions, causal=causal, score_variance=variance)
    uniform = averaging_shrinkage(positions, causal=causal)
    assert uniform * (1 - 1e-9) <= spread <= 1 + 1e-9
    # A sum of squared weights n E[S^2] / E[S]^2 is approached from below.
    if not causal:
        assert spread <= uniform * math.exp(variance / 2) * (1 + 1e-9)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("positions", "variance"), [(2, 4.0), (8, 1.0), (64, 1.0), (64, 4.0)])
def test_softmax_of_real_scores(positions: int, variance: float, causal: bool) -> None:
    rng = np.random.default_rng(4)
    weights = np.exp(math.sqrt(variance) * rng.standard_normal((20_000, positions)))
    squares = np.cumsum(weights**2, 1) / np.cumsum(weights, 1) ** 2
    sums = squares.mean(1) if causal else squares[:, -1]
    found = averaging_shrinkage(positions, causal=causal, score_variance=variance) ** 2
    assert abs(found - sums.mean()) < 4.5 * sums.std() / math.sqrt(len(sums))


def test_many_positions_approach_the_lognormal_ratio() -> None:
    square = averaging_shrinkage(100_000, score_variance=1.0) ** 2
    assert square * 100_000 == pytest.approx(math.e, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": 0}, "must be an integer >= 1, got 0"),
        ({"positions": 4, "correlation": 1.5}, "`correlation` must be in [0, 1], got 1.5"),
        ({"positions": 4, "score_variance": -1.0}, "`score_variance` must be in [0, 100]"),
    ],
)
def test_arguments_are_checked(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        averaging_shrinkage(**arguments)
