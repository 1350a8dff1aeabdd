"""Train for a while inside ``on_fit_start``, then leave no trace.

The nested run uses new objects - a deep copy of the module and of its optimizers, fresh loops and
bookkeeping, its own loader iterators - on the user's Trainer and strategy, and puts the originals
back on every exit: normal, exception, interrupt, SIGTERM. A sharded module, which cannot be copied,
is trained itself and put back from a snapshot. The real run that follows is then the run that would
have been without a probe.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe import snapshot
from lightning_init.probe.copying import CopiedTraining, copy_alone
from lightning_init.probe.data_state import (
    capture_data_state,
    data_held_by,
    everything_behind,
)
from lightning_init.probe.in_place import TrainingInPlace
from lightning_init.probe.lightning_packages import is_a, module_for
from lightning_init.probe.limits import ProbeLimits, ProbeRefused, ProbeRun, Replay
from lightning_init.probe.observer import Observer, OnStart, OnStep, seconds_of_a_probe
from lightning_init.probe.probe_loops import ProbeOver
from lightning_init.probe.rates import ProbeRates
from lightning_init.probe.real_batches import begins_with_the_probes_batches
from lightning_init.probe.refusals import (
    NothingToProbe,
    is_read_once,
    refuse_false_probe,
    refuse_what_cannot_be_probed,
)
from lightning_init.probe.replay import compare_replay, watch_for_leaks
from lightning_init.probe.stand_ins import is_users_own, silent_callback, silent_logger

_LARGE = 64 * 2**20  # bytes of parameters


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
        on_start: Called once before the first step with what is trained and what the real run
            plans: optimizer steps, learning rates, weight decays; returns whether to stop there.

    Returns:
        Why the probe ended, what it took, and what running its first steps again showed.

    Raises:
        ProbeRefused: If the strategy shards parameters out of reach (FSDP1, DeepSpeed), a
            parameter is lazy, the data can be read only once or are empty, no weight moved (the
            probe trained nothing), or the user's module is not as it was.
    """
    refuse_what_cannot_be_probed(trainer, module, limits)
    started = time.perf_counter()
    find_leaks = watch_for_leaks(trainer)
    comparable = begins_with_the_probes_batches(trainer, limits)
    probe = _Probe(trainer, module, limits)
    observer = probe.train(on_step, on_start)
    seconds = time.perf_counter() - started
    replay = Replay()
    if limits.verify_steps and observer.steps and not is_read_once(limits.dataloaders):
        replay = probe.replay(observer, find_leaks)
    return ProbeRun(
        observer.end,
        observer.steps,
        observer.planned_steps,
        seconds,
        replay,
        tuple(observer.batches) if comparable else (),
        probe.note,
    )


