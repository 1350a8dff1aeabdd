"""What a whole run says about a layer's variance, once it is over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lightning_init.stationarity.decision import Verdict
from lightning_init.stationarity.drift import drift_index, fit_trend, window_length

BATCHES = 10
LAST_PART = 0.5
# The last samples of a run are averaged, as those of a probe are.
END_PART = 0.125
# A verdict about what was still to come is right when V moved by no more than so many tolerances,
# or by no less: the sampling error of either end lies in between.
STILL_STATIONARY, STILL_DRIFTING = 1.2, 0.8


class RunVerdict(NamedTuple):
    """How V of one layer behaved over the last half of a run.

    Attributes:
        verdict: `stationary` if its drift over that half is within the tolerance with confidence,
            `drifting` if it is outside with confidence, else `inconclusive`; `invalid` for values
            that are not finite and positive.
        variance: Mean of V over the last eighth of the samples; nan without samples.
        change: V at the end over V in the middle, minus 1; nan with fewer than two samples.
    """

    verdict: Verdict
    variance: float
    change: float


def run_verdict(
    variances: Sequence[float], tolerance: float = 0.10, confidence: float = 0.95
) -> RunVerdict:
    """Judge a run by the last half of its samples.

    Args:
        variances: V at evenly spaced optimizer steps of the whole run, shape (samples,).
        tolerance: Largest relative change over that half that counts as none.
        confidence: One-sided level of the limits of the drift index.

    Example:
        >>> settled = run_verdict([1 + 2.0 ** (-step / 10) for step in range(200)])
        >>> settled.verdict.value, round(settled.variance, 3), round(settled.change, 3)
        ('stationary', 1.0, -0.001)
        >>> run_verdict([1.002**step for step in range(200)]).verdict.value
        'drifting'
    """
    values = np.asarray(variances, dtype=np.float64)
    if not len(values):
        return RunVerdict(Verdict.INCONCLUSIVE, math.nan, math.nan)
    if not (np.isfinite(values).all() and (values > 0).all()):
        return RunVerdict(Verdict.INVALID, math.nan, math.nan)
    end = float(values[-max(1, int(len(values) * END_PART)) :].mean())
    change = end / float(values[len(values) // 2]) - 1 if len(values) > 1 else math.nan
    window = window_length(len(values), LAST_PART, BATCHES)
    if window < 2 * BATCHES:
        return RunVerdict(Verdict.INCONCLUSIVE, end, change)
    drift = drift_index(fit_trend(np.log(values[-window:]), BATCHES), window, confidence)
    verdict = Verdict.INCONCLUSIVE
    if drift.upper <= tolerance:
        verdict = Verdict.STATIONARY
    elif drift.lower > tolerance:
        verdict = Verdict.DRIFTING
    return RunVerdict(verdict, end, change)


def was_right(
    verdict: Verdict, said: float, variance: float, tolerance: float = 0.10
) -> bool | None:
    """Whether a verdict of a probe held in the run that followed; None if it claimed nothing.

    Args:
        verdict: What the probe said of the layer.
        said: V at the end of the probe.
        variance: V at the end of the run.
        tolerance: Of the probe: `stationary` allows 1.2 of it, `drifting` asks for 0.8 of it.

    Example:
        >>> was_right(Verdict.STATIONARY, 1.0, 1.05), was_right(Verdict.DRIFTING, 1.0, 1.05)
        (True, False)
    """
    known = 0 < said < math.inf and 0 < variance < math.inf
    if not known:
        return None
    moved = abs(math.log(variance / said))
    if verdict is Verdict.STATIONARY:
        return moved <= STILL_STATIONARY * tolerance
    if verdict is Verdict.DRIFTING:
        return moved >= STILL_DRIFTING * tolerance
    return None
