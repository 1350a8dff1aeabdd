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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from lightning_init.stationarity.buffer import AppendOnlySeries
from lightning_init.stationarity.drift import (
    DriftIndex,
    FloatArray,
    drift_index,
    fit_trend,
    window_length,
)
from lightning_init.stationarity.settings import DetectorSettings


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
        verdict: What the samples say now. A series that fired and is now seen to move by more than
            the tolerance is `drifting` again.
        drift_index: |d log V / dt| times the horizon; nan before enough samples.
        lower: Lower confidence limit of `drift_index`; nan before enough samples.
        upper: Upper confidence limit of `drift_index`; nan before enough samples.
        fired_at: Samples at which the series was first found stationary, or None.
        estimate: V, the mean of the last quarter of the window; of all samples while there are
            too few for a window; nan without valid samples.
        standard_error: Of `estimate`, allowing for autocorrelation; nan before enough samples.
        samples: Samples seen since the start or the last reset.
    """

    verdict: Verdict
    drift_index: float
    lower: float
    upper: float
    fired_at: int | None
    estimate: float
    standard_error: float
    samples: int


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
    first_check = max(settings.minimum_samples, settings.minimum_fraction * min(horizon, planned))
    return DetectorState(
        settings=settings,
        horizon=max(horizon, planned),
        budget=planned,
        series=AppendOnlySeries(),
        next_check=math.floor(first_check),
    )


def reset(state: DetectorState) -> DetectorState:
    """Begin again for the samples that remain, after the learning rate changed.

    V is proportional to the learning rate at a steady state, so samples from before a change say
    nothing about V after it.
    """
    remaining = max(1.0, state.budget - state.series.length)
    return start(state.settings, state.horizon, min(remaining, state.horizon))


def update(state: DetectorState, value: float) -> DetectorState:
    """Take one more variance into account; `state` itself is unchanged."""
    if not (math.isfinite(value) and value > 0):
        return replace(state, broken=True, fired_at=None)
    state = replace(state, series=state.series.append(value))
    if state.series.length < state.next_check or state.broken:
        return state
    return _check(state)


def decide(state: DetectorState) -> Decision:
    """What the samples so far say."""
    values = state.series.values
    trend = None if state.broken else _trend(state)
    if trend is None:
        return Decision(
            verdict=Verdict.INVALID if state.broken else Verdict.INCONCLUSIVE,
            drift_index=math.nan,
            lower=math.nan,
            upper=math.nan,
            fired_at=None,
            estimate=float(values.mean()) if len(values) and not state.broken else math.nan,
            standard_error=math.nan,
            samples=len(values),
        )
    estimate, standard_error = _last_quarter(values, trend)
    return Decision(
        verdict=_verdict(state, trend),
        drift_index=trend.drift_index,
        lower=trend.lower,
        upper=trend.upper,
        fired_at=state.fired_at,
        estimate=estimate,
        standard_error=standard_error,
        samples=len(values),
    )


def _verdict(state: DetectorState, trend: DriftIndex) -> Verdict:
    if trend.lower > state.settings.tolerance:
        return Verdict.DRIFTING
    return Verdict.INCONCLUSIVE if state.fired_at is None else Verdict.STATIONARY


def _check(state: DetectorState) -> DetectorState:
    trend = _trend(state)
    passed = trend is not None and trend.upper <= state.settings.tolerance
    passes = state.passes + 1 if passed else 0
    fired_at = state.fired_at
    if fired_at is None and passes >= state.settings.persistence:
        fired_at = state.series.length
    next_check = state.next_check
    while next_check <= state.series.length:
        next_check *= state.settings.check_growth
    return replace(state, passes=passes, fired_at=fired_at, next_check=next_check)


def _trend(state: DetectorState) -> DriftIndex | None:
    """Drift index of the window that ends at the newest sample, or None with too few samples."""
    settings, values = state.settings, state.series.values
    if len(values) < settings.minimum_samples:
        return None
    window = window_length(len(values), settings.window_fraction, settings.batches)
    fit = fit_trend(np.log(values[-window:]), settings.batches)
    return drift_index(fit, state.horizon, settings.confidence)


def _last_quarter(values: FloatArray, trend: DriftIndex) -> tuple[float, float]:
    """Mean of V over the last quarter of the window, and its standard error."""
    fit = trend.fit
    quarter = fit.window // 4
    estimate = float(values[-quarter:].mean())
    batches_in_quarter = quarter * fit.batches / fit.window
    return estimate, estimate * fit.noise / math.sqrt(batches_in_quarter)


def _require_length(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"`{name}` must be a positive number of samples, got {value!r}; "
            "give the planned steps divided by the steps between samples."
        )


@dataclass(frozen=True)
class Detection(Decision):
    """A decision on a whole series."""


def detect(
    series: Sequence[float] | FloatArray,
    horizon: float | None = None,
    settings: DetectorSettings | None = None,
) -> Decision:
    """Placeholder to be finished."""
    values = np.asarray(series, dtype=np.float64).ravel()
    state = start(settings or DetectorSettings(), horizon or max(len(values), 1))
    for value in values.tolist():
        state = update(state, value)
    return decide(state)
