"""torchdata's `StatefulDataLoader`: exact, also from the middle of an epoch and in checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from contract_harness import Setup, compare, in_own_process, probe
from contract_models import FEATURES, Net, adam, loader, table
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from test_resume import Run, Steady
from torch.utils.data import IterableDataset

StatefulDataLoader = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader


def stateful(**options: Any) -> Any:
    """Shuffled batches of four, eight per epoch."""
    dataset = options.pop("dataset", None)
    shuffled = {} if isinstance(dataset, IterableDataset) else {"shuffle": True}
    return StatefulDataLoader(
        table() if dataset is None else dataset, **({"batch_size": 4} | shuffled | options)
    )


def begun(batches: int, **options: Any) -> Any:
    """A loader that goes on where another one was left, in the middle of an epoch."""
    other = stateful(**options)
    iterator = iter(other)
    for _ in range(batches):
        next(iterator)
    state = other.state_dict()
    resumed = stateful(**options)
    resumed.load_state_dict(state)
    return resumed


def asked(**options: Any) -> Any:
    """A loader whose state was asked for before it was read, which makes its iterator."""
    made = stateful(**options)
    made.state_dict()
    return made


def begun_and_asked(batches: int) -> Any:
    """Both: the iterator that waits stands in the middle of an epoch."""
    made = begun(batches)
    made.state_dict()
    return made


def left(batches: int) -> Any:
    """A loader that was read for a while and left there."""
    made = stateful()
    iterator = iter(made)
    for _ in range(batches):
        next(iterator)
    return made


class Stream(IterableDataset[Any]):
    """Rows that depend on how many were read, which its state holds."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[Any]:
        for _ in range(32):
            self.position += 1
            x = torch.full((FEATURES,), 0.01 * self.position)
            yield x, torch.tanh(x[:3])

    def __len__(self) -> int:
        return 32

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Several(Net):
    def loss(self, batch: Any) -> Any:
        return super().loss(batch["a"]) + super().loss(batch["b"])


class Data(LightningDataModule):
    def train_dataloader(self) -> Any:
        return stateful()


def by_step() -> ModelCheckpoint:
    """Keeps checkpoints of the middle of an epoch."""
    return ModelCheckpoint(".", "{step}", save_top_k=-1, every_n_train_steps=5)


def setup(train: Callable[[], Any], **options: Any) -> Callable[[], Setup]:
    return lambda: Setup(Net(adam), train=train(), callbacks=[by_step()], **options)


PLAIN = {
    "shuffled": setup(stateful),
    "own_generator": setup(lambda: stateful(generator=torch.Generator().manual_seed(5))),
    "begun": setup(lambda: begun(3)),
    "asked": setup(asked),
    "left": setup(lambda: left(3)),
    "stream": setup(lambda: stateful(dataset=Stream())),
    "begun_stream": setup(lambda: begun(3, dataset=Stream())),
    "begun_and_asked": setup(lambda: begun_and_asked(3)),
    "several": lambda: Setup(
        Several(adam), train={"a": stateful(), "b": loader()}, callbacks=[by_step()]
    ),
    "datamodule": lambda: Setup(Net(adam), datamodule=Data(), callbacks=[by_step()]),
}
WITH_WORKERS = {
    "workers": setup(lambda: stateful(num_workers=2)),
    "persistent": setup(lambda: stateful(num_workers=2, persistent_workers=True)),
    "begun_workers": setup(lambda: begun(3, num_workers=2)),
    "asked_workers": setup(lambda: asked(num_workers=2)),
    "stream_workers": setup(lambda: stateful(dataset=Stream(), num_workers=2)),
}
EXACT = PLAIN | WITH_WORKERS


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in WITH_WORKERS else ()) for n in EXACT],
)
def test_it_is_exact(name: str) -> None:
    assert compare(EXACT[name])[:10] == []


# ---------------------------------------------------------------------------------------- resuming
class Reads(Steady):
    """Draws nothing while it trains, and reads its data in an order that only the loader knows."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.options = options

    def train_dataloader(self) -> Any:
        return stateful(**self.options)


def goes_on(probed: bool, options: dict[str, Any]) -> Any:
    """The losses of a run, and of one that goes on from the middle of its second epoch."""

    def ours() -> list[Any]:
        return [probe()] if probed else []

    whole = Run(ours(), by_step(), model=Reads(options)).fit()
    assert whole.probes == probed
    again = Run(ours(), model=Reads(options)).fit(ckpt_path="step=10.ckpt")
    assert again.probes == 0
    return {step: loss for step, loss in whole.curve.items() if step > 10}, again.curve


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("probed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_run_resumed_in_mid_epoch_reads_on(probed: bool, workers: int) -> None:
    whole, again = in_own_process(goes_on, probed, {"num_workers": workers})
    assert len(again) == 22
    assert whole == again
