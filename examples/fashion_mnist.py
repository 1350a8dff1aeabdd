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
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from lightning_init import FractionalMomentInit, OptimalVarianceInit

DEBIAN_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")


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


def load(directory: Path) -> tuple[TensorDataset, TensorDataset]:
    """Training and test images as rows of 784, standardised by the training pixels; labels."""
    splits = []
    for prefix in ("train", "t10k"):
        images = read_idx(directory, f"{prefix}-images-idx3-ubyte").flatten(1).float()
        splits.append((images, read_idx(directory, f"{prefix}-labels-idx1-ubyte").long()))
    mean, std = splits[0][0].mean(), splits[0][0].std()
    train, test = (TensorDataset((images - mean) / std, labels) for images, labels in splits)
    return train, test


def shuffled(data: TensorDataset, batch_size: int) -> DataLoader:
    """Whole batches by one indexing operation, four times as fast as collating single images."""
    batches = BatchSampler(RandomSampler(data), batch_size, drop_last=False)
    return DataLoader(data, sampler=batches, batch_size=None)


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


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, default=DEBIAN_DIRECTORY)
    parser.add_argument("--init", default="optimal")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--max-probe-steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, float]:
    options = parse(argv)
    train, test = load(options.data_dir)
    result = train_once(options, train, test)
    print(f"init={options.init} seed={options.seed} weight_decay={options.weight_decay:g}")
    print(
        f"final training loss {result['train_loss']:.4f},"
        f" test loss {result['test_loss']:.4f}, test accuracy {result['test_accuracy']:.4f}"
    )
    return result


def train_once(
    options: argparse.Namespace, train: TensorDataset, test: TensorDataset
) -> dict[str, float]:
    """One run; the training loss is that of the trained model over the whole training set."""
    seed_everything(options.seed, verbose=False)
    model = MLP(options.learning_rate, options.weight_decay)
    trainer = Trainer(
        max_epochs=options.epochs,
        callbacks=callbacks_for(options.init, options.max_probe_steps),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model, shuffled(train, options.batch_size))
    on_train = trainer.test(model, DataLoader(train, batch_size=1000), verbose=False)[0]
    on_test = trainer.test(model, DataLoader(test, batch_size=1000), verbose=False)[0]
    return {"train_loss": on_train["test_loss"], **on_test}


if __name__ == "__main__":
    main()
