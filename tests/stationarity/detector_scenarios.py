"""Families of variance series that detectors are scored on, and detectors to score beside ours.

Every series is exp(log mean + AR(1) noise); time runs from 0 to 1 over the series. The true drift
index at a sample is |d log mean / d time| times horizon / length. A fire is false when the true
index there exceeds 1.5 tolerances, or when the series is a random walk, which has no steady state.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from whole_series import detect

FloatArray = NDArray[np.float64]
FALSE_FIRE_FACTOR = 1.5
SASA_QUANTILE = float(stats.t.ppf(0.95, 9))
SLOPE_QUANTILE = float(stats.t.ppf(0.975, 8))


@dataclass(frozen=True)
class Scenario:
    name: str
    log_mean: Callable[[FloatArray], FloatArray] | None = None
    walk_std: float = 0.0
    settles_at: float | None = None


@dataclass(frozen=True)
class Noise:
    std: float
    autocorrelation_time: float


@dataclass(frozen=True)
class Score:
    """Shares of fires and of false fires, median fire time / length, median |bias|."""

    fires: float
    false_fires: float
    time: float
    bias: float


def _relaxation(rate: float, size: float = 1.0) -> Callable[[FloatArray], FloatArray]:
    return lambda time: np.log1p(size * np.exp(-rate * time))


def _relaxation_and_log_drift(drift: float) -> Callable[[FloatArray], FloatArray]:
    return lambda time: np.log(1 + 0.5 * np.exp(-20 * time) + drift * np.log1p(20 * time))


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("stationary", lambda time: 0 * time, settles_at=1.0),
        Scenario("relaxation T/20", _relaxation(20), settles_at=1.0),
        Scenario("relaxation T/10", _relaxation(10), settles_at=1.0),
        Scenario("relaxation T/3", _relaxation(3, 2.0)),
        Scenario("relaxation + .02 log", _relaxation_and_log_drift(0.02)),
        Scenario("relaxation + .15 log", _relaxation_and_log_drift(0.15)),
        Scenario("random walk .1", walk_std=0.1),
        Scenario("random walk .3", walk_std=0.3),
        Scenario("random walk 1.0", walk_std=1.0),
        Scenario("linear growth", lambda time: np.log1p(time)),
        Scenario("square-root growth", lambda time: np.log1p(3 * time) / 2),
        Scenario("exponential growth", lambda time: 2 * time),
        Scenario("relaxation 5T", _relaxation(0.2, 4.0)),
        Scenario("U-turn", lambda time: np.log(1 - 0.5 * time + 0.9 * time**2)),
        Scenario("inverted U-turn", lambda time: -np.log(1 - 0.5 * time + 0.9 * time**2)),
        Scenario(
            "learning-rate drop T/2",
            lambda time: np.where(
                time < 0.5, 0.0, np.log(0.5 + 0.5 * np.exp(-20 * np.maximum(time - 0.5, 0)))
            ),
        ),
    )
}


def autoregressive_noise(
    replicates: int, length: int, noise: Noise, generator: np.random.Generator
) -> FloatArray:
    """Stationary AR(1) series of standard deviation `noise.std`, shape (replicates, length)."""
    memory = math.exp(-1 / noise.autocorrelation_time)
    shocks = generator.standard_normal((length, replicates)) * noise.std
    series = np.empty_like(shocks)
    series[0] = shocks[0]
    for step in range(1, length):
        series[step] = memory * series[step - 1] + math.sqrt(1 - memory**2) * shocks[step]
    return series.T


def log_means(
    scenario: Scenario, replicates: int, length: int, generator: np.random.Generator
) -> FloatArray:
    """Noise-free log V, shape (replicates, length)."""
    if scenario.log_mean is None:
        steps = generator.standard_normal((replicates, length))
        return scenario.walk_std / math.sqrt(length) * np.cumsum(steps, axis=1)
    return np.tile(scenario.log_mean(np.arange(length) / length), (replicates, 1))


def variances(
    scenario: Scenario, replicates: int, length: int, noise: Noise, seed: int
) -> FloatArray:
    generator = np.random.default_rng(seed)
    means = log_means(scenario, replicates, length, generator)
    return np.exp(means + autoregressive_noise(replicates, length, noise, generator))


def true_drift_index(scenario: Scenario, length: int, horizon: float) -> FloatArray:
    """Of every sample, shape (length,); infinite for a random walk."""
    if scenario.log_mean is None:
        return np.full(length, np.inf)
    rates = np.gradient(scenario.log_mean(np.arange(length) / length)) * horizon
    if scenario.name.startswith("learning-rate drop"):
        rates[length // 2 - 1] = 0.0  # the central difference looks across the kink
    return np.abs(rates)


Detector = Callable[[FloatArray, float], "tuple[int | None, float]"]


def score(
    detector: Detector,
    scenario: Scenario,
    series: FloatArray,
    horizon: float,
    tolerance: float = 0.10,
) -> Score:
    """Run a detector over replicates, shape (replicates, length)."""
    index = true_drift_index(scenario, series.shape[1], horizon)
    outcomes = [detector(row, horizon) for row in series]
    fires = [(fired, estimate) for fired, estimate in outcomes if fired is not None]
    false = [fired for fired, _ in fires if index[fired - 1] > FALSE_FIRE_FACTOR * tolerance]
    settled = scenario.settles_at
    biases = [abs(estimate / settled - 1) for _, estimate in fires] if settled else []
    return Score(
        fires=len(fires) / len(series),
        false_fires=len(false) / len(series),
        time=float(np.median([fired for fired, _ in fires])) / series.shape[1] if fires else np.nan,
        bias=float(np.median(biases)) if biases else np.nan,
    )


def steady_end(series: FloatArray, horizon: float) -> tuple[int | None, float]:
    decision = detect(series, horizon)
    return decision.fired_at, decision.estimate


def plain_drift_index(series: FloatArray, horizon: float) -> tuple[int | None, float]:
    decision = detect(series, horizon, rule="drift-index")
    return decision.fired_at, decision.estimate


def sasa_like(series: FloatArray, horizon: float) -> tuple[int | None, float]:
    """SASA's equivalence test with V's own increments in place of gradients.

    The interval of batch means for the mean increment of log V over the last half, times the
    horizon, has to lie within the tolerance (Lang, Zhang & Xiao 2019, arXiv 1909.09756).
    """

    def passes(log_values: FloatArray) -> bool:
        increments = np.diff(log_values[-(len(log_values) // 2 // 10 * 10 + 1) :]) * horizon
        means = increments.reshape(10, -1).mean(axis=1)
        margin = SASA_QUANTILE * means.std(ddof=1) / math.sqrt(10)
        return bool(abs(means.mean()) + margin <= 0.10)

    return _first_fire(series, horizon, passes)


def slope_test(series: FloatArray, horizon: float) -> tuple[int | None, float]:
    """Stationary unless the slope of ten batch means is significant at the 5% level."""

    def passes(log_values: FloatArray) -> bool:
        window = log_values[-(len(log_values) // 2 // 10 * 10) :]
        means = window.reshape(10, -1).mean(axis=1)
        (slope, _), covariance = np.polyfit(np.arange(10.0), means, 1, cov=True)
        return bool(abs(slope) < SLOPE_QUANTILE * math.sqrt(covariance[0, 0]))

    return _first_fire(series, horizon, passes)


def _first_fire(
    series: FloatArray, horizon: float, passes: Callable[[FloatArray], bool], persistence: int = 4
) -> tuple[int | None, float]:
    log_values = np.log(series)
    due, passed = float(int(max(40, 0.1 * min(horizon, len(series))))), 0
    while math.ceil(due) <= len(series):
        samples = math.ceil(due)
        passed = passed + 1 if passes(log_values[:samples]) else 0
        if passed >= persistence:
            return samples, float(series[samples - samples // 8 : samples].mean())
        due *= 1.05
    return None, math.nan
