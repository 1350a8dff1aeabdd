"""Train an MLP on Fashion-MNIST (or MNIST) from a chosen initialization.

    python examples/fashion_mnist.py --init optimal --weight-decay 1e-3
    python examples/fashion_mnist.py --init he --data-dir path/to/mnist

Prints the final training loss and the test accuracy. The data are the original four idx files,
plain or gzipped; on Debian and Ubuntu `apt-get install dataset-fashion-mnist` brings them.
"""

from __future__ import annotations

import argparse
import gzip
import struct
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import FractionalMomentInit, OptimalVarianceInit

DEBIAN_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
SPLITS = {"train": "train", "test": "t10k"}


def read_idx(directory: Path, name: str) -> Tensor:
    """Read one idx file of unsigned bytes, plain or gzipped."""
    for path in (directory / name, directory / f"{name}.gz"):
        if path.exists():
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else None
            content = path.read_bytes() if content is None else content
            dimensions = content[3]
            shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
            values = torch.frombuffer(bytearray(content[4 + 4 * dimensions :]), dtype=torch.uint8)
            return values.reshape(shape)
    raise SystemExit(
        f"No {name}[.gz] in {directory}. Install Debian's `dataset-fashion-mnist`, or point"
        " --data-dir at a directory with the idx files of Fashion-MNIST or MNIST."
    )


def load_split(directory: Path, split: str, mean: float, std: float) -> tuple[Tensor, Tensor]:
    """Images as standardised rows of 784 and labels."""
    prefix = SPLITS[split]
    images = read_idx(directory, f"{prefix}-images-idx3-ubyte").float() / 255
    labels = read_idx(directory, f"{prefix}-labels-idx1-ubyte").long()
    return (images.flatten(1) - mean) / std, labels


class MLP(LightningModule):
    """784-128-128-10 with ReLU, trained by plain SGD."""

    def __init__(self, learning_rate: float, weight_decay: float) -> None:
        super().__init__()
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.net = nn.Sequential(
            nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.log("test_loss", nn.functional.cross_entropy(logits, batch[1]))
        self.log("test_accuracy", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )


def callbacks_for(init: str, max_probe_steps: int) -> list[Callback]:
    """He is order 2; the probe of `optimal` starts from He."""
    he = FractionalMomentInit(order=2.0, first_layer="activation", verbose=False)
    return {
        "default": [],
        "he": [he],
        "fractional": [FractionalMomentInit(order=1.0)],
        "optimal": [he, OptimalVarianceInit(max_probe_steps=max_probe_steps)],
    }[init]


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=DEBIAN_DIRECTORY)
    parser.add_argument("--init", default="optimal")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--max-probe-steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)

    raw = read_idx(options.data_dir, "train-images-idx3-ubyte").float() / 255
    mean, std = raw.mean().item(), raw.std().item()
    train = TensorDataset(*load_split(options.data_dir, "train", mean, std))
    test = TensorDataset(*load_split(options.data_dir, "test", mean, std))

    seed_everything(options.seed)
    model = MLP(options.learning_rate, options.weight_decay)
    trainer = Trainer(
        max_epochs=options.epochs,
        callbacks=callbacks_for(options.init, options.max_probe_steps),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model, DataLoader(train, batch_size=options.batch_size, shuffle=True))
    train_loss = trainer.callback_metrics["train_loss"].item()
    tested = trainer.test(model, DataLoader(test, batch_size=1000), verbose=False)[0]
    print(f"init={options.init} seed={options.seed} weight_decay={options.weight_decay:g}")
    print(f"final training loss {train_loss:.4f}, test accuracy {tested['test_accuracy']:.4f}")
    return {"train_loss": train_loss, **tested}


if __name__ == "__main__":
    main()
