"""Train for a while inside ``on_fit_start``, then leave no trace.

The nested run uses new objects - a deep copy of the module and of its optimizers, fresh loops and
bookkeeping, its own loader iterators - on the user's Trainer and strategy, and puts the originals
back on every exit: normal, exception, interrupt, SIGTERM. A sharded module, which cannot be copied,
is trained itself and put back from a snapshot. The real run that follows is then the run that would
have been without a probe.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe import snapshot
from lightning_init.probe.copying import CopiedTraining, copy_alone
from lightning_init.probe.data_state import (
    capture_data_state,
    data_held_by,
    everything_behind,
)
from lightning_init.probe.in_place import TrainingInPlace
from lightning_init.probe.limits import ProbeEnd, ProbeLimits, ProbeRun
from lightning_init.probe.refusals import refuse_false_probe, refuse_what_cannot_be_probed

# Batches without any optimizer step after which a probe is taken for stuck (a manual optimization
# that never steps, a `training_step` that always returns None).
_STUCK_AFTER_BATCHES = 1000


OnStart = Callable[[LightningModule, float], None]
OnStep = Callable[[LightningModule, int, Any], bool]


def run_probe(
    trainer: Trainer,
    module: LightningModule,
    on_step: OnStep,
    limits: ProbeLimits,
    on_start: OnStart | None = None,
) -> ProbeRun:
    """Train ``module``, or a copy of it, as ``trainer`` would, then put everything back.

    Call it in ``Callback.on_fit_start``, when the strategy is set up and nothing has run yet.

    Args:
        trainer: The Trainer whose fit is about to start.
        module: The user's module. Its tensors are not written to, unless ModelParallelStrategy
            sharded it: then they are trained and get their values back, bit for bit.
        on_step: Called after each optimizer step with what is trained, the number of steps taken
            and the outputs of ``training_step``; returns whether to stop. In a distributed run it
            must decide alike on every rank.
        limits: How long to train.
        on_start: Called once before the first step with what is trained and the number of
            optimizer steps that the real run plans.

    Returns:
        Why the probe ended and what it took.

    Raises:
        MisconfigurationException: If the strategy shards parameters out of reach (FSDP1,
            DeepSpeed), a parameter is lazy, the data can be read only once, no weight moved (the
            probe trained nothing), or the user's module is not as it was.
    """
    refuse_what_cannot_be_probed(trainer, module, limits)
    started = time.perf_counter()
    with ExitStack() as stack:
        stack.callback(snapshot.capture_random_state())
        observer = _Observer(on_step, on_start, limits.max_steps)
        training = _enter(trainer, module, limits, observer, stack)
        loop = trainer.fit_loop
        internals.call_module_hook(trainer, "on_fit_start")
        try:
            internals.run_loop(trainer)
        except _ProbeOver:
            pass
        finally:
            loop.teardown()
        if trainer.received_sigterm:
            raise SIGTERMException
        if observer.steps:
            refuse_false_probe(training.has_moved(trainer))
    training.verify_restored()
    seconds = time.perf_counter() - started
    return ProbeRun(observer.end, observer.steps, observer.planned_steps, seconds)


def _enter(
    trainer: Trainer,
    module: LightningModule,
    limits: ProbeLimits,
    observer: Callback,
    stack: ExitStack,
) -> CopiedTraining | TrainingInPlace:
    """Swap in everything that the probe trains with; ``stack`` holds what puts the rest back."""
    strategy = trainer.strategy
    instance, name = internals.train_data_source(trainer)
    datamodule = getattr(trainer, "datamodule", None)
    held = data_held_by(module)
    stack.callback(capture_data_state(*everything_behind(trainer, module)))
    stack.callback(snapshot.capture_optimizers(strategy.optimizers))
    stack.callback(snapshot.capture_attributes(strategy))
    stack.callback(snapshot.capture_attributes(trainer))
    grad_enabled = torch.is_grad_enabled()
    stack.callback(lambda: torch.set_grad_enabled(grad_enabled))

    shared = [] if limits.isolate_dataset else held
    kind = TrainingInPlace if internals.trains_in_place(strategy) else CopiedTraining
    training = kind(trainer, module, shared, stack)
    if limits.dataloaders is not None:
        instance, name = limits.dataloaders, "train_dataloader"
    elif instance is module:
        instance = training.module
    elif limits.isolate_dataset:
        instance = copy_alone(instance, {id(trainer): trainer, id(module): training.module})
        datamodule = instance if isinstance(instance, LightningDataModule) else datamodule

    log_dir = trainer.log_dir  # on every rank: it broadcasts
    trainer.loggers = [_ProbeLogger(log_dir)] if trainer.loggers else []
    training.module.trainer = trainer
    callbacks = [*_accumulation_schedulers(internals.callbacks(trainer)), observer]
    internals.enter_training_state(trainer, training.module, datamodule, callbacks)
    trainer.fit_loop = internals.probe_fit_loop(trainer, instance, name)
    precision = internals.precision_plugin_name()
    vars(strategy)[precision] = copy_alone(strategy.precision_plugin, {})
    training.connect(trainer, _probe_schedule(training, limits))
    # Registered last, so that the handlers are put back first, while the Trainer is still ours.
    internals.register_signal_handlers(trainer)
    stack.callback(internals.restore_signal_handlers, trainer)
    return training


def _probe_schedule(training: CopiedTraining | TrainingInPlace, limits: ProbeLimits) -> list[Any]:
    """Set the probe's learning rate; the schedulers that it steps."""
    if limits.learning_rate is not None:
        for optimizer in training.optimizers:
            for group in optimizer.param_groups:
                _set_learning_rate(group, limits.learning_rate)
    if limits.keep_schedule:
        return [s for s in training.schedulers if not s.reduce_on_plateau]
    # Manual optimization steps its schedulers itself and must find them; automatic must not.
    return [] if training.module.automatic_optimization else training.schedulers


