"""One run of a comparison: the same model, data order and masks for a seed, whatever the scheme."""

from __future__ import annotations

import gc
import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_init import OptimalVarianceInit
from lightning_init.compare.records import DIVERGED, EQUAL, FAILED, FINISHED, FULL, RunRecord
from lightning_init.compare.schemes import ApplyInitialization, Scheme

ModelFactory = Callable[[], LightningModule]
DataFactory = Callable[[], Any]

TRAINER_DEFAULTS: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


@dataclass(frozen=True)
class RunTask:
    """Everything that one run needs, as `compare` was given it; picklable if its parts are."""

    scheme: Scheme
    seed: int
    model: ModelFactory
    data: DataFactory | None
    trainer: Mapping[str, Any] = field(default_factory=dict)
    equal_budget: bool = True
    threads: int = 1

    @property
    def name(self) -> str:
        """What to call the run in messages."""
        return f"{self.scheme.label}, seed {self.seed}"


def execute(task: RunTask) -> tuple[RunRecord, ...]:
    """Make one run, and the shorter one that pays for its probe.

    An exception of the run is a record with the status `failed`; the random generators, the number
    of threads and the seed variables of this process are as before.

    Returns:
        One record, or two if the scheme has a probe and `equal_budget` is set.
    """
    with _quiet(task.threads), TemporaryDirectory() as folder:
        # Every probe leaves a recipe in its root directory.
        task = replace(task, trainer={"default_root_dir": folder, **task.trainer})
        full, watch = _train(task)
        if not watch.probes or not task.equal_budget:
            return (full,)
        left = watch.planned_steps - full.probe_steps
        reason = full.reason if full.status == FAILED else _not_chargeable(full.probe_steps, left)
        equal = RunRecord(full.scheme, full.seed, EQUAL, FAILED, reason)
        if not reason:
            scheme = replace(task.scheme, build=watch.again)
            trainer = {**task.trainer, "max_steps": int(left)}
            equal, _ = _train(replace(task, scheme=scheme, trainer=trainer))
        return full, replace(
            equal,
            budget=EQUAL,
            probe_steps=full.probe_steps,
            seconds=equal.seconds + full.probe_seconds,
            probe_seconds=full.probe_seconds,
        )


def _not_chargeable(probe_steps: int, left: float) -> str:
    if left < 1:
        return (
            f"the probe took {probe_steps} of {left + probe_steps:g} planned steps, so nothing is"
            " left to train; lower `max_probe_steps`"
        )
    if math.isinf(left):
        return "the run has no planned length; give `max_epochs` or `max_steps`"
    return ""


class _Watch(Callback):
    """Keeps the curve, stops a run whose loss is no longer finite, and copies a probed start."""

    def __init__(self, callbacks: Sequence[Callback] = ()) -> None:
        ours = [one for one in callbacks if isinstance(one, OptimalVarianceInit)]
        # One that is given a recipe does not probe.
        self.probes = [one for one in ours if one.recipe_file is None]
        self.curve: dict[int, dict[str, float]] = {}
        self.divergence = ""
        self.start: dict[str, Tensor] = {}
        self.planned_steps = math.nan

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.probes:
            self.start = {name: value.clone() for name, value in pl_module.state_dict().items()}
            self.planned_steps = trainer.estimated_stepping_batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and not bool(torch.isfinite(loss).all()):
            self.divergence = f"the loss was not finite at optimizer step {trainer.global_step}"
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer)

    def again(self, seed: int, _: object) -> list[Callback]:
        """Start another run from the copied start."""
        return [ApplyInitialization(lambda module, _: module.load_state_dict(self.start), seed)]

    def _keep(self, trainer: Trainer) -> None:
        if not trainer.sanity_checking:
            self.curve.setdefault(trainer.global_step, {}).update(_numbers(trainer))


def _train(task: RunTask) -> tuple[RunRecord, _Watch]:
    began = time.perf_counter()
    gc.collect()  # the last run's Trainer, module and data hold each other
    watch, trainer = _Watch(), None
    final: dict[str, float] = {}
    reason = ""
    try:
        seed_everything(task.seed, workers=True, verbose=False)
        callbacks = task.scheme.build(task.seed, lambda: _first_batch(task))
        watch = _Watch(callbacks)
        seed_everything(task.seed, workers=True, verbose=False)
        model = task.model()
        data = task.data() if task.data is not None else None
        trainer = Trainer(**{**TRAINER_DEFAULTS, **task.trainer}, callbacks=[*callbacks, watch])
        # Whatever was drawn above, every scheme goes on from the same state.
        seed_everything(task.seed, workers=True, verbose=False)
        of_module = isinstance(data, LightningDataModule)
        trainer.fit(model, **({"datamodule": data} if of_module else {"train_dataloaders": data}))
        final = _numbers(trainer)
        if not watch.divergence and _has_test(model, data):
            trainer.test(model, datamodule=data if of_module else None, verbose=False)
            final |= _numbers(trainer)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    wrong = ", ".join(name for name, value in final.items() if not math.isfinite(value))
    divergence = watch.divergence or (f"{wrong} not finite at the end" if wrong else "")
    reports = [probe.report for probe in watch.probes if probe.report is not None]
    record = RunRecord(
        scheme=task.scheme.label,
        seed=task.seed,
        budget=FULL,
        status=FAILED if reason else DIVERGED if divergence else FINISHED,
        reason=reason or divergence,
        steps=trainer.global_step if trainer is not None else 0,
        probe_steps=sum(report.total_steps for report in reports),
        seconds=time.perf_counter() - began,
        probe_seconds=sum(report.wall_time for report in reports),
        curve=tuple(sorted(watch.curve.items())),
        final=final,
        pilot_steps=task.scheme.pilot_steps,
    )
    return record, watch


def _first_batch(task: RunTask) -> Any:
    """The first training batch, from data of its own."""
    data = task.data() if task.data is not None else task.model()
    if isinstance(data, (LightningDataModule, LightningModule)):
        data.prepare_data()
        data.setup("fit")
        data = data.train_dataloader()
    return next(iter(data))


def _has_test(model: LightningModule, data: Any) -> bool:
    source = data if isinstance(data, LightningDataModule) else model
    return is_overridden("test_step", model) and is_overridden("test_dataloader", source)


def _numbers(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """Silence Lightning, whose messages would bury the bar; put back what this process had."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = torch.get_num_threads(), [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    try:
        # Lightning leaves the seed in environment variables.
        with mock.patch.dict(os.environ), isolate_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before[0])
        for logger, level in zip(loggers, before[1], strict=True):
            logger.setLevel(level)
