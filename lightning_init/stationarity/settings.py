"""The detector's settings, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lightning_init.stationarity.drift import FITTED_COEFFICIENTS

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

    Raises:
        ValueError: If an argument is outside its range.
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

    def __post_init__(self) -> None:
        fewest_batches = FITTED_COEFFICIENTS + 1
        self._require("tolerance", 0 < self.tolerance < float("inf"), "positive and finite")
        self._require("confidence", 0.5 <= self.confidence < 1, "in [0.5, 1)")
        self._require("persistence", self.persistence >= 1, "at least 1")
        self._require("minimum_fraction", 0 <= self.minimum_fraction <= 1, "in [0, 1]")
        self._require("window_fraction", 0 < self.window_fraction <= 1, "in (0, 1]")
        self._require("batches", self.batches >= fewest_batches, f"at least {fewest_batches}")
        self._require("check_growth", 1 < self.check_growth < float("inf"), "above 1 and finite")
        self._require("rule", self.rule in get_args(Rule), f"one of {get_args(Rule)}")
        self._require(
            "minimum_samples",
            self.minimum_samples >= self.batches / self.window_fraction,
            f"at least `batches` / `window_fraction` = {self.batches / self.window_fraction:g}",
        )

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            value, default = getattr(self, name), getattr(type(self), name)
            raise ValueError(
                f"`{name}` must be {allowed}, got {value!r}; the default is {default!r}."
            )
