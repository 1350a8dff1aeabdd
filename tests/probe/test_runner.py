"""How a probe ends, and what it reports."""

from __future__ import annotations

import gc
import signal
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_init.probe import ForeseenRun, ProbeEnd, ProbeLimits, ProbeRun, run_probe


class Probes(Callback):
    """Runs one probe and keeps what it saw."""

    def __init__(self, limits: ProbeLimits, stop_at: int = 10**9) -> None:
        self.limits, self.stop_at = limits, stop_at
        self.steps: list[int] = []
        self.rates: set[float] = set()
        self.run: ProbeRun | None = None
        self.planned: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def on_start(copied: LightningModule, planned: ForeseenRun) -> None:
            assert copied is not pl_module
            self.planned = planned.planned_steps

        def on_step(copied: LightningModule, step: int, outputs: Any) -> bool:
            assert outputs["loss"].isfinite()
            self.steps.append(step)
            self.rates.add(float(trainer.optimizers[0].param_groups[0]["lr"]))
            return step >= self.stop_at

        self.run = run_probe(trainer, pl_module, on_step, self.limits, on_start)


class Model(BoringModel):
    """Halves its learning rate after every step; may save a checkpoint by itself."""

    saves = False

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_train_batch_end(self, *_: Any) -> None:
        if self.saves:
            self.trainer.save_checkpoint(f"step{self.trainer.global_step}.ckpt")


def probed(probes: Any, model: BoringModel | None = None, **options: Any) -> Any:
    defaults: dict[str, Any] = {"max_epochs": 2, "limit_train_batches": 4}
    trainer = Trainer(
        accelerator="cpu",
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[probes],
        **(defaults | options),
    )
    trainer.fit(model or Model())
    return probes


@pytest.mark.parametrize(
    ("limits", "stop_at", "end", "steps"),
    [
        (ProbeLimits(5), 10**9, ProbeEnd.BUDGET, 5),
        (ProbeLimits(50), 3, ProbeEnd.STOPPED, 3),
        (ProbeLimits(5), 5, ProbeEnd.STOPPED, 5),
        (ProbeLimits(50), 10**9, ProbeEnd.RUN_LIMIT, 8),
    ],
)
def test_a_probe_says_why_it_ended(
    limits: ProbeLimits, stop_at: int, end: ProbeEnd, steps: int
) -> None:
    probes = probed(Probes(limits, stop_at))
    assert probes.run is not None
    assert (probes.run.end, probes.run.steps, probes.run.planned_steps) == (end, steps, 8)
    assert probes.steps == list(range(1, steps + 1))
    assert probes.run.seconds > 0


@pytest.mark.parametrize(
    ("limits", "rates"),
    [
        (ProbeLimits(3), {0.1}),
        (ProbeLimits(3, learning_rate=0.3), {0.3}),
        (ProbeLimits(3, learning_rate="schedule"), {0.05, 0.025, 0.0125}),
    ],
)
def test_learning_rates_of_a_probe(limits: ProbeLimits, rates: set[float]) -> None:
    assert probed(Probes(limits)).rates == rates


@pytest.mark.parametrize(
    ("options", "planned"),
    [
        ({"max_epochs": 3}, 12),
        ({"max_steps": 7, "max_epochs": -1}, 7),
        ({"accumulate_grad_batches": 2}, 4),
    ],
)
def test_planned_steps(options: dict[str, Any], planned: float) -> None:
    assert probed(Probes(ProbeLimits(2)), **options).planned == planned


def test_no_checkpoint_of_a_probe_is_written(tmp_path: Path) -> None:
    model = Model()
    model.saves = True
    with pytest.raises(RuntimeError, match="after the probe"):
        probed(FailsAfterwards(ProbeLimits(6)), model)
    assert list(tmp_path.iterdir()) == []


class FailsAfterwards(Probes):
    """Ends the run between probe and training."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        assert self.steps == [1, 2, 3, 4, 5, 6]
        assert "save_checkpoint" not in vars(trainer)
        raise RuntimeError("after the probe")


class Watches(Callback):
    """Whether the copy outlives the probe without a collection of cycles."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        copies: list[weakref.ref[Any]] = []

        def on_step(copied: LightningModule, step: int, outputs: Any) -> bool:
            copies.extend(weakref.ref(item) for item in (copied, trainer.optimizers[0]))
            copies.extend(weakref.ref(parameter) for parameter in copied.parameters())
            return True

        gc.collect()
        gc.disable()
        try:
            run_probe(trainer, pl_module, on_step, ProbeLimits(1))
            self.alive = [copy() for copy in copies]
        finally:
            gc.enable()


def test_the_copy_is_freed_at_once() -> None:
    watches = Watches()
    probed(watches)
    assert watches.alive == [None] * 4


def test_signal_handlers_of_the_user_are_kept() -> None:
    def mine(*_: Any) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        probed(Probes(ProbeLimits(2)))
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
