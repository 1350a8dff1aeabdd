"""A reduced version of tests/benchmarks/detector_characteristics.py, with fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest
from detector_scenarios import (
    SCENARIOS,
    Noise,
    Score,
    plain_drift_index,
    score,
    slope_test,
    steady_end,
    variances,
)

LENGTH = 400
NOISE = Noise(0.005, 5)


def measure(name: str, replicates: int, detector: object = steady_end) -> Score:
    series = variances(SCENARIOS[name], replicates, LENGTH, NOISE, seed=100)
    return score(detector, SCENARIOS[name], series, LENGTH)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "least_fires"),
    [("stationary", 0.97), ("relaxation T/20", 0.95), ("relaxation T/10", 0.95)],
)
def test_finds_a_steady_state(name: str, least_fires: float) -> None:
    result = measure(name, replicates=100)
    assert result.fires >= least_fires
    assert result.false_fires == 0
    assert result.bias <= 0.005


@pytest.mark.parametrize(
    "name",
    [
        "linear growth",
        "square-root growth",
        "exponential growth",
        "random walk .3",
        "random walk 1.0",
        "relaxation T/3",
    ],
)
def test_does_not_fire_on_a_series_that_moves(name: str) -> None:
    assert measure(name, replicates=50).fires <= 0.02


def test_small_random_walks_seldom_pass() -> None:
    assert measure("random walk .1", replicates=60).false_fires <= 0.15


@pytest.mark.parametrize("name", ["U-turn", "inverted U-turn"])
def test_tells_turning_points_from_steady_states(name: str) -> None:
    default = measure(name, replicates=60)
    before = measure(name, replicates=60, detector=plain_drift_index)
    assert default.false_fires <= 0.10
    assert default.fires < before.fires / 2


def test_scoring_can_fail() -> None:
    # A test that asks for no evidence of a trend passes random walks: the score must show it.
    assert measure("random walk .1", replicates=30, detector=slope_test).false_fires > 0.8
    assert np.isnan(measure("linear growth", replicates=5).time)
