"""What the detector answers: a verdict in words, and the figures behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


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
        "The variance is expected to move by more than the tolerance over the horizon; train the "
        "probe for longer, or add weight decay if it grows without end."
    ),
    Verdict.INCONCLUSIVE: (
        "The samples do not tell whether the variance has settled, or will without moving much; "
        "train the probe for longer, average more weights per sample, or raise the tolerance."
    ),
    Verdict.INVALID: (
        "The variance was zero, negative or not finite; lower the learning rate, or look for a "
        "layer whose weights have collapsed or diverged."
    ),
}


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
