"""The one callback that works in a probe: it counts steps, keeps a trace, and ends the probe."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.fingerprints import Fingerprint, fingerprint_of, sampled_entries
from lightning_init.probe.lightning_packages import is_a
from lightning_init.probe.limits import SHARE_OF_MAX_TIME, ProbeEnd, ProbeLimits, ProbeRefused
from lightning_init.probe.probe_loops import ProbeOver
from lightning_init.probe.rates import ProbeRates
from lightning_init.probe.schedule import ForeseenRun

# Batches without any optimizer step after which a probe is taken for stuck (a manual optimization
# that never steps, a `training_step` that always returns None).
_STUCK_AFTER_BATCHES = 1000

OnStart = Callable[[LightningModule, ForeseenRun], bool]
OnStep = Callable[[LightningModule, int, Any], bool]


@dataclass(frozen=True)
class TracedBatch:
    """What one of the first batches of a probe led to.

    Args:
        loss: The loss, or None where `training_step` returned none.
        rates: Learning rate of every parameter group after the batch, as text: nan equals nan.
        weights: Some entries of every parameter after the batch, where there is no loss.
    """

    loss: float | None
    rates: str
    weights: tuple[Tensor, ...] = ()


class Observer(Callback):
    """Counts optimizer steps, asks ``on_step``, and ends the loop after a batch and its hooks.

    Args:
        on_step: As `run_probe` takes it.
        on_start: As `run_probe` takes it.
        limits: When to end.
        seconds: Wall time after which to end.
        steps_to_replay: Optimizer steps to make of a probe that is run once more; None for all.
    """

    rates: ProbeRates

    def __init__(
        self,
        on_step: OnStep,
        on_start: OnStart | None,
        limits: ProbeLimits,
        seconds: float | None = None,
        steps_to_replay: int | None = None,
    ) -> None:
        self.on_step = on_step
        self.on_start = on_start
        self.limits = limits
        self.max_steps = 0
        self._steps_to_replay = steps_to_replay
        self.end = ProbeEnd.RUN_LIMIT
        self.steps = 0
        self.planned_steps = float("inf")
        self.batches: list[Fingerprint | None] = []
        self.trace: list[TracedBatch] = []
        self.batches_seen = 0
        self.lost_losses = 0
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._idle_batches = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Tell how long the run is planned to be."""
        self.planned_steps = internals.planned_steps(trainer)
        budget = self.limits.most_steps(self.planned_steps)
        # A replay climbs to the peak as the probe did, and ends sooner.
        foreseen = self.rates.begin(trainer, self.planned_steps, budget)
        self.max_steps = budget if self._steps_to_replay is None else self._steps_to_replay
        if self.on_start is not None and self.on_start(pl_module, foreseen):
            self.end = ProbeEnd.STOPPED
            raise ProbeOver

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep what identifies the batch."""
        if self.limits.verify_steps:
            self.batches.append(fingerprint_of(batch, len(self.batches)))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the step, if the batch led to one."""
        loss = loss_of(outputs)
        self.batches_seen += 1
        self.lost_losses += loss is None and pl_module.automatic_optimization
        if self.steps < self.limits.verify_steps:
            self._keep_trace(trainer, pl_module, loss)
        if trainer.global_step == self.steps:
            self._refuse_idleness(trainer)
            return
        self._idle_batches = 0
        self.steps = trainer.global_step
        self.rates.before_step(self.steps)
        if self.on_step(pl_module, self.steps, outputs):
            self._finish(trainer, ProbeEnd.STOPPED)
        elif self.steps >= self.max_steps:
            self._finish(trainer, ProbeEnd.BUDGET)
        elif self._out_of_time(trainer):
            self._finish(trainer, ProbeEnd.TIME_LIMIT)

    def _finish(self, trainer: Trainer, end: ProbeEnd) -> None:
        self.end = end
        internals.end_after_this_batch(trainer)

    def _out_of_time(self, trainer: Trainer) -> bool:
        if self._deadline is None:
            return False
        over = time.monotonic() > self._deadline
        decision: bool = trainer.strategy.reduce_boolean_decision(over, all=False)
        return decision

    def _keep_trace(self, trainer: Trainer, module: LightningModule, loss: Tensor | None) -> None:
        rates = repr(learning_rates(trainer))
        if loss is not None:
            self.trace.append(TracedBatch(float(loss.detach().float().mean()), rates))
            return
        weights = tuple(sampled_entries(p).view(p.dtype).double() for p in module.parameters())
        self.trace.append(TracedBatch(None, rates, weights))

    def _refuse_idleness(self, trainer: Trainer) -> None:
        self._idle_batches += 1
        if self._idle_batches > _STUCK_AFTER_BATCHES * trainer.accumulate_grad_batches:
            raise ProbeRefused(
                f"The probe saw no optimizer step in {self._idle_batches} batches; check that"
                " `training_step` returns a loss (or steps, in manual optimization)."
            )


def seconds_of_a_probe(trainer: Trainer) -> float | None:
    """A share of the time that `Trainer(max_time=...)` or a ``Timer`` leaves to the run."""
    timers = [c for c in internals.callbacks(trainer) if is_a(c, "callbacks.Timer")]
    left = [timer.time_remaining() for timer in timers]  # type: ignore[attr-defined]
    shortest = min((seconds for seconds in left if seconds is not None), default=None)
    return None if shortest is None else SHARE_OF_MAX_TIME * shortest


def learning_rates(trainer: Trainer) -> list[float]:
    """The learning rate of every parameter group, nan where the optimizer chooses it itself.

    Within a probe they are those of the probe's optimizers.
    """
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    rates = [group.get("lr") for group in groups]
    return [math.nan if rate is None else float(rate) for rate in rates]


def loss_of(outputs_of_step: Any) -> Tensor | None:
    """The loss among what `training_step` returned, or None if it returned none."""
    loss = outputs_of_step.get("loss") if isinstance(outputs_of_step, dict) else outputs_of_step
    return loss if isinstance(loss, Tensor) else None
