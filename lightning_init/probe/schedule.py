"""What a run's schedulers will do, foreseen by stepping copies of them without training.

Each optimizer gets a stand-in with the same parameter groups and one small tensor in each; deep
copies of the schedulers move the stand-ins through the planned steps, as Lightning's loop would:
by interval and frequency, per batch or per epoch, with gradient accumulation. Long runs are looked
at every few steps where a scheduler can be asked for any step, and else for `LONGEST_SECONDS`.
"""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import lr_scheduler as schedulers

LONGEST_SECONDS = 0.8
# Largest share of a probe in which it climbs: a tenth left one falling V 15.6 % low, this 10.4 %.
LONGEST_CLIMB = 0.05
# Beyond so many steps of a scheduler a run is looked at every few steps, if that is possible.
MOST_LOOKS = 10_000
# These answer for any step, because they compute from the number of the step alone.
_ANY_STEP = (
    schedulers.LambdaLR,
    schedulers.OneCycleLR,
    schedulers.CyclicLR,
    schedulers.CosineAnnealingWarmRestarts,
)

Values = dict[str, float]


@dataclass(frozen=True)
class StepPlan:
    """How a run's batches make optimizer steps and epochs.

    Args:
        steps: Planned optimizer steps, inf without a planned end.
        batches_per_epoch: Batches of one epoch, inf if unknown.
        accumulate: Batches that make one optimizer step.
    """

    steps: float
    batches_per_epoch: float = math.inf
    accumulate: int = 1

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps of one epoch; the last one may have fewer batches."""
        steps = self.batches_per_epoch / self.accumulate
        return math.ceil(steps) if math.isfinite(steps) else math.inf


@dataclass(frozen=True)
class ForeseenGroup:
    """Learning rate and weight decay of one parameter group through the planned run.

    Args:
        starts: Optimizer steps from which each pair of values holds, increasing from 0.
        rates: Learning rates, one per start.
        decays: Weight decays, one per start.
        at_peak: Every other number that a scheduler moves, as it is at the largest rate.
        decay_factor: Weight that `rate * decay` multiplies in one step, over `rate * decay`:
            1 where decay is decoupled, 1 / (1 - momentum) for SGD, nan where it is not known.
    """

    starts: NDArray[np.int64]
    rates: NDArray[np.float64]
    decays: NDArray[np.float64]
    at_peak: tuple[tuple[str, Any], ...] = ()
    decay_factor: float = 1.0

    @property
    def peak_rate(self) -> float:
        """Largest learning rate of the run."""
        return float(self.rates.max())

    @property
    def peak_step(self) -> int:
        """First optimizer step at which the largest rate, or a millionth less, is used."""
        near = self.rates >= self.rates.max() * (1 - 1e-6)
        return int(self.starts[int(np.argmax(near))])

    @property
    def peak_decay(self) -> float:
        """Largest weight decay of the run."""
        return float(self.decays.max())

    def at(self, step: float) -> tuple[float, float]:
        """Learning rate and weight decay that the run uses in one optimizer step."""
        row = max(0, int(np.searchsorted(self.starts, step, side="right")) - 1)
        return float(self.rates[row]), float(self.decays[row])

    def decay_sum(self, steps: float) -> float:
        """Sum of rate times decay over the planned run; nan where it is not known."""
        products = self.rates * self.decays
        if not products.any():
            return 0.0
        if not math.isfinite(steps):
            return math.inf if products[-1] > 0 else math.nan
        durations = np.diff(np.append(self.starts, steps)).clip(min=0)
        return self.decay_factor * float(products @ durations)


@dataclass(frozen=True)
class ForeseenRun:
    """What the planned run will use.

    Args:
        planned_steps: Optimizer steps of the run, inf without a planned end.
        groups: One entry per optimizer and parameter group.
        unforeseen: Why the schedule could not be foreseen, as a clause; empty if it was. The
            groups of manual optimization then hold what their schedulers can reach.
        looked_steps: Optimizer steps that were looked at: fewer than planned in a very long run.
    """

    planned_steps: float
    groups: tuple[tuple[ForeseenGroup, ...], ...]
    unforeseen: str = ""
    looked_steps: float = math.inf

    @property
    def is_held(self) -> bool:
        """Whether the module's own code steps its schedulers, nobody knows when."""
        return self.unforeseen.startswith("manual")


