"""Copies are tied to each other, not to the originals."""

from __future__ import annotations

import functools
import io
import threading
import weakref
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import LambdaLR, StepLR

from lightning_init.probe import copying


@pytest.fixture
def trainer() -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)


def train(optimizer: Any, module: nn.Module) -> None:
    def closure() -> Any:
        optimizer.zero_grad()
        loss = module.layer(torch.ones(1, 32)).pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("make", [SGD, Adam, LBFGS], ids=lambda make: make.__name__)
def test_copies_train_alone(make: Any, trainer: Trainer) -> None:
    module = BoringModel()
    optimizer = make(module.parameters(), lr=0.1)
    scheduler = StepLR(optimizer, 1)
    twin = copying.copy_training(trainer, module, [optimizer], [scheduler], [])
    before = {name: value.clone() for name, value in module.state_dict().items()}
    train(twin.optimizers[0], twin.module)
    assert not torch.equal(twin.module.layer.weight, module.layer.weight)
    assert all(torch.equal(value, before[n]) for n, value in module.state_dict().items())
    assert not optimizer.state
    assert twin.schedulers[0].optimizer is twin.optimizers[0]
    twin.schedulers[0].step()
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert twin.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


def test_what_cannot_be_copied_and_the_data_are_shared(trainer: Trainer) -> None:
    module = BoringModel()
    module.stream, module.generator = (i for i in range(3)), torch.Generator()
    module.lock = threading.Lock()
    module.data, module.owner = [torch.zeros(3)], trainer
    twin = copying.copy_training(trainer, module, [], [], [module.data])
    assert twin.module.stream is module.stream
    assert twin.module.lock is not module.lock
    assert twin.module.data is module.data
    assert twin.module.owner is trainer
    assert twin.module.generator is not module.generator
    assert twin.module.layer.weight is not module.layer.weight


def test_a_tensor_with_a_graph_is_copied_without_it(trainer: Trainer) -> None:
    module = BoringModel()
    module.last = module.layer(torch.ones(1, 32)).sum()
    twin = copying.copy_training(trainer, module, [], [], [])
    assert twin.module.last.grad_fn is None
    assert torch.equal(twin.module.last, module.last)


class Bound(BoringModel):
    """Binds itself in every way that a plain deep copy leaves as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.features: dict[str, Any] = {}
        self.count = 0
        self.layer.register_forward_hook(lambda m, i, o: self.features.update(h=o))
        self.layer.weight.register_hook(lambda gradient: self._scaled(gradient))
        self.layer.weight.tag = {"owner": self}
        forward = self.layer.forward
        self.layer.forward = lambda x: forward(x) * 2
        self.layer.parent = weakref.ref(self)
        self.layer.note = weakref.WeakMethod(self._scaled)
        weight = self.layer.weight
        self.norm = functools.lru_cache(lambda: weight.square().sum())
        self.put = [].append
        self.stream = (i for i in range(3))
        self.held = {"lock": threading.Lock(), "stream": self.stream, "file": io.StringIO("abc")}

    def _scaled(self, gradient: Any) -> Any:
        self.count += 1
        return gradient * 1.5


def test_closures_hooks_and_weak_references_of_a_copy_lead_to_the_copy(trainer: Trainer) -> None:
    module = Bound()
    optimizer = SGD(module.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: setattr(module, "stepped", True))
    scheduler = LambdaLR(optimizer, lambda epoch: 1.0 + module.count)
    twin = copying.copy_training(trainer, module, [optimizer], [scheduler], [])
    copied: Any = twin.module
    before = module.layer.weight.detach().clone()

    loss = copied.layer(torch.ones(1, 32)).sum() + copied.norm()
    loss.backward()
    twin.optimizers[0].step()
    twin.schedulers[0].step()

    assert copied.features.keys() == {"h"}
    assert copied.layer.parent() is copied
    assert copied.layer.note().__self__ is copied
    assert copied.layer.weight.tag["owner"] is copied
    assert (copied.count, copied.stepped) == (1, True)
    assert twin.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.2)
    assert not torch.equal(copied.layer.weight, before)
    assert copied.put.__self__ is not module.put.__self__
    assert copied.held["lock"] is not module.held["lock"]
    assert copied.held["stream"] is module.stream

    assert module.features == {}
    assert (module.count, hasattr(module, "stepped")) == (0, False)
    assert module.layer.weight.grad is None
    assert torch.equal(module.layer.weight, before)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_variables_that_two_closures_share_stay_shared(trainer: Trainer) -> None:
    module = BoringModel()
    count = 0

    def step() -> None:
        nonlocal count
        count += len(module.name)

    def read() -> int:
        return count

    module.name, module.step_it, module.read = "me", step, read
    copied: Any = copying.copy_training(trainer, module, [], [], []).module
    copied.step_it()
    assert (copied.read(), module.read()) == (2, 0)


def test_a_copy_of_data_shares_only_what_cannot_be_copied() -> None:
    stream = (i for i in range(3))
    data = {"rows": [1, 2], "stream": stream, "lock": threading.Lock()}
    copied = copying.copy_alone(data, {})
    assert copied["rows"] == [1, 2]
    assert copied["rows"] is not data["rows"]
    assert copied["stream"] is stream
    assert copied["lock"] is not data["lock"]
