"""Tiny models and loaders for the callbacks' tests."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU in between."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def regression_loader(count: int = 64, batch_size: int = 8, width: int = 16) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, width, generator=generator)
    targets = inputs[:, :4].sin() + 0.1 * torch.randn(count, 4, generator=generator)
    return DataLoader(TensorDataset(inputs, targets), batch_size=batch_size, shuffle=True)


class Regression(LightningModule):
    """An MLP on a small regression; records its losses."""

    def __init__(self, net: nn.Module | None = None, lr: float = 0.05, decay: float = 0.0) -> None:
        super().__init__()
        self.net = mlp(16, 32, 32, 4) if net is None else net
        self.lr, self.decay = lr, decay
        self.losses: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    test_step = validation_step

    def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.net(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, weight_decay=self.decay)


class NoisyQuadratic(LightningModule):
    """h/2 |w - w*|^2 with gradient noise of variance C: the steady state is known exactly."""

    def __init__(
        self, lr: float = 0.05, momentum: float = 0.9, noise: float = 1.0, curvature: float = 1.0
    ) -> None:
        super().__init__()
        self.layer = nn.Linear(200, 100, bias=False)
        self.lr, self.momentum, self.noise, self.curvature = lr, momentum, noise, curvature
        # Twice the steady state's variance, so that the loss falls and no factor is suspicious.
        steady = lr * noise / ((1 - momentum) * curvature * (2 - lr * curvature / (1 + momentum)))
        nn.init.normal_(self.layer.weight, std=(2 * steady) ** 0.5)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        weight = self.layer.weight
        kick = self.noise**0.5 * torch.randn_like(weight)
        return 0.5 * self.curvature * weight.square().sum() + (weight * kick).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=self.momentum)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(torch.zeros(50, 1), batch_size=1)


class Silent(NoisyQuadratic):
    """The same gradients, and a loss that does not rise while V does."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss - loss.detach()


class StateAtTrainStart(Callback):
    """Keeps the weights with which the real run begins."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = {k: v.detach().clone() for k, v in pl_module.state_dict().items()}
        self.position = (trainer.global_step, trainer.current_epoch)
        self.optimizer_states = [len(o.state) for o in trainer.optimizers]


def fit(model: Any, *callbacks: Any, loader: Any = None, **options: Any) -> Trainer:
    """Train quietly for three epochs of eight steps, or as the options say."""
    trainer = Trainer(callbacks=list(callbacks), **{**QUIET, "max_epochs": 3, **options})
    own = isinstance(model, NoisyQuadratic)
    trainer.fit(model, loader if loader is not None or own else regression_loader())
    return trainer


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Notes(logging.Handler):
    """A list in which tests count what a probe does: state of a module would be put back.

    The walk over objects does not enter the logging package.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    def append(self, row: Any) -> None:
        self.rows.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]
