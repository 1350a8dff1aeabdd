"""Small modules and data that hold every kind of state a restart must leave alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, random_split
from torchmetrics import MeanMetric, MeanSquaredError, MetricCollection

SAMPLES, FEATURES, TARGETS = 32, 6, 3


def table(samples: int = SAMPLES) -> TensorDataset:
    """A fixed regression problem."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, FEATURES, generator=generator)
    return TensorDataset(x, torch.tanh(x[:, :TARGETS] * 2) + 0.1)


def loader(**options: Any) -> DataLoader[Any]:
    """Shuffled batches of four, eight per epoch."""
    dataset = options.pop("dataset", None)
    options = {"batch_size": 4, "shuffle": True} | options
    return DataLoader(table() if dataset is None else dataset, **options)


def validation(**options: Any) -> DataLoader[Any]:
    """Three batches."""
    return DataLoader(table(12), **({"batch_size": 4} | options))


Configure = Callable[["Net"], Any]


def adam(net: Net) -> Any:
    return Adam(net.parameters(), lr=0.01)


def momentum(net: Net) -> Any:
    return SGD(net.parameters(), lr=0.02, momentum=0.9)


class Net(LightningModule):
    """Dense layers with batch norm, dropout, a buffer outside the state_dict and a counter."""

    def __init__(self, configure: Configure = adam) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(FEATURES, 10),
            nn.BatchNorm1d(10),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(10, TARGETS),
        )
        self.configure = configure
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.calls = 0
        self.history: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        self.seen += 1
        self.calls += 1
        self.history.append(float(np.random.rand()))
        return nn.functional.mse_loss(self(x), y)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        x, y = batch
        loss = nn.functional.mse_loss(self(x), y)
        self.log("val_loss", loss)
        return loss

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("test_loss", self.validation_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return self.configure(self)


class MetricNet(Net):
    """Metrics as attributes and in a collection, logged as objects."""

    def __init__(self, configure: Configure = adam) -> None:
        super().__init__(configure)
        self.train_error = MeanSquaredError()
        self.parts = MetricCollection({"mse": MeanSquaredError(), "again": MeanSquaredError()})
        self.mean = MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        prediction = self(x)
        loss = nn.functional.mse_loss(prediction, y)
        self.train_error(prediction, y)
        self.mean.update(loss.detach())
        self.log("train_error", self.train_error, on_step=True, on_epoch=True)
        self.log_dict(self.parts(prediction, y))
        return {"loss": loss, "batch": batch_idx}

    def on_train_epoch_end(self) -> None:
        self.log("mean", self.mean.compute())
        self.mean.reset()


class ManualNet(Net):
    """Two optimizers and schedulers, stepped by hand, with clipping and a toggle."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.second = nn.Linear(TARGETS, TARGETS)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        for index, (optimizer, scheduler) in enumerate(
            zip(self.optimizers(), self.lr_schedulers(), strict=True)
        ):
            self.toggle_optimizer(optimizer)
            output = self.net(x)
            loss = nn.functional.mse_loss(self.second(output) if index else output, y)
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, 0.5, "norm")
            optimizer.step()
            scheduler.step()
            self.untoggle_optimizer(optimizer)
            self.log(f"loss{index}", loss, on_step=True, on_epoch=True)

    def configure_optimizers(self) -> Any:
        optimizers = [
            Adam(self.net.parameters(), lr=0.01),
            SGD(self.second.parameters(), lr=0.05, momentum=0.9),
        ]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(o, 0.99) for o in optimizers]


class Sam(Optimizer):
    """Sharpness-aware minimization: holds a base optimizer that shares its groups."""

    def __init__(self, parameters: Any, radius: float = 0.05, **options: Any) -> None:
        super().__init__(parameters, {"radius": radius, **options})
        self.base_optimizer = SGD(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure()
        moves = []
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    moves.append((p, p.grad * group["radius"]))
                    p.add_(moves[-1][1])
        with torch.enable_grad():
            closure()
        for p, move in moves:
            p.sub_(move)
        self.base_optimizer.step()
        return loss


# ------------------------------------------------------------------------------------------- data
class Noisy(IterableDataset[Any]):
    """Endless-looking stream from the global random state."""

    def __init__(self, batches: int = 8) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.batches * 4):
            x = torch.randn(FEATURES)
            yield x, x[:TARGETS] * 0.5


class CountingStream(Noisy):
    """Counts its epochs and orders the samples by them."""

    epoch = 0

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        generator = torch.Generator().manual_seed(self.epoch)
        for _ in range(self.batches * 4):
            x = torch.randn(FEATURES, generator=generator)
            yield x, x[:TARGETS] * 0.5


class CallCounter(Dataset[Any]):
    """Augments by a counter of its own calls and a numpy generator of its own."""

    def __init__(self) -> None:
        self.table = table()
        self.calls = 0
        self.drawn: list[int] = []
        self.random = np.random.default_rng(5)

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Any:
        self.calls += 1
        self.drawn.append(index)
        x, y = self.table[index]
        return x + 0.001 * (self.calls + len(self.drawn)) + float(self.random.normal()), y


class SplitData(LightningDataModule):
    """Splits at random in `setup`, and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 4
        self.setups = 0

    def setup(self, stage: str) -> None:
        self.setups += 1
        assert self.setups == 1
        self.train, self.held_out = random_split(table(44), [32, 12])

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.held_out, batch_size=self.batch_size)