class _Probe:
    """Trains and puts back, as often as needed: the probe, and the replay of its first steps."""

    def __init__(self, trainer: Trainer, module: LightningModule, limits: ProbeLimits) -> None:
        self.trainer = trainer
        self.module = module
        self.limits = limits
        self.note = ""
        # Objects behind the data that changed and could not be put back.
        self.suspects: list[str] = []
        self._prepares = False

    def train(self, on_step: OnStep, on_start: OnStart | None) -> Observer:
        """Run the probe; once more with the user's callbacks if a first step needs them."""
        seconds = seconds_of_a_probe(self.trainer)
        observer = Observer(on_step, on_start, self.limits, seconds)
        try:
            self._run(observer)
        except Exception as error:
            own = [c for c in internals.callbacks(self.trainer) if is_users_own(c)]
            refused = isinstance(error, MisconfigurationException)
            if refused or observer.steps or not own or self.trainer.world_size > 1:
                raise
            self._prepares = True
            observer = Observer(on_step, on_start, self.limits, seconds)
            try:
                self._run(observer)
            except Exception:
                raise error from None
            self.note = (
                "The probe ran with copies of your callbacks"
                f" ({', '.join(type(c).__name__ for c in own)}), because the module failed without"
                f" them ({type(error).__name__}): their hooks before each step took part."
            )
        return observer

    def replay(self, observer: Observer, find_leaks: Callable[[], list[str]]) -> Replay:
        """Run the first steps again, from what was put back, and compare."""
        steps = min(self.limits.verify_steps, observer.steps)
        again = Observer(lambda *_: False, None, self.limits, steps_to_replay=steps)
        leaks = find_leaks()
        try:
            self._run(again)
        except Exception as error:
            again.trace.clear()
            leaks.append(f"the replay failed with {type(error).__name__} ({error}): something")
        leaks += find_leaks()
        return compare_replay(self.trainer, observer, again, leaks, self.suspects)

    def _run(self, observer: Observer) -> None:
        """Train in a nested loop, put everything back, and see that it is."""
        trainer = self.trainer
        try:
            with ExitStack() as stack:
                stack.callback(snapshot.capture_random_state())
                training = self._enter(observer, stack)
                self._run_loop(training)
                check = partial(_refuse_nothing, training, trainer, observer)
                _refuse_together(trainer, check)
        except KeyboardInterrupt:
            internals.leave_signals_to_teardown(trainer)
            raise
        _refuse_together(trainer, training.verify_restored)
        del training, check, observer.rates
        _free_large_copies(self.module)

    def _enter(self, observer: Observer, stack: ExitStack) -> CopiedTraining | TrainingInPlace:
        """Swap in what the probe trains with; ``stack`` holds what puts the rest back."""
        trainer, module, limits = self.trainer, self.module, self.limits
        strategy = trainer.strategy
        instance, name = internals.train_data_source(trainer)
        validation = internals.validation_data_source(trainer)
        datamodule = getattr(trainer, "datamodule", None)
        held = data_held_by(module)
        roots, leave = everything_behind(trainer, module)
        roots |= {"val_dataloaders": validation[0], "probe_dataloaders": limits.dataloaders}
        if self._prepares:
            own = filter(is_users_own, internals.callbacks(trainer))
            roots |= {type(callback).__name__: callback for callback in own}
        stack.callback(capture_data_state(roots, leave, suspects=self.suspects))
        stack.callback(snapshot.capture_optimizers(strategy.optimizers))
        stack.callback(snapshot.capture_attributes(strategy))
        stack.callback(snapshot.capture_attributes(trainer))
        grad_enabled = torch.is_grad_enabled()
        stack.callback(lambda: torch.set_grad_enabled(grad_enabled))

        shared = [] if limits.isolate_dataset else held
        kind = TrainingInPlace if internals.trains_in_place(strategy) else CopiedTraining
        training = kind(trainer, module, shared, stack)
        twins: dict[int, Any] = {id(module): training.module, id(trainer): trainer}
        if limits.isolate_dataset and limits.dataloaders is None and instance is not module:
            instance = _isolated(instance, twins)
            if is_a(instance, "LightningDataModule"):
                twins[id(datamodule)] = instance
        if limits.dataloaders is not None:
            instance, name = limits.dataloaders, "train_dataloader"
        datamodule = twins.get(id(datamodule), datamodule)

        trainer.loggers = [silent_logger(trainer, logger) for logger in trainer.loggers]
        training.module.trainer = trainer
        callbacks = [silent_callback(c, self._prepares) for c in internals.callbacks(trainer)]
        internals.enter_training_state(trainer, training.module, datamodule, [*callbacks, observer])
        source = twins.get(id(validation[0]), validation[0])
        trainer.fit_loop = internals.probe_fit_loop(
            trainer, twins.get(id(instance), instance), name, (source, validation[1])
        )
        precision = internals.precision_plugin_name()
        vars(strategy)[precision] = copy_alone(strategy.precision_plugin, {})
        observer.rates = ProbeRates(training, limits)
        training.connect(trainer, observer.rates.schedulers())
        # Registered last, so that the handlers are put back first, while the Trainer is still ours.
        internals.register_signal_handlers(trainer)
        stack.callback(internals.restore_signal_handlers, trainer)
        return training

    def _run_loop(self, training: CopiedTraining | TrainingInPlace) -> None:
        trainer, loop = self.trainer, self.trainer.fit_loop
        if self._prepares:
            for callback in filter(is_users_own, internals.callbacks(trainer)):
                callback.on_fit_start(trainer, training.module)
        internals.call_module_hook(trainer, "on_fit_start")
        try:
            internals.run_loop(trainer)
        except ProbeOver:
            pass
        except BaseException:
            # A loop that failed while it opened its data fails here too, with another message.
            with suppress(Exception):
                loop.teardown()
            raise
        loop.teardown()
        if trainer.received_sigterm:
            raise module_for(trainer, "utilities.exceptions").SIGTERMException


def _free_large_copies(module: LightningModule) -> None:
    """Free what a probe trained, which holds itself, before weights and moments are made again."""
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    if size > _LARGE:  # a collection takes a tenth of a second: small copies can wait for theirs
        gc.collect()


def _refuse_nothing(
    training: CopiedTraining | TrainingInPlace, trainer: Trainer, observer: Observer
) -> None:
    """Refuse a probe without data, and one in which no weight moved."""
    if not internals.train_loader_has_batches(trainer):
        raise NothingToProbe("the training loaders hold no batch")
    if observer.steps:
        refuse_false_probe(training.has_moved(trainer), observer.batches_seen, observer.lost_losses)


def _refuse_together(trainer: Trainer, check: Callable[[], None]) -> None:
    """Let every rank raise where one does: those that go on would wait for it."""
    problem: MisconfigurationException | None = None
    try:
        check()
    except MisconfigurationException as error:
        problem = error
    if trainer.strategy.reduce_boolean_decision(problem is not None, all=False):
        kind = NothingToProbe if isinstance(problem, NothingToProbe) else ProbeRefused
        raise kind(str(problem or "Another rank refused the probe.")) from None


def _isolated(data: Any, twins: dict[int, Any]) -> Any:
    try:
        return copy_alone(data, dict(twins))
    except Exception as error:
        raise ProbeRefused(
            f"`isolate_dataset=True` cannot copy the data ({error}); leave it out, or pass"
            " `probe_dataloaders=`."
        ) from error
