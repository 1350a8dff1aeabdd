"""What a restart cannot make exact, or a probe cannot do: the user is told, and nothing changes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from contract_harness import Setup, build_trainer, fit, in_own_process, probe
from contract_models import Net, adam, loader, table, validation
from contract_record import attributes, plain, random_state
from lightning.pytorch import seed_everything
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.utils.data import Dataset

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe import observer


def told(make: Callable[[], Setup]) -> str:
    """The message of the refusal; model and random state must be as before."""
    seed_everything(7, verbose=False)
    setup = make()
    before = [plain(p) for p in _values(setup.model)], attributes(setup.model), random_state()
    trainer = build_trainer(setup, setup.ours)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the text is what is compared
        fit(trainer, setup)
    after = [plain(p) for p in _values(setup.model)], attributes(setup.model), random_state()
    assert before[0] == after[0]
    assert before[2] == after[2]
    return str(caught.value)


def _values(model: nn.Module) -> list[torch.Tensor]:
    tensors = [*model.parameters(), *model.buffers()]
    return [t for t in tensors if not nn.parameter.is_lazy(t) and t.device.type != "meta"]


# ----------------------------------------------------------------------------------------- refusals
def one_shot_iterator() -> Setup:
    return Setup(Net(), train=iter(list(loader()) * 3))


class Sharding(SingleDeviceStrategy):
    """Stands for FSDP and DeepSpeed, which a CPU cannot run."""


def sharded() -> Setup:
    internals.distributed_with_copies = lambda _: False
    return Setup(Net(), {"strategy": Sharding(torch.device("cpu"))}, loader())


def zero_learning_rate() -> Setup:
    return Setup(Net(lambda m: torch.optim.SGD(m.parameters(), lr=0.0)), train=loader())


class WritesToOriginal(Net):
    """A forward hook that finds the original in a list of the process, not in a closure."""

    def __init__(self) -> None:
        super().__init__(adam)
        ORIGINALS.append(self)
        self.net[0].register_forward_hook(_write_to_the_original)


ORIGINALS: list[Net] = []


def _write_to_the_original(*_: Any) -> None:
    ORIGINALS[0].net[1].running_mean.add_(0)


def writes_to_the_original() -> Setup:
    return Setup(WritesToOriginal(), train=loader())


class NeverSteps(Net):
    """Manual optimization that forgets to step."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


def never_steps() -> Setup:
    observer._STUCK_AFTER_BATCHES = 10
    return Setup(NeverSteps(), train=loader())


class ForeignOptimizer(Net):
    """Optimizes a tensor that is no part of the module."""

    def configure_optimizers(self) -> Any:
        self.loose = [nn.Parameter(torch.zeros(2))]
        return torch.optim.SGD(self.loose, lr=0.1)


def foreign_optimizer() -> Setup:
    return Setup(ForeignOptimizer(), train=loader())


def lazy_layer() -> Setup:
    net = Net()
    net.net[0] = nn.LazyLinear(10)
    return Setup(net, train=loader())


def unsettled() -> Setup:
    return Setup(Net(), train=loader(), ours=[probe(on_unsettled="raise")])


REFUSALS: dict[Callable[[], Setup], str] = {
    one_shot_iterator: "one-shot iterator.*`probe_dataloaders=`",
    sharded: "neither copy nor restore a model sharded by Sharding.*recipe",
    zero_learning_rate: "no weight moved.*`probe_lr=`",
    writes_to_the_original: "modified 'net.1.running_mean' of the real model",
    never_steps: "no optimizer step in 11 batches",
    foreign_optimizer: "no weight moved.*optimizer holds the module's parameters",
    lazy_layer: "'net.0.weight' is not initialized yet.*`setup`",
    unsettled: "on_unsettled='raise'",
}


@pytest.mark.parametrize("make", REFUSALS, ids=lambda make: make.__name__)
def test_a_refusal_says_what_to_do(make: Callable[[], Setup]) -> None:
    message = in_own_process(told, make)
    assert "\n" not in message
    assert re.search(REFUSALS[make], message), message


# ------------------------------------------------------------------------------ not exact, but told
class LongMemory(Dataset[Any]):
    """Its samples depend on a tensor too large to be copied for a probe."""

    def __init__(self) -> None:
        self.seen = torch.zeros(500_000)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        self.seen[index] += 1
        x, y = table()[index]
        return x + 1e-4 * self.seen[index], y


def _warnings_of(make: Callable[[], Setup]) -> list[str]:
    seed_everything(7, verbose=False)
    setup = make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(build_trainer(setup, setup.ours), setup)
    return [str(w.message) for w in caught]


def large_dataset_state() -> Setup:
    return Setup(Net(), train=loader(dataset=LongMemory()), val=validation())


def large_dataset_state_isolated() -> Setup:
    return Setup(Net(), train=loader(dataset=LongMemory()), ours=[probe(isolate_dataset=True)])


def test_large_state_of_a_dataset_is_not_restored_but_told() -> None:
    said = in_own_process(_warnings_of, large_dataset_state)
    assert [m for m in said if "The training data keep state" in m and "isolate_dataset" in m]
    said = in_own_process(_warnings_of, large_dataset_state_isolated)
    assert not [m for m in said if "The training data keep state" in m]


class OneShot(Dataset[Any]):
    """An iterator inside a dataset, used up by reading."""

    def __init__(self) -> None:
        self.stream: Iterator[Any] = (row for row in list(table()) * 9)

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        return next(self.stream)


def iterator_in_a_dataset() -> Setup:
    return Setup(Net(), train=loader(dataset=OneShot()))


def test_an_iterator_inside_a_dataset_is_told() -> None:
    said = in_own_process(_warnings_of, iterator_in_a_dataset)
    assert [m for m in said if "iterator" in m and "probe_dataloaders" in m]
