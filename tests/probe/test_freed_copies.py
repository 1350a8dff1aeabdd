"""What a probe trained is gone before its first steps are run again, and before the real run."""

from __future__ import annotations

import gc

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from models import QUIET, Notes

from lightning_init import OptimalVarianceInit
from lightning_init.probe import runner

SEEN = Notes()


class OwnAdam(torch.optim.Adam):
    """Told from optimizers that earlier tests left for the garbage collector."""


class WithMoments(BoringModel):
    """Notes how many of its kind, and how many of its optimizers hold moments, at every start."""

    def on_fit_start(self) -> None:
        self.look()

    def configure_optimizers(self) -> torch.optim.Optimizer:  # type: ignore[override]
        return OwnAdam(self.parameters(), 1e-3)

    def look(self) -> None:
        there = gc.get_objects()
        alive = sum(type(one) is WithMoments for one in there)
        moments = sum(type(one) is OwnAdam and len(one.state) > 0 for one in there)
        SEEN.append((alive, moments))


class LooksOnce(Callback):
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        if trainer.global_step == 0:
            pl_module.look()  # type: ignore[operator]


def test_no_copy_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LARGE", 0)
    probe = OptimalVarianceInit(8, on_unsettled="use", verbose=False)  # which takes its 8 steps
    callbacks = [probe, LooksOnce()]
    options = {"max_epochs": 1, "limit_train_batches": 16, "limit_val_batches": 0, **QUIET}
    Trainer(accelerator="cpu", callbacks=callbacks, **options).fit(WithMoments())
    # The probe, its replay, the real run, and its first step: the model, and one copy in a probe.
    assert [alive for alive, _ in SEEN.rows] == [2, 2, 1, 1]
    assert [moments for _, moments in SEEN.rows] == [0, 0, 0, 0]
