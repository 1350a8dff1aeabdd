from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from detector_scenarios import Noise, autoregressive_noise
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_init.stationarity.drift import (
    drift_index,
    end_drift_index,
    fit_trend,
    window_length,
)
from lightning_init.stationarity.student import student_t_quantile

ORACLES = Path(__file__).parents[1] / "oracles"
SERIES = json.loads((ORACLES / "stationarity.json").read_text())["series"]
TRACES = json.loads((ORACLES / "training_traces.json").read_text())["series"]


def last_window(values: list[float]) -> np.ndarray:
    return np.log(values[-window_length(len(values), 0.5, 10) :])


@pytest.mark.parametrize("series", SERIES, ids=lambda series: f"{series['id']}")
def test_matches_the_reference_series(series: dict) -> None:
    expected = series["expected"]["final_drift_index"]
    index = drift_index(fit_trend(last_window(series["v"]), 10), series["horizon"])
    assert index.drift_index == pytest.approx(expected["D"], rel=1e-9)
    assert index.upper == pytest.approx(expected["up"], rel=1e-9)
    assert index.lower == pytest.approx(expected["low"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: f"{trace['layer']}-{trace['lr']}")
def test_matches_the_training_traces(trace: dict) -> None:
    index = drift_index(fit_trend(last_window(trace["v"]), 10), trace["horizon"])
    expected = [trace["expected"][name] for name in ("D", "up", "low")]
    assert [index.drift_index, index.upper, index.lower] == pytest.approx(expected, rel=1e-9)


def test_fit_is_the_least_squares_parabola() -> None:
    series = np.random.default_rng(3).standard_normal(120)
    fit = fit_trend(series, batches=8)
    position = (np.arange(8) + 0.5) / 8 - 0.5
    means = series.reshape(8, 15).mean(axis=1)
    curvature, slope, level = np.polynomial.Polynomial.fit(position, means, 2).convert().coef[::-1]
    assert fit.slope == pytest.approx(slope, rel=1e-10)
    assert fit.curvature == pytest.approx(curvature, rel=1e-10)
    assert fit.end_level == pytest.approx(level + slope / 2 + curvature / 4, rel=1e-10)
    assert fit.end_slope == pytest.approx(slope + curvature, rel=1e-10)


def test_reads_the_rate_of_exponential_growth_without_error() -> None:
    fit = fit_trend(0.002 * np.arange(200), batches=10)
    assert drift_index(fit, horizon=1000).drift_index == pytest.approx(2.0, rel=1e-9)
    assert end_drift_index(fit, horizon=1000, confidence=0.6) == pytest.approx(2.0, rel=1e-9)


def test_a_turning_point_has_no_mean_slope_but_an_end_slope() -> None:
    position = np.linspace(-1, 1, 200)
    fit = fit_trend(position**2, batches=10)
    assert abs(fit.slope) < 1e-12
    assert drift_index(fit, horizon=200).drift_index > 3.5


def test_standard_errors_are_those_of_the_sampling_distribution() -> None:
    # Autocorrelation of 3 samples in batches of 40: the batch means are nearly independent.
    noise = autoregressive_noise(2000, 400, Noise(0.01, 3), np.random.default_rng(5))
    fits = [fit_trend(row, batches=10) for row in noise]
    for estimate, error in (
        ("slope", "slope_standard_error"),
        ("end_slope", "end_slope_standard_error"),
        ("end_level", "end_level_standard_error"),
    ):
        spread = np.std([getattr(fit, estimate) for fit in fits])
        claimed = np.sqrt(np.mean([getattr(fit, error) ** 2 for fit in fits]))
        # The allowance for autocorrelation is meant to err on the wide side.
        assert 0.95 < claimed / spread < 1.6, estimate


def test_limits_are_one_sided_at_the_stated_level() -> None:
    drift = 0.05 * np.linspace(-0.5, 0.5, 400)
    noise = autoregressive_noise(2000, 400, Noise(0.01, 3), np.random.default_rng(6))
    missed = {}
    for confidence in (0.8, 0.95):
        uppers = [drift_index(fit_trend(drift + row, 10), 400, confidence).upper for row in noise]
        missed[confidence] = np.mean(np.array(uppers) < 0.05)
    assert missed[0.95] < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 2000)
    assert 0.02 < missed[0.8] < 0.20 + 4 * np.sqrt(0.2 * 0.8 / 2000)


def test_noise_free_series_give_no_warning_and_no_band() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = drift_index(fit_trend(np.zeros(100), 10), horizon=1e6)
    assert (index.drift_index, index.lower, index.upper) == (0.0, 0.0, 0.0)


@given(
    seed=st.integers(0, 2**32 - 1),
    factor=st.floats(1e-6, 1e6),
    horizon=st.floats(100, 1e5),
)
@settings(max_examples=50, deadline=None)
def test_scale_does_not_matter_and_horizon_is_proportional(
    seed: int, factor: float, horizon: float
) -> None:
    values = np.exp(0.1 * np.random.default_rng(seed).standard_normal(100))
    index = drift_index(fit_trend(np.log(values), 10), horizon)
    scaled = drift_index(fit_trend(np.log(values * factor), 10), horizon)
    doubled = drift_index(fit_trend(np.log(values), 10), 2 * horizon)
    assert scaled.drift_index == pytest.approx(index.drift_index, rel=1e-7)
    assert scaled.upper == pytest.approx(index.upper, rel=1e-7)
    assert doubled.upper == pytest.approx(2 * index.upper, rel=1e-12)
    assert index.lower <= index.drift_index <= index.upper


def test_reversing_time_reverses_the_slope_only() -> None:
    values = np.random.default_rng(8).standard_normal(100)
    forward, backward = fit_trend(values, 10), fit_trend(values[::-1], 10)
    assert backward.slope == pytest.approx(-forward.slope)
    assert backward.curvature == pytest.approx(forward.curvature)
    assert backward.slope_standard_error == pytest.approx(forward.slope_standard_error)


def test_more_confidence_widens_the_band_as_the_quantile_does() -> None:
    fit = fit_trend(np.random.default_rng(9).standard_normal(100), 10)
    widths = [
        drift_index(fit, 100, level).upper - drift_index(fit, 100, level).drift_index
        for level in (0.5, 0.95)
    ]
    assert widths[0] == 0.0
    expected = student_t_quantile(0.95, 7) * fit.slope_standard_error
    assert widths[1] == pytest.approx(expected, rel=3e-4) or widths[1] < expected


@pytest.mark.parametrize(
    ("samples", "fraction", "expected"), [(400, 0.5, 200), (47, 0.5, 20), (399, 0.9, 350)]
)
def test_window_is_a_whole_number_of_batches(samples: int, fraction: float, expected: int) -> None:
    assert window_length(samples, fraction, batches=10) == expected
