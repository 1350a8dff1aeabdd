"""One run of a comparison: the same model, data order and masks for a seed, whatever the scheme."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    """Everything that one run needs; picklable if its parts are.

    Args:
        scheme: The initialization.
        seed: Of the first weights, the data order and everything random after it.
        model: Makes the module; called with the seed set, so its own draws are paired too.
        data: Makes a datamodule or a loader; None if the module has its own.
        trainer: Arguments of the Trainer, beside `TRAINER_DEFAULTS`.
        equal_budget: Whether a scheme with a probe gets a second, shorter run that pays for it.
        threads: Of torch. One makes the result the same however runs are spread.
    """

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
    with _quiet(task.threads):
        full, watch = _train(task)
        if not watch.probes or not task.equal_budget:
            return (full,)
        left = watch.planned_steps - full.probe_steps
        reason = full.reason if full.status == FAILED else _not_chargeable(full.probe_steps, left)
        if reason or watch.start is None:
            spent = full.probe_steps, full.probe_seconds, full.probe_seconds
            return (full, RunRecord(full.scheme, full.seed, EQUAL, FAILED, reason, 0, *spent))
        equal, _ = _train(task, start=watch.start, max_steps=int(left), probe=full)
        return (full, equal)


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

    def __init__(self, probes: bool = False) -> None:
        self.probes = probes
        self.curve: dict[int, dict[str, float]] = {}
        self.diverged_at: int | None = None
        self.start: dict[str, Tensor] | None = None
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
            self.diverged_at = trainer.global_step
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep(trainer)

    def _keep(self, trainer: Trainer) -> None:
        if not trainer.sanity_checking:
            self.curve.setdefault(trainer.global_step, {}).update(_numbers(trainer))


def _train(
    task: RunTask,
    start: dict[str, Tensor] | None = None,
    max_steps: int | None = None,
    probe: RunRecord | None = None,
) -> tuple[RunRecord, _Watch]:
    """Make one run; with `probe` the one that starts from `start` and pays for that probe."""
    began = time.perf_counter()
    watch, trainer = _Watch(), None
    callbacks: list[Callback] = []
    final: dict[str, float] = {}
    reason = ""
    try:
        seed_everything(task.seed, workers=True, verbose=False)
        if start is None:
            callbacks = list(task.scheme.build(*_inputs(task)))
        else:
            callbacks = [ApplyInitialization(lambda m, _: m.load_state_dict(start), task.seed)]
        watch = _Watch(probes=bool(_probing(callbacks)))
        given = {**TRAINER_DEFAULTS, **task.trainer}
        if max_steps is not None:
            given["max_steps"] = max_steps
        seed_everything(task.seed, workers=True, verbose=False)
        model = task.model()
        data = task.data() if task.data is not None else None
        trainer = Trainer(**given, callbacks=[*callbacks, watch])
        # Whatever was drawn above, every scheme goes on from the same state.
        seed_everything(task.seed, workers=True, verbose=False)
        of_module = isinstance(data, LightningDataModule)
        trainer.fit(model, **({"datamodule": data} if of_module else {"train_dataloaders": data}))
        final = _numbers(trainer)
        if watch.diverged_at is None and _has_test(model, data):
            trainer.test(model, datamodule=data if of_module else None, verbose=False)
            final |= _numbers(trainer)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
    divergence = _divergence(watch, final)
    reports = [one.report for one in _probing(callbacks) if one.report is not None]
    spent = probe.probe_seconds if probe else sum(report.wall_time for report in reports)
    record = RunRecord(
        scheme=task.scheme.label,
        seed=task.seed,
        budget=EQUAL if probe else FULL,
        status=FAILED if reason else DIVERGED if divergence else FINISHED,
        reason=reason or divergence,
        steps=trainer.global_step if trainer is not None else 0,
        probe_steps=probe.probe_steps if probe else sum(one.total_steps for one in reports),
        seconds=time.perf_counter() - began + (probe.probe_seconds if probe else 0.0),
        probe_seconds=spent,
        curve=tuple(sorted(watch.curve.items())),
        final=final,
        pilot_steps=task.scheme.pilot_steps,
    )
    return record, watch


def _inputs(task: RunTask) -> tuple[int, Any]:
    """The seed, and the first training batch from data of its own if the scheme looks at one."""
    if not task.scheme.needs_batch:
        return task.seed, None
    data = task.data() if task.data is not None else task.model()
    if isinstance(data, (LightningDataModule, LightningModule)):
        data.prepare_data()
        data.setup("fit")
        data = data.train_dataloader()
    return task.seed, next(iter(data))


def _has_test(model: LightningModule, data: Any) -> bool:
    source = data if isinstance(data, LightningDataModule) else model
    return is_overridden("test_step", model) and is_overridden("test_dataloader", source)


def _numbers(trainer: Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def _probing(callbacks: list[Callback]) -> list[OptimalVarianceInit]:
    """The callbacks that probe; one that is given a recipe does not."""
    ours = [one for one in callbacks if isinstance(one, OptimalVarianceInit)]
    return [one for one in ours if one.recipe_file is None]


def _divergence(watch: _Watch, final: Mapping[str, float]) -> str:
    if watch.diverged_at is not None:
        return f"the loss was not finite at optimizer step {watch.diverged_at}"
    wrong = [name for name, value in final.items() if not math.isfinite(value)]
    return f"{', '.join(wrong)} not finite at the end" if wrong else ""


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