def _set_learning_rate(group: dict[str, Any], value: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"] = torch.full_like(group["lr"], value)
    else:
        group["lr"] = value


def _accumulation_schedulers(callbacks: list[Callback]) -> list[Callback]:
    """The only user callbacks that a probe needs: they set how many batches make one step."""
    return [copy.copy(c) for c in callbacks if isinstance(c, GradientAccumulationScheduler)]


class _ProbeOver(BaseException):
    """Leaves the nested loop at once; not an ``Exception``, so that no user code swallows it."""


class _Observer(Callback):
    """Counts optimizer steps, asks ``on_step``, and leaves the loop."""

    def __init__(self, on_step: OnStep, on_start: OnStart | None, max_steps: int) -> None:
        self.on_step = on_step
        self.on_start = on_start
        self.max_steps = max_steps
        self.end = ProbeEnd.RUN_LIMIT
        self.steps = 0
        self.planned_steps = float("inf")
        self._idle_batches = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.planned_steps = internals.planned_steps(trainer)
        if self.on_start is not None:
            self.on_start(pl_module, self.planned_steps)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self.steps:
            self._idle_batches += 1
            if self._idle_batches > _STUCK_AFTER_BATCHES * trainer.accumulate_grad_batches:
                raise MisconfigurationException(
                    f"The probe saw no optimizer step in {self._idle_batches} batches; check that"
                    " `training_step` returns a loss (or steps, in manual optimization)."
                )
            return
        self._idle_batches = 0
        self.steps = trainer.global_step
        if self.on_step(pl_module, self.steps, outputs):
            self.end = ProbeEnd.SETTLED
            raise _ProbeOver
        if self.steps >= self.max_steps:
            self.end = ProbeEnd.BUDGET
            raise _ProbeOver


class _ProbeLogger(DummyLogger):
    """Swallows what the module logs; answers with the probe's own directory."""

    def __init__(self, log_dir: str | None) -> None:
        super().__init__()
        self._log_dir = None if log_dir is None else f"{log_dir}/probe"

    @property
    def log_dir(self) -> str | None:
        return self._log_dir

    @property
    def save_dir(self) -> str | None:
        return self._log_dir
