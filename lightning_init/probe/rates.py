"""The learning rates of a probe: the run's peak, its schedule, or a number."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Trainer

from lightning_init.probe.copying import CopiedTraining
from lightning_init.probe.in_place import TrainingInPlace
from lightning_init.probe.limits import ProbeLimits
from lightning_init.probe.schedule import ForeseenGroup, ForeseenRun, StepPlan, climb_steps, foresee


class ProbeRates:
    """Sets learning rate and weight decay of a probe's optimizers, step by step.

    Args:
        training: The probe's own module, optimizers and schedulers.
        limits: Which learning rate.
    """

    def __init__(self, training: CopiedTraining | TrainingInPlace, limits: ProbeLimits) -> None:
        self._training = training
        self._wanted = limits.learning_rate
        self._manual = not training.module.automatic_optimization
        self._climbs: list[tuple[dict[str, Any], ForeseenGroup, int]] = []

    def schedulers(self) -> list[Any]:
        """Those that the probe's loop steps, or the module's own code finds."""
        if self._manual:
            return self._training.schedulers
        if self._wanted != "schedule":
            return []
        # Schedulers that wait for a validation metric stay still: a probe does not validate.
        return [s for s in self._training.schedulers if not s.reduce_on_plateau]

    def begin(self, trainer: Trainer, planned_steps: float, max_steps: int) -> ForeseenRun:
        """Foresee the run, set the rates of the first step, and return what was foreseen."""
        training = self._training
        batches, every = trainer.num_training_batches, trainer.accumulate_grad_batches
        plan = StepPlan(planned_steps, float(batches), every)
        own_steps = self._manual and bool(training.schedulers)
        reason = "manual optimization steps its own schedulers" if own_steps else ""
        shared = (trainer, training.module, *training.module.modules())
        run = foresee(training.optimizers, training.schedulers, plan, shared, reason)
        budget = int(min(max_steps, planned_steps))
        pairs = zip(training.optimizers, run.groups, strict=True)
        groups = [
            pair
            for optimizer, foreseen in pairs
            for pair in zip(optimizer.param_groups, foreseen, strict=True)
        ]
        if isinstance(self._wanted, (int, float)):
            for group, _ in groups:
                _set(group, "lr", float(self._wanted))
        elif self._wanted == "peak" and not own_steps:
            self._climbs = [(g, seen, climb_steps(seen, budget)) for g, seen in groups]
            self.before_step(0)
        return run

    @property
    def climb_steps(self) -> int:
        """Steps after which every group is at its peak."""
        return max((climb for _, _, climb in self._climbs), default=0)

    def before_step(self, step: int) -> None:
        """Set what the optimizer step number `step`, from 0, uses."""
        if step > self.climb_steps:
            return
        for group, foreseen, climb in self._climbs:
            if step >= climb:
                rate, decay = foreseen.peak_rate, foreseen.peak_decay
                group.update(foreseen.at_peak)
            else:
                rate, decay = foreseen.at(step * foreseen.peak_step / climb)
            _set(group, "lr", rate)
            if "weight_decay" in group:
                _set(group, "weight_decay", decay)


def _set(group: dict[str, Any], name: str, value: float) -> None:
    if group[name] is None:  # the optimizer chooses it itself
        return
    if isinstance(group[name], torch.Tensor):
        group[name] = torch.full_like(group[name], value)
    else:
        group[name] = value
