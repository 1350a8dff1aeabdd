from __future__ import annotations

import gc
import logging
import math
import os
from functools import partial
from typing import Any
from weakref import WeakSet

import pytest
import torch
from compared_model import Classifier, Points, halve, refuse
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_init.compare.records import RunRecord
from lightning_init.compare.runs import RunTask, execute
from lightning_init.compare.schemes import make_scheme

TRAINER = {"max_epochs": 3}


def task(
    scheme: Any = "he", seed: int = 1, model: Any = Classifier, data: Any = Points, **options: Any
) -> RunTask:
    return RunTask(make_scheme(scheme), seed, model, data, **{"trainer": TRAINER, **options})


class Spied(Classifier):
    """Leaves what a run's first batch, mask and weights were on the class."""

    seen: list[list[Any]] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if batch_idx == 0 and self.current_epoch == 0:
            mask = torch.nn.functional.dropout(torch.ones(8), 0.5)
            # Numbers: a tensor that equals the weights would follow their redraw.
            weights = self.net[0].weight.flatten().tolist()
            self.seen.append([batch[0].clone(), mask, weights])
        return super().training_step(batch, batch_idx)


def test_record_of_a_run() -> None:
    (record,) = execute(task())
    assert (record.scheme, record.seed, record.budget) == ("he", 1, "full")
    assert (record.status, record.reason) == ("finished", "")
    assert (record.steps, record.probe_steps, record.probe_seconds) == (18, 0, 0.0)
    assert record.seconds > 0
    assert [step for step, _ in record.curve] == [6, 12, 18]
    assert set(record.curve[0][1]) == {"train_loss", "val_loss", "val_accuracy"}
    assert set(record.final) == {"train_loss", "val_loss", "val_accuracy", "test_loss"}
    # The same points, without dropout: validation and test see the same trained model.
    assert record.final["test_loss"] == pytest.approx(record.final["val_loss"], rel=1e-6)
    assert record.final["val_loss"] == record.curve[-1][1]["val_loss"]
    assert RunRecord.from_json(record.to_json()) == record


@pytest.mark.parametrize(
    "scheme", ["he", "optimal:max_probe_steps=6,on_unsettled=use", halve, "fractional"]
)
def test_two_runs_of_one_scheme_are_equal_to_the_bit(scheme: Any) -> None:
    for a, b in zip(execute(task(scheme)), execute(task(scheme)), strict=True):
        assert a.final == b.final
        assert a.curve == b.curve
    (other,) = execute(task(scheme, seed=2, equal_budget=False))
    assert other.final != a.final


def test_the_next_run_finds_nothing_of_the_last_one() -> None:
    """A Trainer, its module and its data hold each other: they wait for a collection."""
    alive: WeakSet[Classifier] = WeakSet()
    found = []

    class Counted(Classifier):
        def __init__(self) -> None:
            super().__init__()
            found.append(len(alive))
            alive.add(self)

    gc.disable()
    try:
        for seed in range(3):
            execute(task(seed=seed, model=Counted))
    finally:
        gc.enable()
    assert found == [0, 0, 0]


def test_schemes_differ_in_the_first_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else no step would be taken in so short a probe.
    monkeypatch.setattr("lightning_init.search.probe_phase.is_too_short", lambda state: False)
    Spied.seen.clear()
    schemes = ["he", "default", "xavier", halve, "optimal:max_probe_steps=4,verify_steps=0"]
    for scheme in schemes:
        execute(task(scheme, model=Spied, equal_budget=False))
    # What the probe's copy of the module saw is put back, as all state of its class.
    assert len(Spied.seen) == len(schemes)
    batches, masks, weights = zip(*Spied.seen, strict=True)
    assert all(torch.equal(batch, batches[0]) for batch in batches)
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert weights[0] not in weights[1:4]
    assert weights[4] == weights[0]  # from He, kept: nothing had settled
    Spied.seen.clear()
    execute(task("he", seed=2, model=Spied))
    assert not torch.equal(Spied.seen[0][0], batches[0])


def test_a_probe_is_charged_and_not_charged() -> None:
    full, equal = execute(task("optimal:max_probe_steps=7,on_unsettled=use"))
    assert (full.budget, full.steps, full.probe_steps) == ("full", 18, 7)
    assert (equal.budget, equal.steps, equal.probe_steps) == ("equal", 11, 7)
    assert full.probe_seconds == equal.probe_seconds > 0
    # Both start from the same redrawn weights and see the same batches.
    assert equal.curve[0] == full.curve[0]
    assert equal.final["train_loss"] != full.final["train_loss"]
    assert len(execute(task("optimal:max_probe_steps=7,on_unsettled=use", equal_budget=False))) == 1


