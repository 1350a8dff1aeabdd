"""Runs a scenario twice, each time in a process of its own, and compares what is left.

The first run has our callbacks. The reference has none of them: it is built alike, and only the
redrawn weights are set by hand, so everything else must come out right by itself.
"""

from __future__ import annotations

import gc
import logging
import math
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from contract_record import HookTrace, Record, Recorder, differences, final_record
from lightning.pytorch import (
    Callback,
    LightningDataModule,
    LightningModule,
    Trainer,
    seed_everything,
)

# Loaded once here, not in every child.
from tensorboard.backend.event_processing import event_accumulator as event_accumulator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lightning_init import FractionalMomentInit, OptimalVarianceInit
from lightning_init.inspection.weights import find_weights
from lightning_init.probe import real_batches
from lightning_init.search import outcome

PROBE_STEPS = 19  # 2.4 epochs: ends in the middle of one, after crossing two boundaries
SECONDS_PER_RUN = 60.0

Weights = dict[str, torch.Tensor]


def probe(**changes: Any) -> OptimalVarianceInit:
    """The callback under test, sampling at every step."""
    settings: dict[str, Any] = {
        "max_probe_steps": PROBE_STEPS,
        "sample_every_n_steps": 1,
        "on_unsettled": "use",
        "verbose": False,
        "seed": 11,
        "on_probe_failure": "raise",
        "watch": True,
    }
    return OptimalVarianceInit(**(settings | changes))


@dataclass
class Setup:
    """One scenario, built afresh in each process.

    Args:
        model: The user's module.
        trainer: Arguments of the Trainer beyond the defaults.
        train: Training loaders; ``None`` when a datamodule or the module's hooks provide them.
        val: Validation loaders.
        datamodule: The user's datamodule.
        ours: Our callbacks.
        before: Callbacks listed before ours.
        callbacks: Callbacks listed after ours.
        fit: Runs the whole use, ``trainer.fit`` unless a scenario does more.
        redraws: Whether our callbacks are meant to write weights.
        early: Whether the reference may set the weights at setup already (not where a callback
            trains in between, as the learning-rate finder does).
        says: What the user is told, a part of a warning's text, where the runs must differ.
    """

    model: LightningModule
    trainer: dict[str, Any] = field(default_factory=dict)
    train: Any = None
    val: Any = None
    datamodule: LightningDataModule | None = None
    ours: list[Callback] = field(default_factory=lambda: [probe()])
    before: list[Callback] = field(default_factory=list)
    callbacks: list[Callback] = field(default_factory=list)
    fit: Callable[[Trainer, Setup], None] | None = None
    make_trainer: Callable[..., Trainer] = Trainer
    redraws: bool = True
    early: bool = True
    says: str | None = None


Scenario = Callable[[], Setup]


# ------------------------------------------------------------------------------- the two callbacks
class KeepRedraw(Callback):
    """Placed after ours: keeps the weights that the real run starts from."""

    def __init__(self, biases: bool) -> None:
        self.redrawn: Weights = {}
        self._biases = biases
        # Packed: a copy of the weights in a callback would follow the redraw.
        self._before = pickle.dumps({})

    def remember(self, module: LightningModule) -> None:
        self._before = pickle.dumps({n: p.detach().clone() for n, p in module.named_parameters()})

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > 0:
            return
        allowed = _may_be_redrawn(pl_module, self._biases)
        kept: Weights = pickle.loads(self._before)
        for name, parameter in pl_module.named_parameters():
            before = kept.get(name)
            if before is None or not torch.equal(before.to(parameter.dtype), parameter):
                self.redrawn[name] = parameter.detach().clone()
        # What had no value before (layers made in `configure_model`) cannot be told from redrawn.
        self.redrawn = {n: w for n, w in self.redrawn.items() if n in allowed or n in kept}
        assert set(self.redrawn) <= allowed, set(self.redrawn) - allowed


