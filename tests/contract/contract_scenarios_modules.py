"""Scenarios about what a module is made of and what its hooks do."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import torch
from contract_models import FEATURES, TARGETS, MetricNet, Net, adam, momentum
from contract_registry import add
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

add("metrics", model=MetricNet)


class Dense(Net):
    """A module with another network inside."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.net = network


def dense(*layers: nn.Module) -> Dense:
    """Input layer, ``layers`` on ten features, output layer."""
    first, last = nn.Linear(FEATURES, 10), nn.Linear(10, TARGETS)
    return Dense(nn.Sequential(first, nn.ReLU(), *layers, last))


class Tied(nn.Module):
    """The same weight twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, FEATURES)
        self.b.weight = self.a.weight
        self.out = nn.Linear(FEATURES, TARGETS)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.b(torch.relu(self.a(x)))))


class Recurrent(nn.Module):
    """Attention over an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.1)
        self.out = nn.Linear(8, TARGETS)

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lstm(x[..., None])
        return self.out(self.attention(h, h, h)[0][:, -1])


class Convolutional(nn.Module):
    """Convolutions with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 4, 3, groups=2)
        )
        self.out = nn.Linear(8, TARGETS)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x[:, None]).flatten(1))


def _frozen() -> Net:
    net = Net()
    net.net[0].weight.requires_grad_(False)
    return net


def _pruned() -> Net:
    net = dense(nn.Linear(10, 10), nn.ReLU())
    prune.random_unstructured(net.net[2], "weight", 0.3)
    return net


def _old_weight_norm() -> Net:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return dense(nn.utils.weight_norm(nn.Linear(10, 10)))


def _warm_lazy() -> Net:
    net = dense(nn.LazyLinear(10), nn.ReLU())
    net(torch.zeros(1, FEATURES))
    return net


add("tied_weights", model=lambda: Dense(Tied()))
add("recurrent_and_attention", model=lambda: Dense(Recurrent()))
add("convolutional", model=lambda: Dense(Convolutional()))
add("frozen_layer", model=_frozen)
add("pruned", model=_pruned)
add("lazy_after_a_pass", model=_warm_lazy)
add("weight_norm", model=lambda: dense(parametrizations.weight_norm(nn.Linear(10, 10))))
add("weight_norm_old", model=lambda: _old_weight_norm())

add("spectral_norm", model=lambda: dense(parametrizations.spectral_norm(nn.Linear(10, 10))))


# ------------------------------------------------------------------------------------------- hooks
class LateState(Net):
    """Makes state in `on_fit_start` that `training_step` needs, and counts its hooks."""

    def on_fit_start(self) -> None:
        self.fits = getattr(self, "fits", 0) + 1
        self.offset = torch.rand(())
        self.register_buffer("late", torch.rand(3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + self.offset * self.late.sum()

    def on_train_start(self) -> None:
        self.history.append(float(torch.rand(())))

    def on_train_epoch_start(self) -> None:
        self.history.append(self.current_epoch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if self.current_epoch == 1 and batch_idx == 6 else None

    def on_train_end(self) -> None:
        self.fits += 100


class AsksTrainer(Net):
    """Reads the Trainer in `training_step`."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        trainer = self.trainer
        progress = trainer.global_step / trainer.estimated_stepping_batches
        rate = self.optimizers().param_groups[0]["lr"]
        self.history.append(progress + rate + trainer.max_epochs + trainer.num_training_batches)
        assert trainer.training
        assert trainer.num_val_batches is not None
        return super().training_step(batch, batch_idx) * (1 + progress)


class StopsItself(Net):
    """Sets `should_stop` in the second epoch."""

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == 1 and batch_idx == 2:
            self.trainer.should_stop = True


class SkipsBatches(Net):
    """Returns no loss now and then."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else loss


class HoldsALock(Net):
    """Attributes that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.generator = torch.Generator().manual_seed(9)
        self.stream = (i for i in range(3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with self.lock:
            noise = torch.rand((), generator=self.generator)
        return super().training_step(batch, batch_idx) + noise * self.net[0].weight.sum()


class WritesToLogDir(Net):
    """Uses the logger's directory in a hook, and the experiment behind it."""

    def on_train_start(self) -> None:
        self.history.append(len(str(self.logger.log_dir)) > 0)
        assert self.trainer.log_dir is not None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.logger.log_metrics({"by_hand": float(batch_idx)}, step=self.global_step)
        return super().training_step(batch, batch_idx)


class KeepsLosses(Net):
    """Keeps a graph alive between steps, and a reference to its Trainer and itself."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[Tensor] = []
        self.me = [self]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.friend = self.trainer
        self.losses.append(super().training_step(batch, batch_idx))
        return self.losses[-1]

    def on_train_epoch_end(self) -> None:
        self.log("epoch_mean", torch.stack(self.losses).mean())
        self.losses.clear()


class GradientChecks(Net):
    """A forward hook and a tensor hook registered by closures over the module."""

    def __init__(self) -> None:
        super().__init__()
        self.net[0].register_forward_hook(self._count)
        self.net[4].weight.register_hook(lambda gradient: gradient * 0.9)
        self.forwards = 0

    def _count(self, *_: Any) -> None:
        self.forwards += 1


add("hooks_with_state", model=LateState)
add("training_step_asks_trainer", model=AsksTrainer)
add("should_stop", model=StopsItself)
add("skipped_batches", model=SkipsBatches)
add("uncopyable_attributes", model=HoldsALock)
add("log_dir_in_hook", model=WritesToLogDir, trainer=lambda: {"logger": CSVLogger(".")})
add("keeps_losses_and_trainer", model=KeepsLosses)
add("tensor_and_forward_hooks", model=GradientChecks)


# ------------------------------------------------------------------------------- late construction
class Configured(Net):
    """Layers made in `configure_model`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = None

    def configure_model(self) -> None:
        if self.net is None:
            self.net = Net().net


class MadeInSetup(Net):
    """Layers made in `setup`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = None

    def setup(self, stage: str) -> None:
        if self.net is None:
            self.net = Net().net


add("configure_model", model=Configured)
add("layers_made_in_setup", model=MadeInSetup)


# ----------------------------------------------------------------------------------------- compile
class Quiet(Net):
    """Without `self.log`, on which compiling a whole LightningModule fails by itself."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return nn.functional.mse_loss(self(batch[0]), batch[1])


def _compiled_part(backend: str) -> Net:
    net = Net(momentum)
    net.net = torch.compile(net.net, backend=backend)
    return net


add("compiled_part_eager", model=lambda: _compiled_part("eager"))
add("compiled_part_aot", model=lambda: _compiled_part("aot_eager"))
add("compiled_module", model=lambda: torch.compile(Quiet(adam), backend="eager"))
add("compiled_in_place", model=lambda: _compiled_in_place())


def _compiled_in_place() -> Net:
    net = Net(adam)
    net.net.compile(backend="eager")
    return net
