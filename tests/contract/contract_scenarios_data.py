"""Scenarios about loaders, datasets, datamodules and the length of a run."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from contract_harness import probe
from contract_models import (
    CallCounter,
    CountingStream,
    Net,
    Noisy,
    SplitData,
    loader,
    table,
    validation,
)
from contract_registry import add
from torch.utils.data import DataLoader, RandomSampler, WeightedRandomSampler

# ---------------------------------------------------------------------------------- length of a run
add("max_epochs_two", trainer={"max_epochs": 2})
add("shorter_than_the_probe", trainer={"max_epochs": 1})
add("max_steps", trainer={"max_steps": 22, "max_epochs": -1})
add("max_steps_in_epochs", trainer={"max_steps": 21, "max_epochs": 100})
add("endless_epochs_and_early_stop", trainer={"max_epochs": -1, "max_steps": 25})
add("min_epochs", trainer={"min_epochs": 2, "max_epochs": 4})
add("max_time", trainer={"max_time": timedelta(hours=3)})
add("limit_train_batches", trainer={"limit_train_batches": 5, "max_epochs": 5})
add("limit_train_fraction", trainer={"limit_train_batches": 0.5, "max_epochs": 6})
add("limit_val_batches", trainer={"limit_val_batches": 1})
add("overfit_batches", trainer={"overfit_batches": 3, "max_epochs": 8})
add("no_validation", val=None)
add("no_sanity_check", trainer={"num_sanity_val_steps": 0})
add("full_sanity_check", trainer={"num_sanity_val_steps": -1})
add("validation_twice_per_epoch", trainer={"val_check_interval": 0.5})
add("validation_every_three_batches", trainer={"val_check_interval": 3})
add(
    "validation_across_epochs",
    trainer={"val_check_interval": 6, "check_val_every_n_epoch": None},
)
add("validation_by_time", trainer={"val_check_interval": "00:00:10:00"})
add("validation_every_other_epoch", trainer={"check_val_every_n_epoch": 2, "max_epochs": 4})
add("validation_shuffled", val=lambda: validation(shuffle=True))
add("several_validation_loaders", val=lambda: [validation(), validation(batch_size=6)])
add("fast_dev_run", trainer={"fast_dev_run": True}, redraws=False)


# ---------------------------------------------------------------------------------------- loaders
add("own_generator", train=lambda: loader(generator=torch.Generator().manual_seed(5)))
add(
    "own_generator_in_sampler",
    train=lambda: loader(
        shuffle=False,
        sampler=RandomSampler(table(), generator=torch.Generator().manual_seed(5)),
    ),
)
add(
    "weighted_sampler",
    train=lambda: loader(shuffle=False, sampler=WeightedRandomSampler([1.0, 2.0] * 16, 32)),
)
add("drop_last", train=lambda: loader(batch_size=5, drop_last=True))
add("workers", train=lambda: loader(num_workers=2))
add("persistent_workers", train=lambda: loader(num_workers=1, persistent_workers=True))


class Estimating(Net):
    """Opens the training loader in `configure_optimizers`."""

    def configure_optimizers(self) -> Any:
        self.total = self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


add("prepared_loader", model=Estimating)
add(
    "prepared_loader_with_persistent_workers",
    model=Estimating,
    train=lambda: loader(num_workers=1, persistent_workers=True),
)
add("prepared_loader_with_timed_validation", model=Estimating, trainer={"val_check_interval": 0.5})
add(
    "isolated_generator",
    ours=lambda: [probe(isolate_dataset=True)],
    train=lambda: loader(generator=torch.Generator().manual_seed(5)),
)


class PairNet(Net):
    """Reads two loaders at once."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        parts = batch if isinstance(batch, (list, tuple)) else list(batch.values())
        return sum(self.loss(part) for part in parts if part is not None)


add(
    "dict_of_loaders",
    model=PairNet,
    train=lambda: {"a": loader(), "b": loader(batch_size=8)},
)
add("list_of_loaders", model=PairNet, train=lambda: [loader(), loader(batch_size=8)])


class OwnLoaders(Net):
    """Makes its loaders itself, at every reload."""

    def __init__(self) -> None:
        super().__init__()
        self.reloads = 0
        self.data = table()

    def train_dataloader(self) -> Any:
        self.reloads += 1
        return DataLoader(self.data, batch_size=4, shuffle=True)

    def val_dataloader(self) -> Any:
        return validation()


class KeptLoader(Net):
    """Keeps a loader with a generator, and a dataset that counts, in its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = loader(dataset=CallCounter(), generator=torch.Generator().manual_seed(5))

    def train_dataloader(self) -> Any:
        return self.kept


add("module_loaders", model=OwnLoaders, train=None, val=None)
add(
    "reload_every_epoch",
    model=OwnLoaders,
    train=None,
    val=None,
    trainer={"reload_dataloaders_every_n_epochs": 1},
)
add("module_keeps_loader", model=KeptLoader, train=None)
add("module_keeps_workers", model=lambda: _with_workers(KeptLoader()), train=None)


def _with_workers(net: KeptLoader) -> Net:
    net.kept = loader(num_workers=1, persistent_workers=True)
    return net


# -------------------------------------------------------------------------------------- datamodules
class CountingData(SplitData):
    """Hooks around transfer, and a counter in the loader method."""

    def __init__(self) -> None:
        super().__init__()
        self.transfers: list[int] = []
        self.kept: Any = None

    def train_dataloader(self) -> Any:
        self.kept = super().train_dataloader()
        return self.kept

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.transfers.append(len(self.transfers))
        x, y = batch
        return x + 0.01 * len(self.transfers), y


add("datamodule_with_split", train=None, val=None, datamodule=SplitData)
add("datamodule_with_hooks", train=None, val=None, datamodule=CountingData)
add(
    "datamodule_reloaded",
    train=None,
    val=None,
    datamodule=SplitData,
    trainer={"reload_dataloaders_every_n_epochs": 1},
)
add(
    "datamodule_isolated",
    train=None,
    val=None,
    datamodule=SplitData,
    ours=lambda: [probe(isolate_dataset=True)],
)


# ----------------------------------------------------------------------------------------- datasets
def stream(kind: type[Noisy] = Noisy, **options: Any) -> DataLoader[Any]:
    """Loader over an iterable dataset."""
    return DataLoader(kind(), batch_size=4, **options)


add("iterable", train=stream)
add("iterable_workers", train=lambda: stream(num_workers=1))
add("iterable_counts_epochs", train=lambda: stream(CountingStream))
add(
    "iterable_counts_epochs_isolated",
    train=lambda: stream(CountingStream),
    ours=lambda: [probe(isolate_dataset=True)],
)
add("dataset_counts_calls", train=lambda: loader(dataset=CallCounter()))
add(
    "dataset_counts_calls_isolated",
    train=lambda: loader(dataset=CallCounter()),
    ours=lambda: [probe(isolate_dataset=True)],
)
add(
    "one_shot_iterator_with_probe_dataloaders",
    train=lambda: iter(list(loader()) * 4),
    ours=lambda: [probe(probe_dataloaders=loader())],
    trainer={"max_epochs": 1},
)