def _may_be_redrawn(module: nn.Module, biases: bool) -> set[str]:
    """Full names of weights, and of the biases that belong to them where these are zeroed."""
    names = set()
    for weight in find_weights(module).weights:
        prefix = f"{weight.module_name}." if weight.module_name else ""
        names |= {f"{prefix}{weight.attribute}"}
        names |= {f"{prefix}{bias}" for bias in weight.biases if biases}
        names |= {f"{prefix}parametrizations.{weight.attribute}.original{i}" for i in (0, 1)}
    return names


class SetWeights(Callback):
    """The reference: weights set by hand, also on the copies that other callbacks keep."""

    def __init__(self, weights: Weights, early: bool) -> None:
        self.weights = weights
        self.early = early

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.early and stage == "fit" and trainer.global_step == 0:
            self._set(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            self._set(pl_module)
            for callback in trainer.callbacks:
                average = getattr(callback, "_average_model", None)
                if isinstance(average, nn.Module):
                    self._set(average.module if isinstance(average, AveragedModel) else average)

    def _set(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for name, weight in self.weights.items():
                if name in parameters and parameters[name].shape == weight.shape:
                    parameters[name].copy_(weight)


# ------------------------------------------------------------------------------------ the two runs
def build_trainer(setup: Setup, ours: list[Callback]) -> Trainer:
    """A Trainer with this scenario's options and callbacks."""
    callbacks = [*setup.before, *ours, *setup.callbacks]
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": any(type(c).__name__.endswith("Checkpoint") for c in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 5,
        "default_root_dir": ".",
    }
    return setup.make_trainer(**(defaults | setup.trainer | {"callbacks": callbacks}))


def fit(trainer: Trainer, setup: Setup) -> None:
    """The plain use: one fit."""
    trainer.fit(setup.model, setup.train, setup.val, datamodule=setup.datamodule)


def run(scenario: Scenario, reference: Weights | None) -> tuple[Record, Weights, list[str]]:
    """One run of a scenario: with our callbacks, or with weights set by hand."""
    seed_everything(7, verbose=False)
    setup = scenario()
    biases = any(isinstance(callback, FractionalMomentInit) for callback in setup.ours)
    keep, recorder = KeepRedraw(biases), Recorder()
    keep.remember(setup.model)
    ours: list[Callback] = [*setup.ours, keep]
    if reference is not None:
        ours = [SetWeights(reference, setup.early)]
    setup.callbacks.append(recorder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = build_trainer(setup, ours)
        trace = HookTrace(setup.model)
        (setup.fit or fit)(trainer, setup)
    record = final_record(trainer, setup.model, recorder) | {"hooks": trace.calls}
    if reference is None:
        assert bool(keep.redrawn) == setup.redraws, f"redrawn: {sorted(keep.redrawn)}"
    return record, keep.redrawn, [str(w.message) for w in caught]


class Job:
    """A function that runs in a forked process, in a directory of its own."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("fork")
        self.answer, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_child, args=(sender, function, arguments))
        self.process.start()
        sender.close()
        self.deadline = time.monotonic() + SECONDS_PER_RUN

    def result(self) -> Any:
        """What the function returned.

        Raises:
            AssertionError: If it raised, died or did not end in time; with its traceback.
        """
        try:
            assert self.answer.poll(max(0.0, self.deadline - time.monotonic())), "the run hangs"
            failed, result = pickle.loads(self.answer.recv_bytes())
        except EOFError:
            self.process.join()
            raise AssertionError(f"the run died with exit code {self.process.exitcode}") from None
        finally:
            self.process.join(2)
            if self.process.is_alive():
                self.process.kill()
                self.process.join()
        assert not failed, result
        return result


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of ``function`` computed in a process of its own."""
    return Job(function, *arguments).result()


def _child(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # Every batch that the probe kept is compared, however long that takes.
    real_batches.SHARE_OF_TIME = math.inf
    # Layers that hardly change are drawn too, so that every scenario has a redraw.
    outcome.UNCHANGED_LOG_RATIO = 0.0
    gc.freeze()  # no collection walks, and so copies, what the parent loaded
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory, open(os.devnull, "w") as sink:
        os.chdir(directory)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            answer: tuple[bool, Any] = (False, function(*arguments))
        except BaseException:
            answer = (True, traceback.format_exc())
        # Plain pickle: a Connection would pass tensors by a socket of the process that ends here.
        sender.send_bytes(pickle.dumps(answer))


def comparison(
    scenario: Scenario, sabotage: Callable[[], None] | None = None
) -> Generator[Job, None, list[str]]:
    """The two runs of a scenario, one after the other; ends with their differences."""

    def first() -> Any:
        if sabotage is not None:
            sabotage()
        return run(scenario, None)

    job = Job(first)
    yield job
    record, redrawn, said = job.result()
    job = Job(run, scenario, redrawn)
    yield job
    expected, _, _ = job.result()
    found = differences(record, expected)
    if found:
        found += [text for text in said if "OptimalVarianceInit" in text or "probe" in text]
    else:
        found = [f"false alarm: {text}" for text in said if is_alarm(text)]
    return found


def with_and_without_watch(
    scenario: Scenario, _: Callable[[], None] | None = None
) -> Generator[Job, None, list[str]]:
    """Two runs with our callbacks, of which the first watches; ends with their differences."""
    records = []
    for watch in (True, False):
        job = Job(run, watching(scenario, watch), None)
        yield job
        records.append(job.result()[0])
    return differences(*records)


def watching(scenario: Scenario, watch: bool) -> Scenario:
    """A scenario whose callbacks do, or do not, watch the real run."""

    def changed() -> Setup:
        setup = scenario()
        for callback in setup.ours:
            if isinstance(callback, OptimalVarianceInit):
                callback.watch = watch
        return setup

    return changed


def is_alarm(text: str) -> bool:
    """Whether the user is told that the restart is not exact."""
    alarms = ("the restart is not exact", "holds other data", "The training data keep state")
    alarms += ("holds a copy of the weights from before",)
    return any(alarm in text for alarm in alarms)


def compare(scenario: Scenario, sabotage: Callable[[], None] | None = None) -> list[str]:
    """Differences between a run with our callbacks and its reference."""
    return Ahead({"": scenario}, sabotage).result("")


class Ahead:
    """Comparisons that run ahead, two at a time, while the first of them is waited for."""

    def __init__(
        self,
        scenarios: dict[str, Scenario],
        sabotage: Callable[[], None] | None = None,
        pair: Callable[..., Generator[Job, None, list[str]]] = comparison,
    ) -> None:
        self._waiting = dict(scenarios)
        self._pair = pair
        self._sabotage = sabotage
        self._running: dict[str, tuple[Generator[Job, None, list[str]], Job]] = {}
        self._done: dict[str, list[str]] = {}

    def result(self, name: str) -> list[str]:
        """Differences found in one scenario."""
        while name not in self._done:
            while self._waiting and len(self._running) < 2:
                chosen = name if name in self._waiting else next(iter(self._waiting))
                self._advance(chosen, self._pair(self._waiting.pop(chosen), self._sabotage))
            jobs = [job for _, job in self._running.values()]
            first_deadline = min((job.deadline for job in jobs), default=0.0)
            patience = max(0.0, first_deadline - time.monotonic())
            ready = wait([job.answer for job in jobs], patience)
            for other, (steps, job) in list(self._running.items()):
                if job.answer in ready or time.monotonic() > job.deadline:
                    self._advance(other, steps)
        return self._done[name]

    def _advance(self, name: str, steps: Generator[Job, None, list[str]]) -> None:
        self._running.pop(name, None)
        try:
            self._running[name] = steps, next(steps)
        except StopIteration as end:
            self._done[name] = end.value
        except AssertionError as error:
            self._done[name] = [str(error)]
