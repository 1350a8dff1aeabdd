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
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain

import numpy as np

from lightning_init.stationarity.buffer import AppendOnlySeries
from lightning_init.stationarity.drift import (
    DriftIndex,
    FloatArray,
    TrendFit,
    drift_index,
    end_drift_index,
    fit_trend,
    window_length,
)
from lightning_init.stationarity.projection import project
from lightning_init.stationarity.settings import DetectorSettings

# Lengths of the windows, beside the settings' own, from which the rate at the end may be read: a
# longer one is less noisy, a shorter one less bent by an initial transient.
LONGER_WINDOW_FRACTIONS = (0.6, 0.7, 0.8, 0.9)
# With this level a quarter of a standard error is added to the rate at the end: enough to keep
# turning points out, little enough to leave the power on stationary and relaxing series as it was.
END_RATE_CONFIDENCE = 0.60
# Share of the usual error probability left for `drifting` where `stationary` is out of reach.
DOUBT_BEYOND_REACH = 0.1


class Verdict(Enum):
    """What the samples so far say about a layer's variance."""

    STATIONARY = "stationary"
    DRIFTING = "drifting"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"

    @property
    def sentence(self) -> str:
        """What was found and what to do next, as a full sentence."""
        return _SENTENCES[self]


_SENTENCES = {
    Verdict.STATIONARY: (
        "The variance will stay within the tolerance over the horizon; use it as the initial "
        "variance."
    ),
    Verdict.DRIFTING: (
        "The variance is still moving by more than the tolerance over the horizon; train the probe "
        "for longer, or add weight decay if it grows without end."
    ),
    Verdict.INCONCLUSIVE: (
        "The samples are too few or too noisy to tell a drift from none; train the probe for "
        "longer, average more weights per sample, or raise the tolerance."
    ),
    Verdict.INVALID: (
        "The variance was zero, negative or not finite; lower the learning rate, or look for a "
        "layer whose weights have collapsed or diverged."
    ),
}


@dataclass(frozen=True)
class DetectorState:
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
    """

    settings: DetectorSettings
    horizon: float
    budget: float
    series: AppendOnlySeries
    next_check: float
    passes: int = 0
    fired_at: int | None = None
    broken: bool = False


@dataclass(frozen=True)
class Decision:
    """The detector's answer after some number of samples.

    Attributes:
        verdict: What the samples say.
        samples: Samples since the start or the last reset, without those that were not valid.
        fired_at: Samples at which the series was first found stationary, or None.
        estimate: V, the mean of the last quarter of the window; of all samples while there are
            too few for a window; nan without valid samples.
        standard_error: Of `estimate`, allowing for autocorrelation.
        drift_index: |d log V / dt| times the horizon.
        lower: Lower confidence limit of `drift_index`.
        upper: Upper confidence limit of `drift_index`.
        projected: V at the end of the horizon, if things go on as they do.
        projected_lower: Lower end of the nominal 90% interval of `projected`.
        projected_upper: Upper end of the nominal 90% interval of `projected`.

    All but the first three are nan where there are too few samples, or invalid ones, to say.
    """

    verdict: Verdict
    samples: int
    fired_at: int | None = None
    estimate: float = math.nan
    standard_error: float = math.nan
    drift_index: float = math.nan
    lower: float = math.nan
    upper: float = math.nan
    projected: float = math.nan
    projected_lower: float = math.nan
    projected_upper: float = math.nan


def start(settings: DetectorSettings, horizon: float, budget: float | None = None) -> DetectorState:
    """Begin a series.

    Args:
        settings: What counts as stationary.
        horizon: Samples over which V must stay put: the planned length of the real run, in
            samples. A horizon below the budget is raised to it.
        budget: Samples that the probe will take at most; None for as many as the horizon.

    Raises:
        ValueError: If `horizon` or `budget` is not positive and finite.
    """
    _require_length("horizon", horizon)
    planned = horizon if budget is None else budget
    _require_length("budget", planned)
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
        return replace(state, broken=True, fired_at=None)
    # The constructor is five times as fast as dataclasses.replace, and this runs for every sample.
    state = DetectorState(
        settings=state.settings,
        horizon=state.horizon,
        budget=state.budget,
        series=state.series.append(value),
        next_check=state.next_check,
        passes=state.passes,
        fired_at=state.fired_at,
    )
    return state if state.series.length < state.next_check else _check(state)


def decide(state: DetectorState) -> Decision:
    """What the samples say now.

    A series that fired and is now seen to move by more than the tolerance is `drifting` again; its
    `fired_at` stays.
    """
    values = state.series.values
    if state.broken:
        return Decision(Verdict.INVALID, len(values))
    if len(values) < state.settings.minimum_samples:
        mean = float(values.mean()) if len(values) else math.nan
        return Decision(Verdict.INCONCLUSIVE, len(values), estimate=mean)
    trend = _trend(state)
    estimate, standard_error = _last_quarter(values, trend.fit)
    projection = project(trend.fit, max(0.0, state.horizon - len(values)))
    return Decision(
        verdict=_verdict(state, trend),
        samples=len(values),
        fired_at=state.fired_at,
        estimate=estimate,
        standard_error=standard_error,
        drift_index=trend.drift_index,
        lower=trend.lower,
        upper=trend.upper,
        projected=projection.value,
        projected_lower=projection.lower,
        projected_upper=projection.upper,
    )


def _check(state: DetectorState) -> DetectorState:
    passes = state.passes + 1 if _passes(state) else 0
    fired_at = state.fired_at
    if fired_at is None and passes >= state.settings.persistence:
        fired_at = state.series.length
    next_check = state.next_check
    while next_check <= state.series.length:
        next_check *= state.settings.check_growth
    return replace(state, passes=passes, fired_at=fired_at, next_check=next_check)


def _passes(state: DetectorState) -> bool:
    trend = _trend(state)
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
    """Drift index of the window that ends at the newest sample."""
    fit = _fit(state, state.settings.window_fraction)
    return drift_index(fit, state.horizon, state.settings.confidence)


def _fit(state: DetectorState, fraction: float) -> TrendFit:
    batches = state.settings.batches
    window = window_length(state.series.length, fraction, batches)
    return fit_trend(np.log(state.series.values[-window:]), batches)


def _verdict(state: DetectorState, trend: DriftIndex) -> Verdict:
    if _surely_drifting(state, trend):
        return Verdict.DRIFTING
    return Verdict.INCONCLUSIVE if state.fired_at is None else Verdict.STATIONARY


def _surely_drifting(state: DetectorState, trend: DriftIndex) -> bool:
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


def _last_quarter(values: FloatArray, fit: TrendFit) -> tuple[float, float]:
    """Mean of V over the last quarter of the window, and its standard error."""
    quarter = max(1, fit.window // 4)
    estimate = float(values[-quarter:].mean())
    batches_in_quarter = quarter * fit.batches / fit.window
    return estimate, estimate * fit.noise / math.sqrt(batches_in_quarter)


def _require_length(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"`{name}` must be a positive number of samples, got {value!r}; "
            "give the planned steps divided by the steps between samples."
        )
