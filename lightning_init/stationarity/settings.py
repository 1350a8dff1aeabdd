"""The detector's settings, checked once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lightning_init.stationarity.drift import FITTED_COEFFICIENTS

Rule = Literal["drift-index"]


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
        rule: Name of the rule a check applies.

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
    rule: Rule = "drift-index"

    def __post_init__(self) -> None:
        needed_batches = FITTED_COEFFICIENTS + 1
        _require("tolerance", self.tolerance, self.tolerance > 0, "above 0", "use 0.10")
        _require(
            "confidence", self.confidence, 0.5 <= self.confidence < 1, "in [0.5, 1)", "use 0.95"
        )
        _require("persistence", self.persistence, self.persistence >= 1, "at least 1", "use 4")
        _require(
            "minimum_fraction",
            self.minimum_fraction,
            0 <= self.minimum_fraction <= 1,
            "in [0, 1]",
            "use 0.1",
        )
        _require(
            "window_fraction",
            self.window_fraction,
            0 < self.window_fraction <= 1,
            "in (0, 1]",
            "use 0.5",
        )
        _require("batches", self.batches, self.batches >= needed_batches, "at least 4", "use 10")
        _require("check_growth", self.check_growth, self.check_growth > 1, "above 1", "use 1.05")
        _require("rule", self.rule, self.rule in get_args(Rule), f"one of {get_args(Rule)}", "")
        _require(
            "minimum_samples",
            self.minimum_samples,
            self.minimum_samples * self.window_fraction >= self.batches,
            f"at least {self.batches / self.window_fraction:g} (one sample per batch)",
            "use 40",
        )


def _require(name: str, value: object, holds: bool, allowed: str, way_out: str) -> None:
    if not holds:
        raise ValueError(f"`{name}` must be {allowed}, got {value!r}; {way_out}.")
