"""Is a series of variances stationary? State, pure update, decision.

    state = start(settings, horizon=10_000, budget=1_000)
    for value in series:
        state = update(state, value)
    decision = decide(state)

An update appends one number; only at the checks, which thin out as the series grows, is a window
fitted. Nothing here raises for bad data: a series that holds a non-finite or non-positive value is
`invalid`.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import NamedTuple

import numpy as np

from lightning_init.stationarity.buffer import AppendOnlySeries
from lightning_init.stationarity.decision import Decision, Verdict
from lightning_init.stationarity.drift import (
    DriftIndex,
    FloatArray,
    TrendFit,
    drift_index,
    end_drift_index,
    fit_trend,
    window_length,
)
from lightning_init.stationarity.projection import FEWEST_SAMPLES, project
from lightning_init.stationarity.settings import DetectorSettings

# Lengths of the windows, beside the settings' own, from which the rate at the end may be read: a
# longer one is less noisy, a shorter one less bent by an initial transient.
LONGER_WINDOW_FRACTIONS = (0.6, 0.7, 0.8, 0.9)
# With this level a quarter of a standard error is added to the rate at the end: enough to keep
# turning points out, little enough to leave the power on stationary and relaxing series as it was.
END_RATE_CONFIDENCE = 0.60
# Share of the usual error probability left for `drifting` where `stationary` is out of reach.
DOUBT_BEYOND_REACH = 0.1
# `drifting` needs the middle half of the projection outside the tolerance: each such layer moves
# with a probability of at least 3/4, and most of them with far more.
MIDDLE_HALF = 0.5
# A projection is trusted this many times as far ahead as the samples reach back. What has moved by
# then is drifting, however long the horizon.
FARTHEST_LOOK = 2.0


class DetectorState(NamedTuple):
    """Everything the detector remembers about one layer; made by `start`.

    Attributes:
        settings: What counts as stationary.
        horizon: Samples over which V must stay put.
        budget: Samples planned for this series.
        series: The samples so far.
        next_check: Number of samples at which the next check is due.
        passes: Consecutive checks passed so far.
        fired_at: Number of samples at which the verdict `stationary` was reached.
        broken: Whether a sample was non-finite or not positive.
        trend: Drift index of the window at the newest sample, if that sample was checked.
    """

    settings: DetectorSettings
    horizon: float
    budget: float
    series: AppendOnlySeries
    next_check: float
    passes: int = 0
    fired_at: int | None = None
    broken: bool = False
    trend: DriftIndex | None = None


def start(settings: DetectorSettings, horizon: float, budget: float | None = None) -> DetectorState:
    """Begin a series.

    Args:
        settings: What counts as stationary.
        horizon: Samples over which V must stay put: the planned length of the real run, in
            samples. A horizon below the budget is raised to it.
        budget: Samples that the probe will take at most; None for as many as the horizon.
    """
    planned = horizon if budget is None else budget
    first_check = max(settings.minimum_samples, settings.minimum_fraction * planned)
    return DetectorState(
        settings=settings,
        horizon=max(horizon, planned),
        budget=planned,
        series=AppendOnlySeries(),
        next_check=math.floor(first_check),
    )


def reset(state: DetectorState) -> DetectorState:
    """Begin again for the samples that remain, after the learning rate changed.

    V at a steady state is proportional to the learning rate, so samples from before a change say
    nothing about V after it.
    """
    remaining = max(1.0, state.budget - state.series.length)
    return start(state.settings, state.horizon, remaining)


def update(state: DetectorState, value: float) -> DetectorState:
    """Take one more variance into account; `state` itself is unchanged."""
    if state.broken or not (math.isfinite(value) and value > 0):
        return state._replace(broken=True, fired_at=None)
    state = state._replace(series=state.series.append(value), trend=None)
    return state if state.series.length < state.next_check else _check(state)


def glance(state: DetectorState) -> tuple[float, bool]:
    """Drift index, and whether `decide` would say `stationary`: all that a running probe asks for.

    A projection takes ten times as long as this.

    Returns:
        The index, nan while it is unknown, and the answer.
    """
    if state.broken or state.series.length < state.settings.minimum_samples:
        return math.nan, False
    trend = _trend(state)
    stationary = state.fired_at is not None and not _rate_exceeds_tolerance(state, trend)
    return trend.drift_index, stationary


def decide(state: DetectorState) -> Decision:
    """What the samples say now.

    A series that fired and whose rate now exceeds the tolerance is `drifting` again, or
    `inconclusive` where the projection does not confirm it; its `fired_at` stays.
    """
    values = state.series.values
    if state.broken:
        return Decision(Verdict.INVALID, len(values))
    if len(values) < state.settings.minimum_samples:
        mean = float(values.mean()) if len(values) else math.nan
        return Decision(Verdict.INCONCLUSIVE, len(values), estimate=mean)
    trend = _trend(state)
    estimate = _last_quarter(values, trend.fit.window)
    value, (lower, upper) = math.nan, (math.nan, math.nan)
    if len(values) >= FEWEST_SAMPLES:
        projection = project(np.log(values), max(0.0, state.horizon - len(values)))
        value, (lower, upper) = projection.value, projection.interval()
    return Decision(
        verdict=_verdict(state, trend),
        samples=len(values),
        fired_at=state.fired_at,
        estimate=estimate,
        standard_error=_standard_error(estimate, trend.fit),
        drift_index=trend.drift_index,
        lower=trend.lower,
        upper=trend.upper,
        projected=value,
        projected_lower=lower,
        projected_upper=upper,
    )


def _check(state: DetectorState) -> DetectorState:
    trend = _trend(state)
    passes = state.passes + 1 if _passes(state, trend) else 0
    fired_at = state.fired_at
    if fired_at is None and passes >= state.settings.persistence:
        fired_at = state.series.length
    next_check = state.next_check
    while next_check <= state.series.length:
        next_check *= state.settings.check_growth
    return state._replace(passes=passes, fired_at=fired_at, next_check=next_check, trend=trend)


def _passes(state: DetectorState, trend: DriftIndex) -> bool:
    if trend.upper > state.settings.tolerance:
        return False
    return state.settings.rule == "drift-index" or _steady_end(state, trend.fit)


def _steady_end(state: DetectorState, fit: TrendFit) -> bool:
    """Whether the rate at the end is within the tolerance, read from one window at least."""
    own = state.settings.window_fraction
    fractions = [fraction for fraction in LONGER_WINDOW_FRACTIONS if fraction > own]
    fits = chain([fit], (_fit(state, fraction) for fraction in fractions))
    return any(
        end_drift_index(fit, state.horizon, END_RATE_CONFIDENCE) <= state.settings.tolerance
        for fit in fits
    )


def _trend(state: DetectorState) -> DriftIndex:
    """Drift index of the window that ends at the newest sample, fitted once."""
    if state.trend is not None:
        return state.trend
    fit = _fit(state, state.settings.window_fraction)
    return drift_index(fit, state.horizon, state.settings.confidence)


def _fit(state: DetectorState, fraction: float) -> TrendFit:
    batches = state.settings.batches
    window = window_length(state.series.length, fraction, batches)
    return fit_trend(np.log(state.series.values[-window:]), batches)


def _verdict(state: DetectorState, trend: DriftIndex) -> Verdict:
    if not _rate_exceeds_tolerance(state, trend):
        return Verdict.INCONCLUSIVE if state.fired_at is None else Verdict.STATIONARY
    return Verdict.DRIFTING if _expected_to_move(state, trend.fit.window) else Verdict.INCONCLUSIVE


def _expected_to_move(state: DetectorState, window: int) -> bool:
    """Whether V will move as its rate says, rather than relax within the tolerance.

    Where less than a window of the horizon is left, or the samples are too few to project, nothing
    can refute the rate, and it stands.
    """
    values = state.series.values
    remaining = state.horizon - len(values)
    too_late, too_early = remaining < window, len(values) < FEWEST_SAMPLES
    if too_late or too_early or state.settings.rule == "drift-index":
        return True
    projection = project(np.log(values), min(remaining, FARTHEST_LOOK * len(values)))
    lower, upper = projection.interval(MIDDLE_HALF)
    estimate, tolerance = _last_quarter(values, window), state.settings.tolerance
    return lower > estimate * math.exp(tolerance) or upper < estimate * math.exp(-tolerance)


def _rate_exceeds_tolerance(state: DetectorState, trend: DriftIndex) -> bool:
    """Whether rate times horizon exceeds the tolerance at the stated confidence."""
    settings = state.settings
    if trend.lower <= settings.tolerance:
        return False
    margin = trend.upper - trend.drift_index
    if settings.rule == "drift-index" or margin <= settings.tolerance:
        return True
    # Over so far a horizon that even a flat series could not pass, `lower` exceeds the tolerance as
    # soon as a slope is significant, which noise alone brings about in up to 30% of flat series.
    doubt = (1 - settings.confidence) * DOUBT_BEYOND_REACH
    return drift_index(trend.fit, state.horizon, 1 - doubt).lower > settings.tolerance


def _last_quarter(values: FloatArray, window: int) -> float:
    """Mean of V over the last quarter of the window."""
    return float(values[-max(1, window // 4) :].mean())


def _standard_error(estimate: float, fit: TrendFit) -> float:
    """Of the mean over the last quarter of the window."""
    batches_in_quarter = max(1, fit.window // 4) * fit.batches / fit.window
    return estimate * fit.noise / math.sqrt(batches_in_quarter)
