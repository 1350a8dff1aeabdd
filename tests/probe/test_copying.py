"""Copies are tied to each other, not to the originals."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.optim import LBFGS, SGD, Adam
from torch.optim.lr_scheduler import StepLR

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
