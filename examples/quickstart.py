"""Both callbacks on scikit-learn's digits: two tables, a picture and a TensorBoard page.

    pip install -e ".[examples]"
    python examples/quickstart.py

A 4-layer ReLU network is trained by SGD with weight decay. `FractionalMomentInit` draws the first
weights by a formula; `OptimalVarianceInit` probes, redraws what has settled, and restarts. Its
probe is far longer here than a tenth of the run, the default, so that there is something to see.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import FractionalMomentInit, OptimalVarianceInit


class DigitsMLP(LightningModule):
    """A plain ReLU network for 8x8 images."""

    def __init__(self, weight_decay: float = 5e-4) -> None:
        super().__init__()
        self.weight_decay = weight_decay
        self.net = nn.Sequential(
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
        # With an example at hand, the measured log-norms stand beside the predicted ones.
        self.example_input_array = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, weight_decay=self.weight_decay)


def digits_loader(batch_size: int = 32) -> DataLoader:
    """The 1797 digits, standardised to mean 0 and variance 1."""
    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32)
    pixels = (pixels - pixels.mean()) / pixels.std()
    data = TensorDataset(pixels, torch.tensor(labels))
    return DataLoader(data, batch_size=batch_size, shuffle=True)


def main(argv: list[str] | None = None) -> OptimalVarianceInit:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--max-probe-steps", type=int, default=1000)
    parser.add_argument("--log-dir", default="logs")
    arguments = parser.parse_args(argv)

    seed_everything(0)
    optimal = OptimalVarianceInit(max_probe_steps=arguments.max_probe_steps)
    trainer = Trainer(
        max_epochs=arguments.epochs,
        callbacks=[FractionalMomentInit(order=1.0), optimal],  # the probe starts from the first's
        logger=TensorBoardLogger(arguments.log_dir, name="quickstart"),
        enable_checkpointing=False,
        log_every_n_steps=10,
        deterministic=True,
    )
    trainer.fit(DigitsMLP(), digits_loader())
    print(f"\nFinal training loss: {trainer.callback_metrics['train_loss']:.4f}")
    if optimal.report is not None:
        picture = Path(trainer.log_dir) / "variances.png"
        optimal.report.plot().savefig(picture)
        print(f"The first picture, the variance of every layer through the probe:  {picture}")
    print(f"See it in TensorBoard:  tensorboard --logdir {arguments.log_dir}")
    return optimal


if __name__ == "__main__":
    main()
