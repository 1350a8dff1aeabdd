"""Each capture is put back, and copies are tied to each other, not to the originals."""

from __future__ import annotations

import random
import threading
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import StepLR

from lightning_init.probe import snapshot


def draws() -> tuple[float, float, float]:
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_random_streams_are_put_back_also_after_an_error() -> None:
    restore = snapshot.capture_random_state()
    first = draws()
    restore()
    assert draws() == first
    restore()
    with pytest.raises(KeyError):
        fails_within()
    assert draws() == first


def fails_within() -> None:
    with snapshot.preserved_random_state():
        draws()
        raise KeyError


def test_attributes_are_put_back_added_and_deleted_ones_too() -> None:
    holder = nn.Module()
    holder.kept, holder.deleted = [1], 2
    restore = snapshot.capture_attributes(holder)
    kept = holder.kept
    holder.added, holder.kept = 1, []
    del holder.deleted
    restore()
    assert (holder.kept, holder.deleted, hasattr(holder, "added")) == ([1], 2, False)
    assert holder.kept is kept


def test_groups_that_a_scheduler_changed_are_put_back() -> None:
    optimizer = SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    restore = snapshot.capture_optimizers([optimizer])
    StepLR(optimizer, 1)
    optimizer.param_groups[0]["lr"] = 3.0
    restore()
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert "initial_lr" not in optimizer.param_groups[0]
    assert "step" not in vars(optimizer)


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
    twin = snapshot.copy_training(trainer, module, [optimizer], [scheduler], [])
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
    module.lock, module.generator = threading.Lock(), torch.Generator()
    module.data, module.owner = [torch.zeros(3)], trainer
    twin = snapshot.copy_training(trainer, module, [], [], [module.data])
    assert twin.module.lock is module.lock
    assert twin.module.data is module.data
    assert twin.module.owner is trainer
    assert twin.module.generator is not module.generator
    assert twin.module.layer.weight is not module.layer.weight


def test_a_tensor_with_a_graph_is_copied_without_it(trainer: Trainer) -> None:
    module = BoringModel()
    module.last = module.layer(torch.ones(1, 32)).sum()
    twin = snapshot.copy_training(trainer, module, [], [], [])
    assert twin.module.last.grad_fn is None
    assert torch.equal(twin.module.last, module.last)
