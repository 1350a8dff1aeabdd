"""The activation in front of each weight: named, traced, or read off the order of modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from lightning_init.inspection.activation_tracing import (
    ActivationInFront,
    declared_activations,
    trace_activations,
)
from lightning_init.inspection.weights import Weight


def activations_in_front(
    model: nn.Module, weights: Iterable[Weight], example_input: Any = None
) -> tuple[dict[str, ActivationInFront], list[str]]:
    """Find what stands in front of each weight.

    Args:
        model: The model; it is left as it was.
        weights: The weights to look at.
        example_input: What ``model`` is called with once, to trace it; None reads the order of
            modules only.

    Returns:
        The activations by layer name, and the names of the weights that could not be decided.
    """
    weights = tuple(weights)
    if example_input is not None:
        found: Mapping[str, ActivationInFront] = trace_activations(model, weights, example_input)
    else:
        found = declared_activations(model, weights)
    return dict(found), [weight.name for weight in weights if weight.name not in found]


def named_activations(
    model: nn.Module,
    weights: Iterable[Weight],
    nonlinearity: str,
    param: float | tuple[float, ...] | None,
    dropout: float,
    example_input: Any = None,
) -> dict[str, ActivationInFront]:
    """Put one named activation in front of every weight but the first.

    Which weight is the first is read from the model where it can be; otherwise the first one in
    module order is taken, and the note says so.
    """
    weights = tuple(weights)
    found, undecided = activations_in_front(model, weights, example_input)
    names = {weight.name for weight in weights}
    first_known = any(activation.first_layer for activation in found.values())
    result = {}
    for index, weight in enumerate(weights):
        known = found.get(weight.name)
        guessed = not first_known and index == 0 and len(names) > 1
        first = guessed or (known is not None and known.first_layer)
        result[weight.name] = ActivationInFront(
            nonlinearity="linear" if first else nonlinearity,
            param=None if first else param,
            dropout=0.0 if first else dropout,
            source="assumed" if guessed else "declared",
            first_layer=first,
            marks=() if known is None else known.marks,
            note="taken for the first layer" if guessed else "",
        )
    return result
