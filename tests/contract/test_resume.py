"""A resumed run is never probed or redrawn, and its loss curve is the uninterrupted one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract_harness import Setup, build_trainer, in_own_process, probe
from contract_models import Net, loader, validation
from contract_record import plain
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    ModelCheckpoint,
    OnExceptionCheckpoint,
)
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from lightning_init import FractionalMomentInit, OptimalVarianceInit

BATCHES = 8  # per epoch


class Steady(Net):
    """Draws no random number while it trains, so that a resumed curve can equal a whole one."""

    def __init__(self) -> None:
        super().__init__()
        self.net[3] = nn.Identity()
        self.lr, self.batch_size = 0.02, 4

    def train_dataloader(self) -> Any:
        return loader(shuffle=False, batch_size=self.batch_size)

    def val_dataloader(self) -> Any:
        return validation()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Losses(Callback):
    """The loss of every batch; may stop a run by an exception."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.curve: dict[int, Any] = {}
        self.starts: list[Any] = []
        self.fails_at = fails_at

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.starts.append([plain(p) for p in pl_module.parameters()])
        if trainer.global_step == 0:
            trainer.save_checkpoint("start.ckpt")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        self.curve[trainer.global_step] = plain(outputs["loss"])
        if trainer.global_step == self.fails_at:
            raise RuntimeError("planted")


class LateStrategy(SingleDeviceStrategy):
    """Restores after its setup, as FSDP, ModelParallel and DeepSpeed do."""

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        return True


Ours = Callable[[], list[Any]]
OURS: dict[str, Ours] = {
    "probe": lambda: [probe()],
    "fractional": lambda: [FractionalMomentInit(verbose=False, seed=5)],
    "both": lambda: [FractionalMomentInit(verbose=False, seed=5), probe()],
}


class Run:
    """One fit on a new Trainer in the present process."""

    def __init__(
        self,
        ours: list[Any],
        *others: Callback,
        fails_at: int | None = None,
        model: Net | None = None,
        **options: Any,
    ) -> None:
        seed_everything(7, verbose=False)
        self.ours, self.losses = ours, Losses(fails_at)
        self.setup = Setup(
            model or Steady(),
            {"max_epochs": 4} | options,
            callbacks=[self.losses, *others],
        )
        self.trainer = build_trainer(self.setup, ours)

    def fit(self, **options: Any) -> Run:
        self.trainer.fit(self.setup.model, **options)
        return self

    @property
    def probes(self) -> int:
        # A resumed run takes over the report of the run before it; a recipe comes from a probe.
        return sum(isinstance(c, OptimalVarianceInit) and c.recipe is not None for c in self.ours)

    @property
    def curve(self) -> dict[int, Any]:
        return self.losses.curve


def every_epoch() -> ModelCheckpoint:
    """Keeps a checkpoint of each epoch."""
    return ModelCheckpoint(".", "{epoch}", save_top_k=-1, save_last=True)


