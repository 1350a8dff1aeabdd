"""A checkpoint with everything that Lightning puts into one, and a check that a recipe reads it.

PYTHONPATH=<another release> python lightning_checkpoint.py write last.ckpt
python lightning_checkpoint.py check last.ckpt
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import InitRecipe, OptimalVarianceInit


class Saved(LightningModule):
    """Embedding, convolution and a head; with hyperparameters, two groups and a schedule."""

    def __init__(self, width: int = 8, rates: tuple[float, ...] = (0.05, 0.01)) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(
            nn.Embedding(20, width, padding_idx=0), nn.Conv1d(5, 4, 3), nn.BatchNorm1d(4)
        )
        self.head = nn.Linear(4 * (width - 2), 3)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.head(self.model(batch[0]).flatten(1)), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        rates = self.hparams["rates"]
        parts = zip((self.model, self.head), rates, strict=True)
        groups = [{"params": part.parameters(), "lr": lr} for part, lr in parts]
        optimizer = torch.optim.AdamW(groups)
        return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, list(rates), 100)]


def write(path: str) -> None:
    """Train a little and save."""
    torch.manual_seed(5)
    data = TensorDataset(torch.randint(0, 20, (64, 5)), torch.randint(0, 3, (64,)))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[
                OptimalVarianceInit(0),
                ModelCheckpoint(folder, monitor="loss", save_last=True),
                EarlyStopping("loss"),
            ],
        )
        trainer.fit(Saved(), DataLoader(data, batch_size=8))
        trainer.save_checkpoint(path)


def check(path: str) -> str:
    """The recipe of the file is that of the module that has its weights; who wrote it."""
    content = torch.load(path, weights_only=True)
    module = Saved()
    module.load_state_dict(content["state_dict"])
    pairs = list(
        zip(
            InitRecipe.from_checkpoint(path, Saved()).layers,
            InitRecipe.from_module(module).layers,
            strict=True,
        )
    )
    assert [found.name for found, _ in pairs] == ["model.0", "model.1", "head"]
    for found, expected in pairs:
        assert abs(found.sigma0_squared / expected.sigma0_squared - 1) <= 1e-12, found.name
    return str(content["pytorch-lightning_version"])


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        print(f"read with {lightning.__version__}; written by {check(sys.argv[2])}")
