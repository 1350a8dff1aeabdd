"""How long a probe may train, and what it says when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException

from lightning_init.probe.fingerprints import Fingerprint

# Share of `Trainer(max_time=...)` that a probe may take: the run's own time is not shortened.
SHARE_OF_MAX_TIME = 0.1


class ProbeRefused(MisconfigurationException):
    """A probe that cannot be made, or whose outcome cannot be used; every rank says the same."""


class ProbeEnd(Enum):
    """Why a probe ended."""

    STOPPED = "whoever watched it had seen enough"
    BUDGET = "the probe's budget of optimizer steps was spent"
    TIME_LIMIT = "the probe's share of Trainer(max_time=...) was spent"
    INTERRUPTED = "the user interrupted it"
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
        verify_steps: Steps of the probe that are run once more afterwards, to see that everything
            was put back.
    """

    max_steps: int | float
    learning_rate: Literal["peak", "schedule"] | float = "peak"
    isolate_dataset: bool = False
    dataloaders: Any = None
    verify_steps: int = 0

    def most_steps(self, planned_steps: float) -> int:
        """Most optimizer steps in a run of so many planned steps; 0 for a share of no end."""
        if isinstance(self.max_steps, int):
            return self.max_steps
        if planned_steps == float("inf"):
            return 0
        return max(1, int(self.max_steps * planned_steps)) if self.max_steps else 0


@dataclass(frozen=True)
class Replay:
    """What came of running the first steps of a probe once more.

    Args:
        sentence: What was found, for the report.
        warning: What differed and the way out; empty where nothing did.
    """

    sentence: str = ""
    warning: str = ""


@dataclass(frozen=True)
class ProbeRun:
    """What a probe did.

    Args:
        end: Why it stopped.
        steps: Optimizer steps that it took.
        planned_steps: Optimizer steps that the real run plans (``inf`` when it has no end).
        seconds: Wall time, without the replay.
        replay: What the replay found.
        batches: Fingerprints of the batches that the real run should begin with; empty where it
            draws others. None stands for a batch that is not looked at.
        note: What the reader of the outcome should know about the probe, or nothing.
    """

    end: ProbeEnd
    steps: int
    planned_steps: float
    seconds: float
    replay: Replay = Replay()
    batches: tuple[Fingerprint | None, ...] = field(default=(), compare=False, repr=False)
    note: str = ""
