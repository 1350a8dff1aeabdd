"""Thirty small trainings that no constant of the package was chosen on, each with a probe.

    python tests/search/held_out_trainings.py RUNS

trains them and prints, from what they left on disk, how often the probe was right.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from rescore import Scored, rescore
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import OptimalVarianceInit

STEPS, SYMBOLS, LENGTH, CLASSES = 400, 16, 8, 4


class Recurrent(nn.Module):
    """The last state of a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.cell = nn.Embedding(SYMBOLS, 8), nn.GRU(8, 16, batch_first=True)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, symbols: Tensor) -> Tensor:
        return self.head(self.cell(self.tokens(symbols))[0][:, -1])


class Swapped(nn.Module):
    """Channels in front of positions, as convolutions want them."""

    def forward(self, stream: Tensor) -> Tensor:
        return stream.transpose(1, 2)


def _mlp(*middle: nn.Module) -> nn.Module:
    wide = LENGTH * 8
    return nn.Sequential(
        nn.Embedding(SYMBOLS, 8),
        nn.Flatten(),
        *(nn.Linear(wide, 32), *middle, nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, CLASSES)),
    )


def _conv() -> nn.Module:
    return nn.Sequential(
        *(nn.Embedding(SYMBOLS, 8), Swapped(), nn.Conv1d(8, 16, 3, padding=1)),
        *(nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 16, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16 * LENGTH, CLASSES)),
    )


def _transformer() -> nn.Module:
    block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(block, 1, enable_nested_tensor=False)
    return nn.Sequential(
        nn.Embedding(SYMBOLS, 16), encoder, nn.Flatten(), nn.Linear(16 * LENGTH, CLASSES)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: _mlp(nn.Tanh()),
    "normed": lambda: _mlp(nn.LayerNorm(32), nn.ReLU()),
    "conv": _conv,
    "gru": Recurrent,
    "transformer": _transformer,
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD .1": lambda p: torch.optim.SGD(p, 0.1),
    "SGD .1, decay .03": lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.03),
    "momentum .9, .02, decay .01": lambda p: torch.optim.SGD(p, 0.02, 0.9, weight_decay=0.01),
    "Adam .002": lambda p: torch.optim.Adam(p, 2e-3),
    "AdamW .003, decay .1": lambda p: torch.optim.AdamW(p, 3e-3, weight_decay=0.1),
    "AdamW .005, decay 1": lambda p: torch.optim.AdamW(p, 5e-3, weight_decay=1.0),
}
SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "constant": lambda o: lr_scheduler.ConstantLR(o, 1.0),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS),
    "warm-up": lambda o: lr_scheduler.LinearLR(o, 0.01, 1.0, STEPS // 10),
    "steps": lambda o: lr_scheduler.MultiStepLR(o, [STEPS // 2, 3 * STEPS // 4], 0.3),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 2 * o.param_groups[0]["lr"], STEPS),
}
# Every optimizer meets every schedule, and every network six trainings.
TRAININGS = [
    (network, optimizer, schedule)
    for row, optimizer in enumerate(OPTIMIZERS)
    for column, schedule in enumerate(SCHEDULES)
    for network in [list(NETWORKS)[(row + column) % len(NETWORKS)]]
]


class Classifier(LightningModule):
    """Which quarter of the alphabet the sum of some symbols falls into, with noise."""

    def __init__(self, network: str, optimizer: str, schedule: str) -> None:
        super().__init__()
        self.network = NETWORKS[network]()
        self.chosen = optimizer, schedule

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        optimizer = OPTIMIZERS[self.chosen[0]](self.parameters())
        scheduler = SCHEDULES[self.chosen[1]](optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def batches() -> DataLoader[Any]:
    """The same data for all, shuffled by the global seed."""
    generator = torch.Generator().manual_seed(0)
    symbols = torch.randint(0, SYMBOLS, (1600, LENGTH), generator=generator)
    labels = symbols[:, :3].sum(1) * CLASSES // (3 * SYMBOLS)
    noise = torch.rand(len(labels), generator=generator) < 0.1
    others = torch.randint(0, CLASSES, labels.shape, generator=generator)
    return DataLoader(TensorDataset(symbols, torch.where(noise, others, labels)), 16, shuffle=True)


class KeepsItsStart(Callback):
    """A checkpoint before the first step: what the probe said, before anything is known."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(Path(str(trainer.log_dir), "start.ckpt"))


def train(number: int, folder: Path) -> OptimalVarianceInit:
    """Probe for two fifths, then train; everything it leaves is in `folder`."""
    seed_everything(1000 + number, verbose=False)
    callback = OptimalVarianceInit(0.4, on_unsettled="use", verbose=False)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        callbacks=[callback, KeepsItsStart()],
        logger=TensorBoardLogger(folder.parent, name="", version=folder.name),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(*TRAININGS[number]), batches())
    return callback


def table(runs: Path) -> str:
    """How often the probes were right, by optimizer, in Markdown."""
    found: dict[str, list[Scored]] = defaultdict(list)
    for number, (_, optimizer, _) in enumerate(TRAININGS):
        for key in (optimizer, "all"):
            found[key] += rescore(runs / str(number)).values()
    lines = [
        "| optimizer | layers | `stationary` stayed | `drifting` moved on | within the interval |",
        "|---|---|---|---|---|",
    ]
    for name in [*OPTIMIZERS, "all"]:
        counts = []
        for verdict in ("stationary", "drifting"):
            held = [one.verdict_held for one in found[name] if one.verdict == verdict]
            told = [one for one in held if one is not None]
            counts.append(f"{sum(told)} of {len(told)}")
        inside = [one.projection_held for one in found[name] if one.projection_held is not None]
        cells = [name, str(len(found[name])), *counts, f"{sum(inside)} of {len(inside)}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    for each in range(len(TRAININGS)):
        if not (Path(sys.argv[1]) / str(each) / "init_recipe.json").exists():
            train(each, Path(sys.argv[1]) / str(each))
    print(table(Path(sys.argv[1])))
