"""Schemes of the study that a comparison has no name for start where they say."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))
import study_models
from study_data import StudyData
from study_peers import with_transfers

from lightning_init import InitRecipe
from lightning_init.compare.runs import RunTask
from lightning_init.compare.schemes import make_scheme


@pytest.fixture(autouse=True)
def images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up images in the place of a data set."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(96, 784, generator=generator)
    splits = (inputs, inputs[:, :10].argmax(1)), (inputs[:40], inputs[:40, :10].argmax(1))
    monkeypatch.setitem(sys.modules["study_data"].LOADERS, "mnist", lambda root, pixels: splits)
    sys.modules["study_data"].load_splits.cache_clear()


class KeepStart(Callback):
    """Copies the weights that a run starts from."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = {name: value.clone() for name, value in pl_module.state_dict().items()}


def test_a_transfer_starts_from_the_variances_of_a_wider_run(tmp_path: Path) -> None:
    model = partial(study_models.MLP, widths=[784, 32, 24, 10])
    data = partial(StudyData, "mnist", samples=90, batch_size=16, validation=30, evaluation=70)
    plain = RunTask(make_scheme("default"), 0, model, data, {"max_epochs": 4})
    (scheme,) = with_transfers(["transfer:width=2"], plain, tmp_path)
    assert scheme.pilot_steps == 24
    (found,) = tmp_path.glob("*/*1000-1.json")
    wider = {layer.name: layer for layer in InitRecipe.load(found).layers}["net.2"]
    assert tuple(wider.shape) == (48, 64)
    kept = KeepStart()
    trainer = Trainer(
        max_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[*scheme.build(0, list), kept],
    )
    trainer.fit(model(), data())
    drawn = kept.start["net.2.weight"]
    assert drawn.shape == (24, 32)
    assert drawn.var().item() * 32 == pytest.approx(wider.variance * 64, rel=0.25)
    with pytest.raises(ValueError, match="rate and width, got 'depth'"):
        with_transfers(["transfer:depth=2"], plain, tmp_path)


def test_the_loss_of_every_step_is_kept_in_numbers() -> None:
    """Small tensors of every step would keep the memory between them from the allocator."""
    model = study_models.MLP([784, 16, 10])
    data = StudyData("mnist", samples=96, batch_size=16, validation=30, evaluation=70)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=2, enable_model_summary=False, **quiet)
    trainer.fit(model, data)
    assert len(model.step_losses) == trainer.global_step == 12
    assert {type(loss) for loss in model.step_losses} == {float}
    mean = trainer.callback_metrics["epoch_train_loss"].item()
    assert mean == pytest.approx(sum(model.step_losses[6:]) / 6, rel=1e-6)