def test_a_probe_that_takes_the_whole_budget_is_a_failed_run() -> None:
    full, equal = execute(task("optimal:max_probe_steps=18,on_unsettled=use"))
    assert full.status == "finished"
    assert equal.status == "failed"
    assert equal.reason == (
        "the probe took 18 of 18 planned steps, so nothing is left to train; lower"
        " `max_probe_steps`"
    )


def test_a_run_without_a_planned_length_cannot_be_charged() -> None:
    trainer = {"max_epochs": -1, "max_time": {"seconds": 1}}
    full, equal = execute(
        task("optimal:max_probe_steps=4,horizon=100,on_unsettled=use", trainer=trainer)
    )
    assert full.status == "finished"
    assert equal.reason == "the run has no planned length; give `max_epochs` or `max_steps`"


def test_an_exception_is_recorded() -> None:
    (record,) = execute(task(refuse))
    assert record.status == "failed"
    assert record.reason == "RuntimeError: seed 1 is not liked"
    assert record.steps == 0


def test_a_probe_that_took_no_step_is_charged_nothing() -> None:
    full, equal = execute(task("optimal:max_probe_steps=4"))
    assert (full.probe_steps, equal.probe_steps) == (0, 0)
    assert (equal.final, equal.curve) == (full.final, full.curve)


def test_a_failed_probe_is_two_failed_runs() -> None:
    class Broken(Classifier):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            raise RuntimeError("this batch is broken")

    records = execute(
        task("optimal:max_probe_steps=9,on_probe_failure=raise,on_unsettled=use", model=Broken)
    )
    assert [record.status for record in records] == ["failed", "failed"]
    assert [record.budget for record in records] == ["full", "equal"]
    assert "this batch is broken" in records[0].reason
    assert records[1].reason == records[0].reason


def test_a_loss_that_is_not_finite_is_a_diverged_run() -> None:
    (record,) = execute(task(model=partial(Classifier, explode=True)))
    assert record.status == "diverged"
    assert record.reason.startswith("the loss was not finite at optimizer step ")
    assert 0 < record.steps < 18


class NoMetric(Classifier):
    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_loss", torch.tensor(math.nan))


def test_a_metric_that_is_not_finite_is_a_diverged_run() -> None:
    (record,) = execute(task(model=NoMetric))
    assert (record.status, record.reason) == ("diverged", "test_loss not finite at the end")


def test_an_interrupt_is_not_a_failed_run() -> None:
    class Interrupted(Classifier):
        def on_train_start(self) -> None:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        execute(task(model=Interrupted))


def test_this_process_is_as_before() -> None:
    torch.manual_seed(11)
    before = torch.random.get_rng_state()
    os.environ.pop("PL_GLOBAL_SEED", None)
    level = logging.getLogger("lightning.pytorch").level
    threads = torch.get_num_threads()
    execute(task("optimal:max_probe_steps=4,on_unsettled=use", threads=2))
    execute(task(refuse))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "PL_GLOBAL_SEED" not in os.environ
    assert logging.getLogger("lightning.pytorch").level == level
    assert torch.get_num_threads() == threads


def test_the_module_may_bring_its_own_loaders() -> None:
    class WithLoader(Classifier):
        def train_dataloader(self) -> Any:
            return Points().train_dataloader()

    (own,) = execute(task("he", model=WithLoader, data=None))
    (given,) = execute(task("he", data=lambda: Points().train_dataloader()))
    assert own.status == given.status == "finished"
    assert own.final == given.final
    assert set(own.final) == {"train_loss"}


@pytest.mark.parametrize("data", [Points, None, lambda: Points().train_dataloader()])
def test_a_scheme_may_look_at_the_first_batch(data: Any) -> None:
    seen: list[Any] = []

    class WithLoader(Classifier):
        def train_dataloader(self) -> Any:
            return Points().train_dataloader()

    def build(seed: int, first_batch: Any) -> list[Callback]:
        seen.append(first_batch())
        return []

    scheme = type(make_scheme("he"))("curious", build)
    (record,) = execute(task(scheme, model=WithLoader, data=data))
    assert record.status == "finished"
    assert seen[0][0].shape == (16, 8)
    (plain,) = execute(task("default", model=WithLoader, data=data))
    assert record.final == plain.final


def test_trainer_arguments_reach_the_trainer() -> None:
    class Asked(Classifier):
        def on_train_start(self) -> None:
            trainer: Trainer = self.trainer
            assert trainer.accumulate_grad_batches == 2
            assert not trainer.loggers

    (record,) = execute(task(model=Asked, trainer={"max_epochs": 2, "accumulate_grad_batches": 2}))
    assert (record.status, record.reason, record.steps) == ("finished", "", 6)


def test_configured_callbacks_belong_to_one_run() -> None:
    class Counted(Callback):
        starts = 0

        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.starts += 1
            assert self.starts == 1

    class WithCallback(Classifier):
        def configure_callbacks(self) -> list[Callback]:
            return [Counted()]

    for _ in range(2):
        assert execute(task(model=WithCallback))[0].status == "finished"
