from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from detector_scenarios import SCENARIOS, Noise, log_means, variances

from lightning_init.stationarity.drift import fit_trend, window_length
from lightning_init.stationarity.projection import Projection, project

ORACLES = Path(__file__).parents[1] / "oracles"
TRACES = json.loads((ORACLES / "training_traces.json").read_text())["series"]


def project_prefix(values: np.ndarray, samples: int, horizon: int) -> Projection:
    window = window_length(samples, 0.5, 10)
    return project(fit_trend(np.log(values[samples - window : samples]), 10), horizon - samples)


def test_growth_lies_between_going_on_and_levelling_off() -> None:
    fit = fit_trend(0.01 * np.arange(100), batches=10)  # log V runs from 0 to 1
    projection = project(fit, remaining=200)
    assert math.log(projection.value) == pytest.approx(fit.end_level + 1.0)
    assert math.log(projection.lower) < fit.end_level
    assert math.log(projection.upper) > fit.end_level + 2.0


def test_nothing_remaining_leaves_the_end_of_the_fit() -> None:
    fit = fit_trend(np.random.default_rng(0).standard_normal(100), batches=10)
    projection = project(fit, remaining=0)
    assert math.log(projection.value) == pytest.approx(fit.end_level)
    half_width = math.log(projection.upper / projection.value)
    assert half_width == pytest.approx(1.8945786 * fit.end_level_standard_error)


def test_an_interval_beyond_the_range_of_a_float_is_infinite_not_an_error() -> None:
    fit = fit_trend(np.linspace(0, 1, 100) ** 2, batches=10)
    projection = project(fit, remaining=1e6)
    assert (projection.lower, projection.upper) == (0.0, math.inf)


@pytest.mark.parametrize("time", [0.2, 0.4, 0.7])
@pytest.mark.parametrize(
    "name", [name for name in SCENARIOS if "U-turn" not in name and "drop" not in name]
)
def test_covers_the_end_of_the_series(name: str, time: float) -> None:
    replicates = 100
    series = variances(SCENARIOS[name], replicates, 400, Noise(0.005, 5), seed=11)
    ends = log_means(SCENARIOS[name], replicates, 400, np.random.default_rng(11))[:, -1]
    intervals = [project_prefix(row, int(400 * time), 400) for row in series]
    covered = [
        interval.lower <= math.exp(end) <= interval.upper
        for interval, end in zip(intervals, ends, strict=True)
    ]
    assert np.mean(covered) >= 0.90 - 2 * math.sqrt(0.9 * 0.1 / replicates)


def test_is_sharp_where_the_series_is_steady() -> None:
    series = variances(SCENARIOS["stationary"], 50, 400, Noise(0.005, 5), seed=12)
    widths = [
        math.log(interval.upper / interval.lower)
        for interval in (project_prefix(row, 280, 400) for row in series)
    ]
    assert np.median(widths) < 0.06


def test_covers_what_training_came_to() -> None:
    covered = []
    for trace in TRACES:
        values = np.array(trace["v"])
        for time in (0.15, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85):
            interval = project_prefix(values, int(len(values) * time), len(values))
            covered.append(interval.lower <= values[-5:].mean() <= interval.upper)
    assert np.mean(covered) >= 0.90


def test_a_learning_rate_drop_to_come_is_not_foreseen() -> None:
    # Stated in the module's docstring: the interval assumes that things go on as they do.
    series = variances(SCENARIOS["learning-rate drop T/2"], 20, 400, Noise(0.005, 5), seed=13)
    covered = [project_prefix(row, 160, 400).lower <= 0.5 for row in series]
    assert np.mean(covered) < 0.2
