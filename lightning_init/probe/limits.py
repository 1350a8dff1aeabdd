"""How long a probe may train, and what it says when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class ProbeEnd(Enum):
    """Why a probe ended."""

    SETTLED = "every monitored layer had settled"
    BUDGET = "the probe's budget of optimizer steps was spent"
    RUN_LIMIT = "the run's own limit (max_epochs, max_steps or the data) came before the budget"


@dataclass(frozen=True)
class ProbeLimits:
    """How long a probe may train, and with which learning rate.

    Args:
        max_steps: Most optimizer steps.
        learning_rate: Learning rate of every parameter group, or ``None`` for what the optimizers
            hold when the run starts (the schedule's first value).
        keep_schedule: Step the user's learning-rate schedulers during the probe. Schedulers that
            wait for a validation metric stay still, because a probe does not validate.
        isolate_dataset: Let the probe read a deep copy of the data, for datasets that count calls.
        dataloaders: Loaders for the probe in place of the run's own, for data that can be read
            only once.
    """

    max_steps: int
    learning_rate: float | None = None
    keep_schedule: bool = False
    isolate_dataset: bool = False
    dataloaders: Any = None


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
