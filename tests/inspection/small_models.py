"""What the tests of declared and of traced activations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_init.inspection.activation_tracing import (
    NOT_REACHED,
    ActivationInFront,
    declared_activations,
    trace_model,
)
from lightning_init.inspection.signals import in_front
from lightning_init.inspection.weights import find_weights


def declared(model: nn.Module) -> dict[str, ActivationInFront]:
    return declared_activations(model, find_weights(model))


def traced(model: nn.Module, example_input: Any) -> dict[str, ActivationInFront]:
    """What feeds each weight of a known kind of layer, in the order of the weights."""
    found = trace_model(model, example_input).activations
    missing = in_front(NOT_REACHED, "assumed", scale_free=False)
    return {one.name: found.get(one.name, missing) for one in find_weights(model).weights}


class Between(nn.Module):
    """Two linear layers with `function` in between."""

    def __init__(self, function: Callable[[Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(width, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))


def between(function: Callable[[Tensor], Tensor], width: int = 8) -> ActivationInFront:
    return traced(Between(function, width), torch.zeros(3, 4))["second"]
