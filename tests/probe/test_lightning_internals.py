"""Private names of Lightning: present here, and a readable error where one has gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy
from torch import nn

from lightning_init.probe import lightning_internals as internals


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )


@pytest.mark.parametrize(
    ("accessor", "name"),
    [
        (internals.prepared_loader, "_combined_loader"),
        (internals.train_data_source, "_data_source"),
        (internals.callbacks, "callbacks"),
    ],
)
def test_a_missing_name_is_told_in_one_sentence(accessor: Any, name: str) -> None:
    class Empty:
        fit_loop: Any

    class Moved:
        fit_loop = Empty()

    with pytest.raises(internals.LightningInternalsError) as caught:
        accessor(Moved())
    message = str(caught.value)
    assert f".{name}`" in message
    assert "recipe" in message
    assert "\n" not in message


def test_a_moved_class_is_told_with_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.pytorch import loops

    monkeypatch.delattr(loops, "_TrainingEpochLoop")
    with pytest.raises(internals.LightningInternalsError, match=r"loops\._TrainingEpochLoop"):
        internals.probe_fit_loop(Trainer(accelerator="cpu", logger=False), None, "x")


def test_a_probe_loop_keeps_the_limits_and_drops_the_minima(trainer: Trainer) -> None:
    loop = internals.probe_fit_loop(trainer, "loaders", "train_dataloader")
    assert (loop.max_epochs, loop.min_epochs) == (trainer.max_epochs, 0)
    assert (loop.epoch_loop.max_steps, loop.epoch_loop.min_steps) == (-1, None)
    assert internals.train_data_source(trainer)[0] != "loaders"


@pytest.mark.parametrize(
    ("strategy", "copies"),
    [
        (SingleDeviceStrategy(torch.device("cpu")), True),
        (DDPStrategy(), True),
        (FSDPStrategy(), False),
    ],
)
def test_only_replicated_parameters_can_be_copied(strategy: Any, copies: bool) -> None:
    assert internals.distributed_with_copies(strategy) is copies


def test_uncompile_drops_what_compile_planted() -> None:
    module = BoringModel()
    assert not internals.uncompile(module)
    module._compiler_ctx = {"compiler": "dynamo"}
    module.forward = lambda x: x  # type: ignore[method-assign]
    assert internals.uncompile(module)
    assert "forward" not in vars(module)
    assert module._compiler_ctx is None


def test_write_count_grows_with_every_write() -> None:
    tensor = torch.zeros(2)
    before = internals.write_count(tensor)
    with torch.no_grad():
        tensor.copy_(torch.ones(2))
    assert internals.write_count(tensor) == before + 1
    tensor.sum()
    assert internals.write_count(tensor) == before + 1


def test_a_rewrapped_step_belongs_to_the_copy() -> None:
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    internals.rewrap_step(optimizer)
    weight.grad = torch.ones(1)
    optimizer.step()
    assert weight.item() == 0.0
    assert optimizer._opt_called
    assert optimizer.step._wrapped_by_lr_sched


class Sees(Callback):
    """What is known about a resume at each hook."""

    def __init__(self) -> None:
        self.seen: dict[str, bool] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.seen["setup"] = internals.is_restoring(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen["fit_start"] = internals.is_restoring(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen["outside"] = False


def one_fit(sees: Sees, path: str | None, strategy: Any = "auto") -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        strategy=strategy,
        max_epochs=3,
        limit_train_batches=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[sees],
    )
    trainer.fit(BoringModel(), ckpt_path=path)
    return trainer


class Late(SingleDeviceStrategy):
    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True


@pytest.mark.parametrize("late", [False, True])
def test_a_resume_is_known_before_the_checkpoint_is_read(late: bool, tmp_path: Path) -> None:
    def strategy() -> Any:
        return Late(torch.device("cpu")) if late else "auto"

    fresh, resumed = Sees(), Sees()
    trainer = one_fit(fresh, None, strategy())
    assert fresh.seen == {"setup": False, "fit_start": False, "outside": False}
    trainer.fit_loop.max_epochs = 1
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    one_fit(resumed, str(tmp_path / "kept.ckpt"), strategy())
    assert resumed.seen["setup"]
    assert resumed.seen["fit_start"]
    assert not internals.is_restoring(trainer)


@pytest.mark.parametrize(
    ("path", "tuner"),
    [(None, False), ("a/.lr_find_1.ckpt", True), (".scale_batch_size_2", True), ("b.ckpt", False)],
)
def test_a_tuners_own_checkpoint_is_known(trainer: Trainer, path: str | None, tuner: bool) -> None:
    trainer.ckpt_path = path
    assert internals.restored_by_tuner(trainer) is tuner