def climb_steps(group: ForeseenGroup, budget: int) -> int:
    """Steps in which a probe climbs to a group's peak: the run's, a twentieth at most."""
    return min(group.peak_step, int(budget * LONGEST_CLIMB))


def foresee(
    optimizers: Sequence[Optimizer],
    configs: Sequence[Any],
    plan: StepPlan,
    shared: Sequence[object] = (),
    unforeseen: str = "",
) -> ForeseenRun:
    """Step copies of the schedulers through the planned run.

    Args:
        optimizers: The run's optimizers; not written to.
        configs: Lightning's scheduler configurations; not written to.
        plan: How many steps, and how batches make them.
        shared: What a scheduler may hold and must not be copied: the module, the Trainer.
        unforeseen: Why the module's own code steps its schedulers, once per optimizer step at
            most: what is foreseen then is what they can reach.
    """
    values = [[_numbers(group) for group in one.param_groups] for one in optimizers]
    histories = [[[(0, group)] for group in one] for one in values]
    looked = plan.steps
    manual = bool(unforeseen)
    movable = [config for config in configs if not config.reduce_on_plateau]
    if len(movable) < len(configs):
        unforeseen = unforeseen or "ReduceLROnPlateau waits for what is measured on the way"
    if manual:
        movable = [replace(config, interval="step", frequency=1) for config in movable]
    if movable:
        try:
            looked = _look_ahead(optimizers, movable, plan, shared, histories)
        except Exception as error:  # a user's scheduler may do anything
            if not manual:
                histories = [[[(0, group)] for group in one] for one in values]
                why = f"{type(error).__name__}: {error}"
                unforeseen = f"its schedulers cannot be stepped ahead ({why})"
    groups = tuple(
        tuple(_foreseen(one, *pair) for pair in zip(one.param_groups, history, strict=True))
        for one, history in zip(optimizers, histories, strict=True)
    )
    return ForeseenRun(plan.steps, groups, unforeseen, looked)


