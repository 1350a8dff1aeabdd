"""What the detector counts as stationary, and when it looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rule = Literal["steady-end", "drift-index"]


@dataclass(frozen=True)
class DetectorSettings:
    """What counts as stationary, and when it is looked for.

    Args:
        tolerance: Largest relative change of V over the horizon that counts as none. The default
            0.10 costs at most 0.0025 nat per weight in KL(N(0, V) || N(0, sigma0^2)).
        confidence: One-sided confidence level of the drift index's limits.
        persistence: Consecutive checks that must pass before the verdict is `stationary`.
        minimum_samples: No check before this many samples.
        minimum_fraction: No check before this fraction of the samples that will come.
        window_fraction: Last fraction of the samples that a check looks at.
        batches: Batch means per window.
        check_growth: Factor by which the samples grow between two checks.
        rule: What a check asks. "drift-index": is the upper limit of the drift index within the
            tolerance? "steady-end": that, and is the rate at the end of the series, read from the
            window or from a longer one, within it too? The second question tells a turning point
            from a steady state.
    """

    tolerance: float = 0.10
    confidence: float = 0.95
    persistence: int = 4
    minimum_samples: int = 40
    minimum_fraction: float = 0.1
    window_fraction: float = 0.5
    batches: int = 10
    check_growth: float = 1.05
    rule: Rule = "steady-end"

    @property
    def trend_samples(self) -> float:
        """Samples from which a trend can be fitted: one for each batch of the window."""
        return self.batches / self.window_fraction