def forbid_probes() -> None:
    """From here on a probe, or a draw of any kind, is an error."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("drew weights on a resumed run")

    ours = [module for name, module in sys.modules.items() if name.startswith("lightning_init.")]
    for name in ("run_probe", "fill_normal_", "fill_orthogonal_"):
        holders = [module for module in ours if name in vars(module)]
        assert holders
        for module in holders:
            setattr(module, name, refuse)


def tail(curve: dict[int, Any], after: int) -> dict[int, Any]:
    return {step: loss for step, loss in curve.items() if step > after}


# ------------------------------------------------------------------------------------------ routes
def by_path(ours: Ours) -> None:
    whole = Run(ours(), every_epoch()).fit()
    forbid_probes()
    resumed = Run(ours()).fit(ckpt_path="epoch=1.ckpt")
    assert resumed.curve == tail(whole.curve, 2 * BATCHES)
    assert resumed.probes == 0


def by_attribute(ours: Ours) -> None:
    whole = Run(ours(), every_epoch()).fit()
    forbid_probes()
    resumed = Run(ours())
    resumed.trainer.ckpt_path = "epoch=1.ckpt"
    assert resumed.fit().curve == tail(whole.curve, 2 * BATCHES)


def from_a_run_without_us(ours: Ours) -> None:
    whole = Run([], every_epoch()).fit()
    forbid_probes()
    resumed = Run(ours()).fit(ckpt_path="epoch=0.ckpt")
    assert resumed.curve == tail(whole.curve, BATCHES)


def from_us_without_us(ours: Ours) -> None:
    whole = Run(ours(), every_epoch()).fit()
    resumed = Run([]).fit(ckpt_path="epoch=0.ckpt")
    assert resumed.curve == tail(whole.curve, BATCHES)


def from_step_zero(ours: Ours) -> None:
    whole = Run(ours()).fit()
    forbid_probes()
    resumed = Run(ours()).fit(ckpt_path="start.ckpt")
    assert resumed.losses.starts == whole.losses.starts
    assert resumed.curve == whole.curve


def from_last(ours: Ours) -> None:
    whole = Run(ours()).fit()
    with pytest.raises(RuntimeError, match="planted"):
        Run(ours(), every_epoch(), fails_at=20).fit()
    forbid_probes()
    resumed = Run(ours(), every_epoch()).fit(ckpt_path="last")
    assert resumed.curve == tail(whole.curve, 2 * BATCHES)


def after_an_exception(ours: Ours) -> None:
    with pytest.raises(RuntimeError, match="planted"):
        Run(ours(), OnExceptionCheckpoint("."), fails_at=11).fit()
    forbid_probes()
    # Lightning resumes by itself where it finds the checkpoint of an exception; from the middle of
    # an epoch it does so on other batches, so the comparison is with a resume without us.
    shutil.copy("on_exception.ckpt", "kept")
    plainly = Run([], OnExceptionCheckpoint(".")).fit()
    shutil.copy("kept", "on_exception.ckpt")  # removed at the end of a fit that went well
    resumed = Run(ours(), OnExceptionCheckpoint(".")).fit()
    assert resumed.curve == plainly.curve
    assert min(resumed.curve) > 10


def same_trainer_after_an_exception(ours: Ours) -> None:
    broken = Run(ours(), fails_at=11)
    with pytest.raises(RuntimeError, match="planted"):
        broken.fit()
    forbid_probes()
    weights = [plain(p) for p in broken.setup.model.parameters()]
    broken.losses.fails_at = None
    broken.fit()
    assert broken.losses.starts[-1] == weights
    assert sorted(broken.curve) == list(range(1, broken.trainer.global_step + 1))


def late_restore(ours: Ours) -> None:
    def strategy() -> LateStrategy:
        return LateStrategy(torch.device("cpu"))

    # A fresh run on such a strategy is an ordinary one.
    whole = Run(ours(), every_epoch(), strategy=strategy()).fit()
    assert whole.probes == sum(isinstance(c, OptimalVarianceInit) for c in whole.ours)
    forbid_probes()
    if not any(isinstance(c, FractionalMomentInit) for c in ours()):
        resumed = Run(ours(), strategy=strategy()).fit(ckpt_path="epoch=1.ckpt")
        assert resumed.curve == tail(whole.curve, 2 * BATCHES)


def with_learning_rate_finder(ours: Ours) -> None:
    finder = LearningRateFinder(num_training_steps=5, early_stop_threshold=None)
    _with_tuner(ours, finder)


def with_batch_size_finder(ours: Ours) -> None:
    _with_tuner(ours, BatchSizeFinder(max_trials=1, steps_per_trial=2, init_val=4))


def _with_tuner(ours: Ours, tuner: Callback) -> None:
    whole = Run(ours(), every_epoch()).fit()
    fresh = Run(ours(), tuner, max_epochs=1).fit()
    # A tuner restores a checkpoint of its own on a fresh run: that is no resume.
    assert fresh.probes == sum(isinstance(c, OptimalVarianceInit) for c in fresh.ours)
    forbid_probes()
    tuner_again = type(tuner)(**_tuner_options(tuner))
    resumed = Run(ours(), tuner_again).fit(ckpt_path="epoch=1.ckpt")
    # Lightning's tuners drop the step and the optimizer of a resume; the weights remain.
    weights = torch.load("epoch=1.ckpt", weights_only=False)["state_dict"]
    names = dict(resumed.setup.model.named_parameters())
    assert resumed.losses.starts == [[plain(weights[name]) for name in names]]
    assert len(whole.curve) == 4 * BATCHES


def _tuner_options(tuner: Callback) -> dict[str, Any]:
    if isinstance(tuner, LearningRateFinder):
        return {"num_training_steps": 5, "early_stop_threshold": None}
    return {"max_trials": 1, "steps_per_trial": 2, "init_val": 4}


ROUTES = (
    by_path,
    by_attribute,
    from_a_run_without_us,
    from_us_without_us,
    from_step_zero,
    from_last,
    after_an_exception,
    same_trainer_after_an_exception,
    late_restore,
    with_learning_rate_finder,
    with_batch_size_finder,
)


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.__name__)
def test_a_resumed_run_keeps_its_weights(route: Callable[[Ours], None], ours: str) -> None:
    in_own_process(route, OURS[ours])
