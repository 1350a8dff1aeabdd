"""Can a probe still change what a layer gets? Pure statistics of a series that goes on for a while.

A layer is done when it is stationary, when its projection to the end of the horizon stays within
the tolerance of the variance that it started with, or when it will not be stationary by the end of
the probe's budget. The last is said when two witnesses agree that the drift index will be above the
tolerance then: its rate, falling off as fast as it has in the window, at the lower end of the
interval, and the projection; or when noise alone keeps the index's upper limit above it.
"""

from __future__ import annotations

import math
from enum import Enum

import numpy as np

from lightning_init.stationarity.drift import TrendFit, drift_index, fit_trend, window_length
from lightning_init.stationarity.projection import FEWEST_SAMPLES, project
from lightning_init.stationarity.settings import DetectorSettings
from lightning_init.stationarity.student import student_t_quantile
from lightning_init.stationarity.verdict import DetectorState, glance

# Noise that hangs together is overstated in a short window: a quarter of what it adds is certain.
CERTAIN_NOISE = 0.25
# A rate may fall off somewhat faster than it has: it must end at twice the tolerance at least.
SURELY = 2.0


class Ending(Enum):
    """Why a probe can no longer change what a layer gets."""

    SETTLED = "settled"
    UNCHANGED = "unchanged"
    WILL_NOT_SETTLE = "will not settle within the probe"
    TOO_SHORT = "the probe is too short for a verdict"
    BELOW_PEAK = "learning rate below the run's peak"


def fewest_samples(settings: DetectorSettings, budget: float) -> int:
    """Samples before which no series of a probe of so many can be stationary."""
    check = float(math.floor(max(settings.minimum_samples, settings.minimum_fraction * budget)))
    samples = 0
    for _ in range(settings.persistence):
        samples = math.ceil(check)
        while check <= samples:
            check *= settings.check_growth
    return samples


def ending(state: DetectorState, initial: float, futile_ends: bool) -> Ending | None:
    """Why no further sample matters, or None while one may.

    Args:
        state: The series so far.
        initial: Variance before the first step; 0 where the weights had none.
        futile_ends: Whether a layer that will not settle gets the same however long it is watched.
    """
    if state.broken:
        return None
    if glance(state)[1]:
        return Ending.SETTLED
    too_short = state.budget < fewest_samples(state.settings, state.budget)
    if too_short and futile_ends:
        return Ending.TOO_SHORT
    if state.series.length < FEWEST_SAMPLES:
        return None
    if _stays_near(state, initial):
        return Ending.UNCHANGED
    return Ending.WILL_NOT_SETTLE if futile_ends and _will_not_settle(state) else None


def _stays_near(state: DetectorState, initial: float) -> bool:
    """Whether V now and the interval of its projection lie within the tolerance of the start."""
    if not initial > 0:
        return False
    values, settings = state.series.values, state.settings
    projection = project(np.log(values), max(0.0, state.horizon - len(values)))
    lower, upper = projection.interval(2 * settings.confidence - 1)
    factor = math.exp(settings.tolerance)
    lowest, highest = min(lower, values[-1]), max(upper, values[-1])
    return bool(initial / factor <= lowest and highest <= initial * factor)


def _will_not_settle(state: DetectorState) -> bool:
    settings, samples = state.settings, state.series.length
    remaining = state.budget - samples
    if remaining <= 0:
        return False
    log_values = np.log(state.series.values)
    window = window_length(samples, settings.window_fraction, settings.batches)
    fit = fit_trend(log_values[-window:], settings.batches)
    trend = drift_index(fit, state.horizon, settings.confidence)
    # The standard error of a slope falls with the length of its window to the power 3/2.
    noise = (trend.upper - trend.drift_index) * (samples / state.budget) ** 1.5
    if CERTAIN_NOISE * noise > settings.tolerance:
        return True
    last_window = state.budget * (1 - settings.window_fraction)
    centre = (last_window + state.budget) / 2
    relaxed = _relaxed_rate(fit, centre - samples, settings)
    if relaxed * state.horizon <= SURELY * settings.tolerance:
        return False
    begin = max(0.0, last_window - samples)
    first, last = project(log_values, begin), project(log_values, remaining)
    projected = abs(last.log_value - first.log_value) / (remaining - begin)
    return bool(projected * state.horizon > settings.tolerance)


def _relaxed_rate(fit: TrendFit, ahead: float, settings: DetectorSettings) -> float:
    """Least |d log V / dt| so many samples ahead, if it falls off as fast as in this window.

    A relaxation falls off exponentially, a growth without end more and more slowly; both limits
    are taken at the stated confidence.
    """
    sign = math.copysign(1.0, fit.slope)
    margin = student_t_quantile(settings.confidence, fit.degrees_of_freedom)
    margin *= fit.end_slope_standard_error
    latest = sign * fit.end_slope - margin
    earliest = sign * (fit.slope - fit.curvature) + margin
    if latest <= 0:
        return 0.0
    falls = math.log(max(1.0, earliest / latest)) / fit.window
    return latest / fit.window * math.exp(-falls * max(0.0, ahead))
