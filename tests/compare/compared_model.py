"""A small classification task whose runs take a tenth of a second."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(LightningModule):
    """Two layers with dropout; `bomb` is a file whose presence kills or stops the process once."""

    def __init__(
        self,
        learning_rate: float = 0.1,
        weight_decay: float = 1e-3,
        dropout: float = 0.2,
        bomb: str | None = None,
        explode: bool = False,
    ) -> None:
        super().__init__()
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.bomb, self.explode = bomb, explode
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.bomb is not None and self.global_step == 3:
            # Only one of two processes can remove the file.
            with contextlib.suppress(FileNotFoundError):
                Path(self.bomb).unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        if self.explode:
            loss = loss * 10.0 ** (10 * self.global_step)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("test_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )


class Points(LightningDataModule):
    """Three shifted Gaussian clouds in eight dimensions."""

    def __init__(self, points: int = 96, batch_size: int = 16, pause: float = 0.0) -> None:
        super().__init__()
        self.batch_size, self.pause = batch_size, pause
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(points) % 3
        inputs = torch.randn(points, 8, generator=generator)
        inputs[torch.arange(points), labels] += 2.0
        self.points = TensorDataset(inputs, labels)

    def setup(self, stage: str | None = None) -> None:
        time.sleep(self.pause)

    def train_dataloader(self) -> Any:
        return DataLoader(self.points, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        return DataLoader(self.points, batch_size=96)

    def test_dataloader(self) -> Any:
        return DataLoader(self.points, batch_size=96)


def halve(module: nn.Module, seed: int) -> None:
    """A user's own initialization; it draws from the global generator."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape) / parameter.shape[-1] ** 0.5)


def refuse(module: nn.Module, seed: int) -> None:
    raise RuntimeError(f"seed {seed}\nis not liked")
