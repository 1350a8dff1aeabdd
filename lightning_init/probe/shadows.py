"""Copies of the weights that other callbacks keep (EMA, SWA) follow a redraw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_init.probe import lightning_internals as internals


@contextmanager
def shadows_follow(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Copy weights written inside the block to every callback's copy of them.

    A module held by a callback is a copy when its parameters equal the module's before the block;
    a teacher or any other model keeps its own weights.
    """
    shadows = [
        shadow
        for callback in internals.callbacks(trainer)
        for shadow in internals.shadow_modules(callback)
        if shadow is not module and _same_weights(shadow, module)
    ]
    yield
    for shadow in shadows:
        own = dict(shadow.named_parameters())
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                own[name].copy_(parameter)


def _same_weights(shadow: nn.Module, module: nn.Module) -> bool:
    own, others = dict(shadow.named_parameters()), dict(module.named_parameters())
    if own.keys() != others.keys():
        return False
    return all(
        own[name].shape == other.shape
        and hasattr(own[name], "device_mesh") == hasattr(other, "device_mesh")
        and own[name].device.type != "meta"
        and not nn.parameter.is_lazy(other)
        and torch.equal(own[name], other.to(own[name].device))
        for name, other in others.items()
    )
