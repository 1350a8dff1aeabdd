"""The settings of a probe and of what is done with V."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_init.probe import ProbeLimits
from lightning_init.reporting.records import UNCHANGED_LOG_RATIO
from lightning_init.search.failures import OnProbeFailure
from lightning_init.stationarity import DetectorSettings

OnUnsettled = Literal["use", "keep", "raise", "project"]
ProbeRate = Literal["peak", "schedule"]
Draw = Literal["normal", "scale"]
Granularity = Literal["layer", "global", "gain"]
Moment = Literal["central", "raw"]

# One sample every 18 steps costs about .5 % of the training of a small network (tests/benchmarks),
# and from 250 samples on more tell little. A verdict takes 47 at least, and the series of a short
# probe needs room to begin again.
DEFAULT_INTERVAL = 18
FEWEST_SAMPLES, MOST_SAMPLES = 55, 250
SHORT_PROBE, FEWEST_OF_SHORT = 800, 70


@dataclass(frozen=True)
class OptimalVarianceSettings:
    """What `OptimalVarianceInit` was asked to do; its docstring explains each field."""

    limits: ProbeLimits
    detector: DetectorSettings = field(default_factory=DetectorSettings)
    on_unsettled: OnUnsettled = "keep"
    horizon: Literal["run", "probe"] | int = "run"
    sample_every_n_steps: int | None = None
    granularity: Granularity = "layer"
    moment: Moment = "central"
    draw: Draw = "normal"
    rounds: int = 1
    forgetting: bool = False
    guard_steps: int = 0
    on_probe_failure: OnProbeFailure = "skip"

    def __post_init__(self) -> None:
        if self.guard_steps == 1:
            raise ValueError("`guard_steps` must be 0 (no guard) or at least 2, got 1.")

    def budget(self, planned_steps: float) -> int:
        """Most optimizer steps of a probe in a run of so many planned steps."""
        return int(min(self.limits.most_steps(planned_steps), max(1.0, planned_steps)))

    def horizon_steps(self, planned_steps: float) -> float:
        """Optimizer steps over which V must stay put."""
        if not isinstance(self.horizon, str):
            return float(self.horizon)
        # A run without end is judged over the probe itself.
        endless = self.horizon == "probe" or math.isinf(planned_steps)
        return float(self.limits.most_steps(planned_steps)) if endless else planned_steps

    @property
    def futile_ends(self) -> bool:
        """Whether a layer that will not settle gets the same however long it is watched."""
        return self.on_unsettled != "use"

    @property
    def redrawn_from(self) -> float:
        """|log(V / initial)| below which a layer keeps its weights whatever the verdict, or 0."""
        is_kept = self.on_unsettled == "keep" and self.granularity == "layer"
        return UNCHANGED_LOG_RATIO if is_kept else 0.0

    def interval(self, budget: int) -> int:
        """Optimizer steps between two samples."""
        if self.sample_every_n_steps is not None:
            return min(self.sample_every_n_steps, budget)
        cheap = max(DEFAULT_INTERVAL, budget // MOST_SAMPLES)
        fewest = FEWEST_OF_SHORT if budget < SHORT_PROBE else FEWEST_SAMPLES
        return max(1, min(cheap, budget // fewest))

    def pairs(self) -> tuple[tuple[str, Any], ...]:
        """Names and values for the report."""
        return (
            ("max_probe_steps", self.limits.max_steps),
            ("on_unsettled", self.on_unsettled),
            ("tolerance", self.detector.tolerance),
            ("horizon", self.horizon),
            ("granularity", self.granularity),
            ("moment", self.moment),
            ("draw", self.draw),
            ("rounds", self.rounds),
            ("forgetting", self.forgetting),
            ("guard_steps", self.guard_steps),
            ("probe_lr", self.limits.learning_rate),
            ("verify_steps", self.limits.verify_steps),
        )
