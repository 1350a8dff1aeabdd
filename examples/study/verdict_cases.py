"""The trainings of the verdict study: small networks on digits and Fashion-MNIST."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from fashion_mnist import DEBIAN_DIRECTORY, load

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda p, decay: torch.optim.SGD(p, lr=0.1, weight_decay=decay),
    "momentum": lambda p, decay: torch.optim.SGD(p, lr=0.02, momentum=0.9, weight_decay=decay),
    "AdamW": lambda p, decay: torch.optim.AdamW(p, lr=1e-3, weight_decay=decay),
}
DECAYS = (0.0, 1e-3, 1e-2)
EPOCHS = {"digits": 70, "Fashion-MNIST": 5}
# Runs of many relaxation times, (1 - momentum) / (2 lr decay) steps, so that layers can settle.
# AdamW multiplies its decay by the learning rate: 1.0 is 1e-3 a step.
LONG_RUNS = (
    ("digits", "MLP", "SGD", 1e-2, 280),
    ("digits", "MLP", "SGD", 5e-2, 280),
    ("digits", "MLP", "momentum", 1e-2, 280),
    ("digits", "MLP", "momentum", 5e-2, 280),
    ("digits", "MLP", "AdamW", 1.0, 280),
    ("Fashion-MNIST", "MLP", "momentum", 1e-2, 15),
)


@dataclass(frozen=True)
class Case:
    """One training: data, network, optimizer, decay, seed of weights and batches, epochs."""

    data: str
    network: str
    optimizer: str
    decay: float
    seed: int
    long: int | None = None

    @property
    def epochs(self) -> int:
        return self.long or EPOCHS[self.data]

    @property
    def name(self) -> str:
        name = f"{self.data} {self.network}, {self.optimizer}, decay {self.decay:g}"
        return name if self.long is None else f"{name}, {self.long} epochs"


class LastStep(nn.Module):
    """The output of an LSTM at its last time step."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, batch_first=True)

    def forward(self, rows: Tensor) -> Tensor:
        return self.lstm(rows)[0][:, -1]


class Classifier(LightningModule):
    def __init__(self, case: Case, pixels: int) -> None:
        super().__init__()
        self.case = case
        self.net = network(case.network, pixels)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return OPTIMIZERS[self.case.optimizer](self.parameters(), self.case.decay)


def network(name: str, pixels: int) -> nn.Module:
    side = round(pixels**0.5)
    if name == "MLP":
        return nn.Sequential(
            nn.Linear(pixels, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )
    if name == "CNN":
        return nn.Sequential(
            nn.Unflatten(1, (1, side, side)),
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (side // 2) ** 2, 10),
        )
    return nn.Sequential(nn.Unflatten(1, (side, side)), LastStep(side, 32), nn.Linear(32, 10))


def dataset(name: str, directory: Path | None = None) -> TensorDataset:
    """Training images as standardised rows of pixels, and labels."""
    if name == "Fashion-MNIST":
        return load(directory or DEBIAN_DIRECTORY)[0]
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32)
    return TensorDataset((images - images.mean()) / images.std(), torch.tensor(labels))


def all_cases(seeds: Sequence[int]) -> list[Case]:
    """Digits with every seed, the larger data with the first one only."""
    kinds = [("digits", "MLP", optimizer) for optimizer in OPTIMIZERS]
    kinds += [("digits", "CNN", "momentum"), ("digits", "LSTM", "AdamW")]
    kinds += [("Fashion-MNIST", "MLP", optimizer) for optimizer in OPTIMIZERS]
    return [
        case
        for seed in seeds
        for case in (
            *(Case(*kind, seed, epochs) for *kind, epochs in LONG_RUNS),
            *(Case(*kind, decay, seed) for kind in kinds for decay in DECAYS),
        )
        if case.data == "digits" or seed == seeds[0]
    ]
