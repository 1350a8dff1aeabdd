"""Can a probe still change what a layer gets? Pure statistics of a series that goes on for a while.

A layer is done when it is stationary, when V will stay within the tolerance of where it started to
the end of the horizon, when it will be too near that start for a redraw at the end of the probe's
budget, or when it will not be stationary by then. The last is said when
its rate, falling off as it has since the start, will still be above the tolerance in the last
window of the budget, or when noise alone keeps the upper limit of the drift index above it.
"""

from __future__ import annotations

import math
from enum import Enum

import numpy as np

from lightning_init.stationarity.drift import (
    FloatArray,
    TrendFit,
    drift_index,
    fit_trend,
    window_length,
)
from lightning_init.stationarity.settings import DetectorSettings
from lightning_init.stationarity.student import student_t_quantile
from lightning_init.stationarity.verdict import DetectorState, glance

# Noise that hangs together is overstated in a short window: a quarter of what it adds is certain.
CERTAIN_NOISE = 0.25
# A rate may fall off somewhat faster than it has: it must end at thrice the tolerance at least.
SURELY = 3.0
# A rate may also rise somewhat before V comes too far from its start.
RISES = 1.5
# A shorter beginning, in samples and as a share of the budget, does not tell what the rest holds.
FEWEST_LOOKED_AT, EARLIEST = 12, 0.15
# Samples between two looks before the first check.
LOOK_EVERY = 3


class Ending(Enum):
    """Why a probe can no longer change what a layer gets."""

    SETTLED = "settled"
    UNCHANGED = "unchanged"
    WILL_NOT_SETTLE = "will not settle within the probe"
    STAYS = "will stay too near their start to be redrawn"
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


def is_too_short(state: DetectorState) -> bool:
    """Whether the budget ends before any verdict, however the samples turn out."""
    return state.budget < fewest_samples(state.settings, state.budget)


def ending(
    state: DetectorState, initial: float, futile_ends: bool, redrawn_from: float = 0.0
) -> Ending | None:
    """Why no further sample matters, or None while one may.

    Args:
        state: The series so far.
        initial: Variance before the first step; 0 where the weights had none.
        futile_ends: Whether a layer that will not settle gets the same however long it is watched.
        redrawn_from: |log(V / initial)| below which a layer keeps its weights whatever the verdict,
            if one that has not settled keeps them too; 0 if it may be drawn.
    """
    if state.broken:
        return None
    if glance(state)[1]:
        return Ending.SETTLED
    if futile_ends and is_too_short(state):
        return Ending.TOO_SHORT
    earliest = earliest_look(state.budget) if redrawn_from else state.settings.minimum_samples
    if state.series.length < earliest:
        return None
    fit = _fit(state)
    at_horizon, at_budget = _farthest(state, initial, fit)
    if at_horizon < state.settings.tolerance:
        return Ending.UNCHANGED
    if at_budget < redrawn_from:
        return Ending.STAYS
    surely = futile_ends and _will_not_settle(state, initial, fit)
    return Ending.WILL_NOT_SETTLE if surely else None


def looked_at(state: DetectorState) -> float:
    """A number that changes where `ending` may: at the checks, and before the first one."""
    samples = state.series.length
    is_early = samples < state.settings.minimum_samples
    return samples // LOOK_EVERY if is_early else state.next_check


def earliest_look(budget: float) -> int:
    """Samples from which a trend says something of the rest of the budget."""
    return math.ceil(max(FEWEST_LOOKED_AT, EARLIEST * budget))


def _farthest(state: DetectorState, initial: float, fit: TrendFit) -> tuple[float, float]:
    """Largest |log(V / initial)| by the ends of horizon and budget, at about its present rate."""
    if not initial > 0:
        return math.inf, math.inf
    margin = student_t_quantile(state.settings.confidence, fit.degrees_of_freedom)
    rate = max(
        abs(fit.end_slope) + margin * fit.end_slope_standard_error,
        abs(fit.slope) + margin * fit.slope_standard_error,
    )
    distance = abs(fit.end_level - math.log(initial)) + margin * fit.end_level_standard_error
    per_sample, samples = RISES * rate / fit.window, state.series.length
    horizon, budget = (max(0.0, end - samples) for end in (state.horizon, state.budget))
    return distance + per_sample * horizon, distance + per_sample * budget


def _fit(state: DetectorState) -> TrendFit:
    """Trend of the window; where that is short each sample is a batch of its own."""
    settings, samples = state.settings, state.series.length
    window = window_length(samples, settings.window_fraction, 1)
    batches = window if window < 2 * settings.batches else settings.batches
    window -= window % batches
    return fit_trend(np.log(state.series.values[-window:]), batches)


def _will_not_settle(state: DetectorState, initial: float, fit: TrendFit) -> bool:
    settings, samples = state.settings, state.series.length
    if samples >= state.budget:
        return False
    trend = drift_index(fit, state.horizon, settings.confidence)
    # The standard error of a slope falls with the length of its window to the power 3/2.
    noise = (trend.upper - trend.drift_index) * (samples / state.budget) ** 1.5
    if CERTAIN_NOISE * noise > settings.tolerance:
        return True
    values = state.series.values
    started = initial if initial > 0 else values[0]
    series = np.concatenate([[started], values]) / values[-1]
    in_last_window = state.budget * (1 - settings.window_fraction / 2)
    # A fall from far above relaxes in V, a rise from far below in log V.
    rate = min(_rate_at(in_last_window, one, fit) for one in (series, np.log(series)))
    return rate * state.horizon > SURELY * settings.tolerance


def _rate_at(time: float, series: FloatArray, fit: TrendFit) -> float:
    """Least rate at a time to come, if it falls off exponentially, as it has since the start.

    Args:
        time: In samples from the start.
        series: The start, known without noise, and the samples.
        fit: Of the last window, for the noise.
    """
    width = len(series) // 4
    gap = (len(series) - 1 - (width - 1) / 2) / 2
    begin = round(gap - (width - 1) / 2)
    middle, end = series[begin : begin + width].mean(), series[-width:].mean()
    noise = 2 * fit.noise * math.sqrt(2 * fit.window / fit.batches / width)
    sign = math.copysign(1.0, end - middle)
    late = sign * (end - middle) - noise
    early = sign * (middle - series[0]) + noise
    if late <= 0:
        return 0.0
    if early <= 0:  # it has turned: what came before says nothing
        return _rate_at(time - begin, series[begin:], fit) if begin >= FEWEST_LOOKED_AT else 0.0
    return float(late / gap * min(1.0, late / early) ** (max(0.0, time - 1.5 * gap) / gap))
