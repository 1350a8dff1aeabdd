"""Can a probe still change what a layer gets? Pure statistics of a series that goes on for a while.

A layer is done when it is stationary, when its projection to the end of the horizon stays within
the tolerance of the variance that it started with, when V will be too near that start for a redraw
at the end of the probe's budget, or when it will not be stationary by then. The last is said when
the projection alone moves by twice the tolerance in the last half of the budget; when its rate,
falling off as fast as it has, at the lower end of its interval, will be above the tolerance, and
the projection agrees (before one is possible, by twice the margin); or when noise alone keeps the
upper limit of the drift index above it.
"""

from __future__ import annotations

import math
from enum import Enum

import numpy as np

from lightning_init.stationarity.drift import TrendFit, drift_index, fit_trend, window_length
from lightning_init.stationarity.projection import BATCHES, FEWEST_SAMPLES, project
from lightning_init.stationarity.settings import DetectorSettings
from lightning_init.stationarity.student import student_t_quantile
from lightning_init.stationarity.verdict import DetectorState, glance

# Noise that hangs together is overstated in a short window: a quarter of what it adds is certain.
CERTAIN_NOISE = 0.25
# A rate may fall off somewhat faster than it has: it must end at twice the tolerance at least.
SURELY = 2.0
# A rate may also rise somewhat before V comes too far from its start.
RISES = 1.5
# Margins taken off the latest rate where nothing else bears witness.
ALONE = 2.0
# Standard errors taken off what a projection moves by, where the rate does not confirm it.
DOUBT = 0.5
# Batches of a projection from too few samples for the usual ten.
EARLY_BATCHES = 5
# A shorter beginning does not tell what the rest of the budget holds.
EARLIEST = 0.25
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
    too_short = state.budget < fewest_samples(state.settings, state.budget)
    if too_short and futile_ends:
        return Ending.TOO_SHORT
    samples = state.series.length
    if samples >= FEWEST_SAMPLES and _stays_near(state, initial):
        return Ending.UNCHANGED
    too_early = samples < FEWEST_SAMPLES and not redrawn_from
    if too_early or samples < earliest_look(state.settings, state.budget):
        return None
    at_horizon, at_budget = _farthest(state, initial) if redrawn_from else (math.inf, math.inf)
    if samples < FEWEST_SAMPLES and at_horizon < state.settings.tolerance:
        return Ending.UNCHANGED
    if at_budget < redrawn_from:
        return Ending.STAYS
    return Ending.WILL_NOT_SETTLE if futile_ends and _will_not_settle(state) else None


def looked_at(state: DetectorState) -> float:
    """A number that changes where `ending` may: at the checks, and before the first one."""
    samples = state.series.length
    is_early = samples < state.settings.minimum_samples
    return samples // LOOK_EVERY if is_early else state.next_check


def earliest_look(settings: DetectorSettings, budget: float) -> int:
    """Samples from which a trend can be fitted and says something of the rest of the budget."""
    return math.ceil(max(settings.trend_samples, EARLIEST * budget))


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


def _farthest(state: DetectorState, initial: float) -> tuple[float, float]:
    """Largest |log(V / initial)| by the ends of horizon and budget, at about its present rate."""
    if not initial > 0:
        return math.inf, math.inf
    fit = _fit(state)
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


def _will_not_settle(state: DetectorState) -> bool:
    settings, samples = state.settings, state.series.length
    remaining = state.budget - samples
    if remaining <= 0:
        return False
    fit = _fit(state)
    trend = drift_index(fit, state.horizon, settings.confidence)
    # The standard error of a slope falls with the length of its window to the power 3/2.
    noise = (trend.upper - trend.drift_index) * (samples / state.budget) ** 1.5
    if CERTAIN_NOISE * noise > settings.tolerance:
        return True
    last_window = state.budget * (1 - settings.window_fraction)
    is_alone = samples < FEWEST_SAMPLES
    ahead = (last_window + state.budget) / 2 - samples
    relaxed = _relaxed_rate(fit, ahead, settings.confidence, ALONE if is_alone else 1.0)
    keeps_its_rate = relaxed * state.horizon > SURELY * settings.tolerance
    if is_alone and keeps_its_rate:
        return True
    begin, batches = max(0.0, last_window - samples), EARLY_BATCHES if is_alone else BATCHES
    log_values = np.log(state.series.values)
    first, last = (project(log_values, end, batches) for end in (begin, remaining))
    horizons = state.horizon / (remaining - begin)
    moves = abs(last.log_value - first.log_value)
    surely = (moves - DOUBT * last.standard_error) * horizons > SURELY * settings.tolerance
    return surely or (keeps_its_rate and moves * horizons > settings.tolerance)


def _relaxed_rate(fit: TrendFit, ahead: float, confidence: float, margins: float) -> float:
    """Least |d log V / dt| so many samples ahead, if it falls off as fast as in this window.

    A relaxation falls off exponentially, a growth without end more and more slowly; both limits
    are taken at the stated confidence, the latest rate by so many margins.
    """
    sign = math.copysign(1.0, fit.slope)
    margin = student_t_quantile(confidence, fit.degrees_of_freedom) * fit.end_slope_standard_error
    latest = sign * fit.end_slope - margins * margin
    earliest = sign * (fit.slope - fit.curvature) + margin
    if latest <= 0:
        return 0.0
    falls = math.log(max(1.0, earliest / latest)) / fit.window
    return latest / fit.window * math.exp(-falls * max(0.0, ahead))
