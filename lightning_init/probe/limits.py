"""How long a probe may train, and what it says when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal


class ProbeEnd(Enum):
    """Why a probe ended."""

    STOPPED = "whoever watched it had seen enough"
    BUDGET = "the probe's budget of optimizer steps was spent"
    RUN_LIMIT = "the run's own limit (max_epochs, max_steps or the data) came before the budget"


@dataclass(frozen=True)
class ProbeLimits:
    """How long a probe may train, and with which learning rate.

    Args:
        max_steps: Most optimizer steps: a number, or a float for a share of the planned steps.
        learning_rate: "peak" for the largest that the planned run will use, per parameter group;
            "schedule" for what the user's schedulers make of it (those that wait for a validation
            metric stay still, because a probe does not validate); or a number for every group.
        isolate_dataset: Let the probe read a deep copy of the data, for datasets that count calls.
        dataloaders: Loaders for the probe in place of the run's own, for data that can be read
            only once.
    """

    max_steps: int | float
    learning_rate: Literal["peak", "schedule"] | float = "peak"
    isolate_dataset: bool = False
    dataloaders: Any = None

    def most_steps(self, planned_steps: float) -> int:
        """Most optimizer steps in a run of so many planned steps; 0 for a share of no end."""
        if isinstance(self.max_steps, int):
            return self.max_steps
        if planned_steps == float("inf"):
            return 0
        return max(1, int(self.max_steps * planned_steps)) if self.max_steps else 0


@dataclass(frozen=True)
class ProbeRun:
    """What a probe did.

    Args:
        end: Why it stopped.
        steps: Optimizer steps that it took.
        planned_steps: Optimizer steps that the real run plans (``inf`` when it has no end).
        seconds: Wall time.
    """

    end: ProbeEnd
    steps: int
    planned_steps: float
    seconds: float
