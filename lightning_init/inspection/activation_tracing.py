"""Which activation and dropout stand in front of each weight, declared or traced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from lightning_init.inspection.declared_order import (
    declared_activations,
    listed,
    tensors_behind,
    unwrapped,
)
from lightning_init.inspection.regions import tensors_in
from lightning_init.inspection.signal_mode import SignalMode
from lightning_init.inspection.signals import ActivationInFront, Signal, in_front, undecided
from lightning_init.inspection.trial_run import arguments_of, trial_run
from lightning_init.inspection.weights import Weight, WeightInventory

__all__ = ["ActivationInFront", "declared_activations", "trace_activations"]

NOT_REACHED = undecided(Signal(), "not reached by the example input: linear rule used")


def trace_activations(
    model: nn.Module, weights: WeightInventory | Iterable[Weight], example_input: Any
) -> dict[str, ActivationInFront]:
    """Run the model once and see which activation and dropout feed each weight.

    The forward pass runs in train mode, where dropout acts, and eagerly even under `torch.compile`.
    Afterwards the model is what it was: buffers, modes, attributes, gradients and the random state
    of Python and torch, also when the forward pass fails.

    Args:
        model: The model; a forward pass on `example_input` must be possible on its device.
        weights: The weights to look for, as found by `find_weights`.
        example_input: A tensor, a tuple or list of positional arguments, or a dict of keyword
            arguments.

    Returns:
        One record per weight, by weight name, in the order of `weights`. What could not be decided
        has the source "assumed" and a note that says why and which rule stands in.

    Raises:
        ValueError: If the forward pass fails on `example_input`, or a lazy layer has no shape yet.

    Example:
        >>> import torch
        >>> from lightning_init.inspection.weights import find_weights
        >>> class Network(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.hidden, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        ...
        ...     def forward(self, x):
        ...         return self.head(self.hidden(x).relu())
        >>> model = Network()
        >>> found = trace_activations(model, find_weights(model), torch.zeros(1, 4))
        >>> found["head"].nonlinearity, found["head"].source, found["hidden"].first_layer
        ('relu', 'traced', True)
    """
    wanted = listed(weights)
    args, kwargs = arguments_of(example_input)
    mode = SignalMode(_parameters(model, wanted), tensors_in((args, kwargs)))
    scale_free = mode.scale_free(trial_run(unwrapped(model), mode, args, kwargs))
    return {
        weight.name: in_front(
            _one_of(mode.reached.get(weight.name, [NOT_REACHED])),
            "traced",
            scale_free=weight.name in scale_free,
        )
        for weight in wanted
    }


def _parameters(
    model: nn.Module, weights: tuple[Weight, ...]
) -> list[tuple[nn.Parameter, tuple[Weight, ...]]]:
    lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ValueError(
            f"Parameter {lazy[0]!r} is lazy and has no shape yet; "
            "run one forward pass on a batch first."
        )
    made_of: dict[int, list[Weight]] = {}
    for weight in weights:
        for parameter in tensors_behind(model, weight):
            made_of.setdefault(id(parameter), []).append(weight)
    return [(p, tuple(made_of.get(id(p), ()))) for p in model.parameters()]


def _one_of(signals: list[Signal]) -> Signal:
    """Return the signal that stands for all uses of a weight: the most frequent rule of them."""
    marks = frozenset().union(*(signal.marks for signal in signals))
    (rule, _), *others = Counter(signal.rule for signal in signals).most_common()
    chosen = next(signal for signal in signals if signal.rule == rule)
    merged = Signal(
        *rule,
        marks=marks,
        notes=tuple(dict.fromkeys(note for signal in signals for note in signal.notes)),
        decided=all(signal.decided for signal in signals),
        from_input=chosen.from_input and all(signal.from_input for signal in signals),
    )
    if not others:
        return merged
    names = ", ".join(dict.fromkeys(signal.nonlinearity for signal in signals))
    return undecided(merged, f"used {len(signals)} times, behind {names}: rule of {rule[0]} used")