def _look_ahead(
    optimizers: Sequence[Optimizer],
    configs: Sequence[Any],
    plan: StepPlan,
    shared: Sequence[object],
    histories: list[list[list[tuple[int, Values]]]],
) -> float:
    """Fill in what each group will hold; the optimizer steps that were looked at."""
    stand_ins = [_stand_in(optimizer) for optimizer in optimizers]
    memo: dict[int, Any] = {id(item): item for item in shared}
    memo |= {id(one): twin for one, twin in zip(optimizers, stand_ins, strict=True)}
    copies = [(config, copy.deepcopy(config.scheduler, memo)) for config in configs]
    # Of this thread's own time: a busy machine must not foresee less.
    deadline = time.thread_time() + LONGEST_SECONDS
    stride = _stride(configs, plan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step, calls in _scheduler_calls(copies, plan, stride):
            for scheduler, count in calls:
                scheduler.step() if stride == 1 else scheduler.step(count)
            for twin, history in zip(stand_ins, histories, strict=True):
                for group, rows in zip(twin.param_groups, history, strict=True):
                    found = _numbers(group)
                    if found != rows[-1][1]:
                        rows.append((step, found))
            if time.thread_time() > deadline:
                return step
    return plan.steps


def _scheduler_calls(
    copies: Sequence[tuple[Any, Any]], plan: StepPlan, stride: int
) -> Iterator[tuple[int, list[tuple[Any, int]]]]:
    """Optimizer steps after which schedulers move, and how often each has moved by then."""
    counts = [0] * len(copies)
    last = MOST_LOOKS if math.isinf(plan.steps) else int(plan.steps)
    # Without a scheduler that moves within an epoch, whole epochs are skipped.
    by_step = any(config.interval == "step" for config, _ in copies)
    pace = stride if by_step else stride * plan.steps_per_epoch
    step = 0
    while step + pace < last:  # what moves after the last step is never used
        step += int(pace)
        found = [_moves_by(config, step, plan) for config, _ in copies]
        calls = [
            (scheduler, now)
            for (_, scheduler), before, now in zip(copies, counts, found, strict=True)
            if now != before
        ]
        counts = found
        if calls:
            yield step, calls


def _moves_by(config: Any, step: int, plan: StepPlan) -> int:
    """How often Lightning has moved a scheduler after so many optimizer steps.

    It counts batches from the start of the epoch, and moves when the frequency divides their number
    at an optimizer step.
    """
    per_epoch = plan.steps_per_epoch
    epochs, rest = divmod(step, per_epoch) if math.isfinite(per_epoch) else (0, step)
    if config.interval == "epoch":
        return int(epochs) // int(config.frequency)
    every = config.frequency // math.gcd(plan.accumulate, config.frequency)
    if not epochs:
        return int(rest) // int(every)
    # The last step of an epoch may have fewer batches.
    in_epoch = (per_epoch - 1) // every + (plan.batches_per_epoch % config.frequency == 0)
    return int(epochs * in_epoch + rest // every)


def _stride(configs: Sequence[Any], plan: StepPlan) -> int:
    """Every how many of its steps a scheduler is asked."""
    moved = [id(config.scheduler.optimizer) for config in configs]
    if math.isinf(plan.steps) or len(set(moved)) < len(moved):
        return 1
    if not all(_answers_for_any_step(config.scheduler) for config in configs):
        return 1
    if all(config.interval == "epoch" for config in configs):
        return max(1, int(plan.steps / plan.steps_per_epoch / MOST_LOOKS))
    return max(1, int(plan.steps / MOST_LOOKS))


def _answers_for_any_step(scheduler: Any) -> bool:
    closed_form = hasattr(scheduler, "_get_closed_form_lr")
    return closed_form or type(scheduler) in _ANY_STEP


def _stand_in(optimizer: Optimizer) -> Optimizer:
    """An optimizer of the same class and groups that holds no weights and never steps."""
    twin: Optimizer = object.__new__(type(optimizer))
    own = {name: value for name, value in vars(optimizer).items() if name != "step"}
    vars(twin).update(own, state=defaultdict(dict), _opt_called=True)
    twin.param_groups = [
        {
            name: [torch.zeros(1)] if name == "params" else copy.deepcopy(value)
            for name, value in group.items()
        }
        for group in optimizer.param_groups
    ]
    return twin


def _numbers(group: dict[str, Any]) -> Values:
    """Numbers of a parameter group that a scheduler may move; pairs such as betas as they are."""
    found: dict[str, Any] = {}
    for name, value in group.items():
        if isinstance(value, bool) or name == "params":
            continue
        is_scalar = isinstance(value, torch.Tensor) and value.numel() == 1
        if isinstance(value, (int, float)) or is_scalar:
            found[name] = float(value)
        elif isinstance(value, tuple) and all(isinstance(item, float) for item in value):
            found[name] = value
    return found


def _foreseen(
    optimizer: Optimizer, group: dict[str, Any], history: list[tuple[int, Values]]
) -> ForeseenGroup:
    starts = np.array([step for step, _ in history], dtype=np.int64)
    rates = np.array([values.get("lr", math.nan) for _, values in history])
    decays = np.array([values.get("weight_decay", 0.0) for _, values in history])
    best = int(np.argmax(rates))
    first, peak = history[0][1], history[best][1]
    moved = tuple(
        (name, value)
        for name, value in peak.items()
        if name not in ("lr", "weight_decay") and name in first and value != first[name]
    )
    return ForeseenGroup(starts, rates, decays, moved, _decay_factor(optimizer, group))


def _decay_factor(optimizer: Optimizer, group: dict[str, Any]) -> float:
    if isinstance(optimizer, SGD):
        return 1 / (1 - float(group["momentum"]))
    decoupled = isinstance(optimizer, AdamW) or bool(group.get("decoupled_weight_decay"))
    return 1.0 if decoupled else math.nan
