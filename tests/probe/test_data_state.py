"""What reading the data changes is put back."""

from __future__ import annotations

import random
import warnings
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    Subset,
    TensorDataset,
)

from lightning_init.probe.data_state import capture_data_state, data_held_by


class Transform:
    """A user's object with every kind of state."""

    def __init__(self) -> None:
        self.count = 0
        self.cache: dict[int, int] = {}
        self.recent: deque[int] = deque([1], maxlen=4)
        self.numpy = np.random.default_rng(1)
        self.legacy = np.random.RandomState(2)
        self.python = random.Random(3)
        self.torch = torch.Generator().manual_seed(4)
        self.array = np.zeros(3)
        self.tensor = torch.zeros(3)

    def __call__(self, index: int) -> tuple[Any, ...]:
        self.count += 1
        self.cache[len(self.cache)] = index
        self.recent.append(index)
        self.array += 1
        self.tensor += 1
        self.lazy = "opened"
        return (
            self.count,
            len(self.cache),
            tuple(self.recent),
            float(self.numpy.normal()),
            float(self.legacy.normal()),
            self.python.random(),
            float(torch.rand((), generator=self.torch)),
            float(self.array.sum()),
            float(self.tensor.sum()),
        )


class Numbers(Dataset[Any]):
    def __init__(self) -> None:
        self.transforms = [Transform()]

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return self.transforms[0](index)


def read(loader: Any) -> list[Any]:
    return list(loader)


def loader_of(dataset: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=None, **options)


def wrapped_in_combined_loader(dataset: Any) -> Any:
    combined = CombinedLoader([loader_of(dataset)], "sequential")
    iter(combined)
    return combined


@pytest.mark.parametrize(
    "wrap",
    [
        loader_of,
        lambda dataset: loader_of(Subset(dataset, [2, 0, 1])),
        lambda dataset: {"a": [loader_of(dataset)]}["a"][0],
        wrapped_in_combined_loader,
    ],
)
def test_a_second_reading_repeats_the_first(wrap: Any) -> None:
    dataset = Numbers()
    loader = wrap(dataset)
    restore = capture_data_state([loader])
    first = read(loader)
    assert dataset.transforms[0].count > 0
    restore()
    assert dataset.transforms[0].count == 0
    assert not hasattr(dataset.transforms[0], "lazy")
    assert read(loader) == first


def test_state_behind_a_bound_method_and_a_closure_is_found() -> None:
    transform = Transform()
    for collate in (transform.__call__, lambda index: transform(index)):
        loader = DataLoader(range(3), batch_size=None, collate_fn=collate)  # type: ignore[arg-type]
        restore = capture_data_state([loader])
        first = read(loader)
        restore()
        assert read(loader) == first
        restore()


def test_samplers_and_generators() -> None:
    data = TensorDataset(torch.arange(8))
    sampler = DistributedSampler(data, num_replicas=1, rank=0)
    shuffled = DataLoader(data, sampler=RandomSampler(data, generator=torch.Generator()))
    distributed = DataLoader(data, sampler=sampler)
    own = DataLoader(data, shuffle=True, generator=torch.Generator().manual_seed(2))
    restore = capture_data_state([[shuffled, distributed, own]])
    first = [torch.cat([b[0] for b in loader]).tolist() for loader in (shuffled, own)]
    sampler.set_epoch(3)
    restore()
    assert sampler.epoch == 0
    assert [torch.cat([b[0] for b in loader]).tolist() for loader in (shuffled, own)] == first


def test_a_kept_iterator_is_hidden_and_put_back() -> None:
    loader = DataLoader(TensorDataset(torch.arange(4)), num_workers=1, persistent_workers=True)
    kept = iter(loader)
    restore = capture_data_state([loader])
    assert loader._iterator is None
    restore()
    assert loader._iterator is kept
    kept._shutdown_workers()


@pytest.mark.parametrize("kind", ["list", "tensor"])
def test_long_lists_and_tensors_are_put_back(kind: str) -> None:
    dataset = Large(5000, kind)
    restore = capture_data_state([loader_of(dataset)])
    read(loader_of(dataset))
    restore()
    assert len(dataset.seen) == 5000
    assert kind == "list" or dataset.seen.sum() == 0


class Large(Numbers):
    def __init__(self, size: int, kind: str) -> None:
        super().__init__()
        self.seen: Any = list(range(size)) if kind == "list" else torch.zeros(size)

    def __getitem__(self, index: int) -> Any:
        self.seen.append(index) if isinstance(self.seen, list) else self.seen.add_(1)
        return index


def test_a_large_tensor_that_changed_is_reported() -> None:
    loader = loader_of(Large(1_000_000, "tensor"))
    restore = capture_data_state([loader])
    read(loader)
    with pytest.warns(UserWarning, match=r"\(DataLoader.dataset.seen\).*isolate_dataset"):
        restore()


@pytest.mark.parametrize("stream", [iter([1, 2, 3]), (i for i in range(3))])
def test_an_iterator_that_moved_behind_its_holder_is_reported(stream: Any) -> None:
    dataset = Numbers()
    dataset.stream = stream
    unread = capture_data_state([dataset])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unread()
    restore = capture_data_state([dataset])
    next(stream)
    with pytest.warns(UserWarning, match=r"\(Numbers\.stream\).*an iterator, `probe_dataloaders"):
        restore()


def test_unchanged_data_are_not_reported() -> None:
    loader = DataLoader(TensorDataset(torch.zeros(5000, 2)), batch_size=100, shuffle=True)
    restore = capture_data_state([loader, None, Transform, len])
    read(loader)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restore()


def test_data_in_a_module_are_found() -> None:
    module = LightningModule()
    dataset = TensorDataset(torch.zeros(2))
    module.data = dataset
    module.loaders = [DataLoader(dataset)]
    module.by_name = {"x": RandomSampler(dataset)}
    module.number = 3
    found = data_held_by(module)
    assert {type(item) for item in found} == {TensorDataset, DataLoader, RandomSampler}
    assert dataset in found
