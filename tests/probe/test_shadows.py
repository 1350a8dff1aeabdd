"""Copies of the weights follow a redraw, wherever they are kept; other weights do not."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lightning_init.probe.shadows import shadows_follow


class Online(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        nn.init.zeros_(self.net[0].bias)


class Keeps(Callback):
    def __init__(self, value: Any) -> None:
        self.value = value


def redrawn(module: LightningModule, *callbacks: Callback) -> None:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=list(callbacks)
    )
    with shadows_follow(trainer, module), torch.no_grad():
        for layer in module.net.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.normal_()
                layer.bias.normal_()


def tensors(module: nn.Module) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_dictionaries_target_networks_vectors_and_arrays_follow() -> None:
    module = Online()
    module.average = tensors(module)
    module.target = copy.deepcopy(module.net).requires_grad_(False)
    module.row = nn.utils.parameters_to_vector(module.net.parameters()).detach()
    module.half = {n: p.to(torch.bfloat16) for n, p in tensors(module).items()}
    module.arrays = [p.numpy().copy() for p in tensors(module.net).values()]
    held = Keeps([copy.deepcopy(module.net)])
    redrawn(module, held)
    now = tensors(module.net)
    for name, value in now.items():
        assert torch.equal(module.average[f"net.{name}"], value)
        assert torch.equal(module.half[f"net.{name}"], value.to(torch.bfloat16))
        assert torch.equal(dict(module.target.named_parameters())[name], value)
        assert torch.equal(dict(held.value[0].named_parameters())[name], value)
    assert np.array_equal(module.arrays[0], now["0.weight"].numpy())


def test_a_teacher_a_zero_and_the_weights_of_another_stay() -> None:
    module = Online()
    teacher = Online().net
    module.teacher = [teacher]
    module.zeros, module.ones = torch.zeros(4), torch.ones(4)
    module.register_buffer("offset", torch.zeros(4))
    module.old = tensors(teacher)
    before = copy.deepcopy((module.old, module.zeros, module.ones, module.offset))
    redrawn(module, Keeps(torch.zeros(4)))
    after = (module.old, module.zeros, module.ones, module.offset)
    assert all(torch.equal(a, b) for a, b in zip(after[1:], before[1:], strict=True))
    assert all(torch.equal(after[0][n], before[0][n]) for n in before[0])


def test_layers_that_begin_alike_are_not_copies_of_each_other() -> None:
    module = Online()
    module.net = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2)
    redrawn(module)
    first, second = (layer.linear1.weight for layer in module.net.layers)
    assert not torch.equal(first, second)


def test_a_copy_that_cannot_be_written_is_named() -> None:
    module = Online()
    kept = module.net[0].weight.detach().numpy().copy()
    kept.flags.writeable = False
    with pytest.warns(UserWarning, match=r"Keeps\.value holds a copy of the weights.*redraw"):
        redrawn(module, Keeps(kept))


def test_nothing_is_said_where_there_are_no_copies() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        redrawn(Online(), Keeps({"rate": torch.rand(3, 4)}))
