"""A small Transformer on characters, with AdamW, warm-up and cosine: run it twice.

The first run leaves the variances that its weights ended at; the second starts from them.

    python examples/text_transformer.py --log-dir runs/first
    python examples/text_transformer.py --log-dir runs/second --recipe runs/first/init_recipe.json

The text is `--text FILE`, or the King James Bible of Debian's packages bible-kjv and
bible-kjv-text.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import OptimalVarianceInit

WINDOW, SYMBOLS = 64, 96


class CharacterModel(LightningModule):
    """Causal Transformer, normalization first: 4 layers, width 64."""

    def __init__(self, steps: int, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.steps = steps
        self.tokens = nn.Embedding(SYMBOLS, width)
        self.positions = nn.Embedding(WINDOW, width)
        block = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, layers, nn.LayerNorm(width), False)
        self.head = nn.Linear(width, SYMBOLS)

    def forward(self, symbols: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(WINDOW, device=symbols.device)
        stream = self.tokens(symbols) + self.positions.weight
        return self.head(self.blocks(stream, mask, is_causal=True))

    def _loss(self, windows: Tensor) -> Tensor:
        logits = self(windows[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self._loss(batch[0])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch[0]), prog_bar=True)

    def configure_optimizers(self) -> tuple:
        optimizer = torch.optim.AdamW(self.parameters(), lr=2e-3, weight_decay=0.1)
        warm_up = max(1, self.steps // 20)

        def factor(step: int) -> float:
            cosine = 0.5 + 0.5 * math.cos(math.pi * step / self.steps)
            return min(step / warm_up, cosine)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def windows(text: str, count: int) -> Tensor:
    """Cut a text into windows of characters, one more than the model looks at; evenly spread."""
    symbols = torch.tensor([min(max(ord(c) - 32, 0), SYMBOLS - 1) for c in text])
    starts = torch.linspace(0, len(symbols) - WINDOW - 1, count).long()
    return symbols[starts[:, None] + torch.arange(WINDOW + 1)]


def read_text(path: str | None) -> str:
    """Read a file, or the text that Debian's `bible` prints."""
    if path is not None:
        return Path(path).read_text(errors="replace")
    if shutil.which("bible") is None:
        raise SystemExit("Name a text: --text FILE; or apt-get install bible-kjv bible-kjv-text.")
    command = ["bible", "-l79", "Genesis1:1-Revelation22:21"]
    printed = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    return " ".join(printed.stdout.decode("latin-1").split())


def main(arguments: list[str] | None = None) -> OptimalVarianceInit:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", help="start from the variances of an earlier run")
    parser.add_argument("--log-dir", default="runs/first")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text", help="a text file; default: what `bible` prints")
    given = parser.parse_args(arguments)
    seed_everything(given.seed, verbose=False)
    text = read_text(given.text)
    cut = len(text) * 9 // 10
    training = TensorDataset(windows(text[:cut], 32 * given.steps))
    validation = TensorDataset(windows(text[cut:], 512))
    callback = OptimalVarianceInit(max_probe_steps=0, recipe=given.recipe)
    trainer = Trainer(
        max_steps=given.steps,
        callbacks=[callback],
        logger=TensorBoardLogger(given.log_dir, name="", version=""),
        enable_checkpointing=False,
    )
    loaders = DataLoader(training, 32, shuffle=True), DataLoader(validation, 128)
    trainer.fit(CharacterModel(given.steps), *loaders)
    return callback


if __name__ == "__main__":
    main()
