"""The settings of a probe and of what is done with V, checked once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_init.probe import ProbeLimits
from lightning_init.search.failures import OnProbeFailure
from lightning_init.stationarity import DetectorSettings

OnUnsettled = Literal["use", "keep", "raise", "project"]
Granularity = Literal["layer", "global", "gain"]
Moment = Literal["central", "raw"]

# Between rounds a wild V would make the next probe start from wild weights.
LARGEST_CHANGE_BETWEEN_ROUNDS = 16.0
# One sample every twelve steps costs less than 1 % of the training (tests/benchmarks), and from 250
# samples on more tell little. Below 80 the detector's batches, ten in half the series, would hold
# fewer than four samples each.
DEFAULT_INTERVAL = 12
FEWEST_SAMPLES, MOST_SAMPLES = 80, 250


@dataclass(frozen=True)
class OptimalVarianceSettings:
    """What `OptimalVarianceInit` was asked to do; its docstring explains each field.

    Raises:
        ValueError: If a field is outside its range.
    """

    limits: ProbeLimits
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    on_unsettled: OnUnsettled = "use"
    horizon: Literal["run", "probe"] | int = "run"
    sample_every_n_steps: int | None = None
    granularity: Granularity = "layer"
    moment: Moment = "central"
    largest_change: float | None = None
    rounds: int = 1
    forgetting: bool = False
    guard_steps: int = 0
    on_probe_failure: OnProbeFailure = "skip"

    def __post_init__(self) -> None:
        _at_least("max_probe_steps", self.limits.max_steps, 1)
        _one_of("on_unsettled", self.on_unsettled, ("use", "keep", "project", "raise"))
        _one_of("on_probe_failure", self.on_probe_failure, ("skip", "raise"))
        _one_of("granularity", self.granularity, ("layer", "global", "gain"))
        _one_of("moment", self.moment, ("central", "raw"))
        if isinstance(self.horizon, str):
            _one_of("horizon", self.horizon, ("run", "probe"))
        else:
            _at_least("horizon", self.horizon, 1)
        if self.sample_every_n_steps is not None:
            _at_least("sample_every_n_steps", self.sample_every_n_steps, 1)
        if self.largest_change is not None and not self.largest_change > 1:
            raise ValueError(f"`largest_change` must be above 1, got {self.largest_change!r}.")
        if self.limits.learning_rate is not None and not self.limits.learning_rate > 0:
            raise ValueError(f"`probe_lr` must be above 0, got {self.limits.learning_rate!r}.")
        _at_least("rounds", self.rounds, 1)
        _at_least("guard_steps", self.guard_steps, 0)
        _at_least("verify_steps", self.limits.verify_steps, 0)
        if self.guard_steps == 1:
            raise ValueError("`guard_steps` must be 0 (no guard) or at least 2, got 1.")

    @property
    def change_limit(self) -> float:
        """Largest factor by which one round may change a layer's variance."""
        if self.largest_change is not None:
            return self.largest_change
        return LARGEST_CHANGE_BETWEEN_ROUNDS if self.rounds > 1 else math.inf

    def budget(self, planned_steps: float) -> int:
        """Most optimizer steps of a probe in a run of so many planned steps."""
        return int(min(self.limits.max_steps, max(1.0, planned_steps)))

    def horizon_steps(self, planned_steps: float) -> float:
        """Optimizer steps over which V must stay put."""
        if not isinstance(self.horizon, str):
            return float(self.horizon)
        # A run without end is judged over the probe itself.
        endless = self.horizon == "probe" or math.isinf(planned_steps)
        return float(self.limits.max_steps) if endless else planned_steps

    def interval(self, budget: int) -> int:
        """Optimizer steps between two samples."""
        if self.sample_every_n_steps is not None:
            return min(self.sample_every_n_steps, budget)
        cheap = max(DEFAULT_INTERVAL, budget // MOST_SAMPLES)
        return max(1, min(cheap, budget // FEWEST_SAMPLES))

    def pairs(self) -> tuple[tuple[str, Any], ...]:
        """Names and values for the report."""
        return (
            ("max_probe_steps", self.limits.max_steps),
            ("on_unsettled", self.on_unsettled),
            ("tolerance", self.detector.tolerance),
            ("confidence", self.detector.confidence),
            ("persistence", self.detector.persistence),
            ("horizon", self.horizon),
            ("granularity", self.granularity),
            ("moment", self.moment),
            ("largest_change", self.largest_change),
            ("rounds", self.rounds),
            ("forgetting", self.forgetting),
            ("guard_steps", self.guard_steps),
            ("probe_lr", self.limits.learning_rate),
            ("keep_schedule", self.limits.keep_schedule),
            ("verify_steps", self.limits.verify_steps),
        )


def _at_least(name: str, value: int, smallest: int) -> None:
    if value < smallest:
        raise ValueError(f"`{name}` must be at least {smallest}, got {value!r}.")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")
