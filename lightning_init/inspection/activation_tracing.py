"""Which activation and dropout stand in front of each weight, traced in one run of the model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy

from lightning_init.inspection.declared_order import (
    declared_activations,
    tensors_behind,
    unwrapped,
)
from lightning_init.inspection.parameter_walk import modules_of, own_parameters, walk_parameters
from lightning_init.inspection.reasons import EMBEDDING_LAYERS
from lightning_init.inspection.signals import ActivationInFront, Signal, in_front, undecided
from lightning_init.inspection.trial_run import arguments_of, eager, trial_run
from lightning_init.inspection.weights import Weight, WeightInventory, find_weights

if TYPE_CHECKING:
    from lightning_init.inspection.signal_mode import SignalMode
    from lightning_init.inspection.traced_norms import TracedNorms

__all__ = [
    "ActivationInFront",
    "Traced",
    "declared_activations",
    "trace_model",
    "trace_run",
]

NOT_REACHED = undecided(Signal(), "not reached by the example input: linear rule used")


class Traced(NamedTuple):
    """What one run of a model showed.

    Args:
        inventory: The weights, with those that only the run tells: parameters of any class that it
            uses as matrices of linear maps.
        activations: What stands in front of the weights that the run reached, by weight name.
        norms: What entered the layers, before anything is drawn.
    """

    inventory: WeightInventory
    activations: dict[str, ActivationInFront]
    norms: TracedNorms


def trace_model(
    model: nn.Module,
    example_input: Any,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    *,
    on_meta: bool = False,
) -> Traced:
    """Run the model once: its weights, whatever class holds them, and what feeds each.

    The forward pass runs in train mode, where dropout acts, and eagerly even under `torch.compile`.
    Afterwards the model is what it was: buffers, modes, attributes, gradients and the random state
    of Python and torch, also when the forward pass fails.

    Args:
        model: The model; a forward pass on `example_input` must be possible on its device.
        example_input: A tensor, a tuple or list of positional arguments, or a dict of keyword
            arguments.
        include: Glob patterns, as in `find_weights`.
        exclude: Likewise.
        on_meta: Likewise; the example is then on the meta device too.

    Raises:
        ValueError: If the forward pass fails on `example_input`, a lazy layer has no shape yet, and
            as `find_weights`.

    Example:
        >>> import torch
        >>> class Network(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.matrix = nn.Parameter(torch.ones(4, 8))
        ...
        ...     def forward(self, x):
        ...         return x @ self.matrix
        >>> traced = trace_model(Network(), torch.zeros(1, 4))
        >>> [(weight.name, weight.fan_in, weight.kind) for weight in traced.inventory.weights]
        [('matrix', 4, 'matrix')]
    """
    args, kwargs = arguments_of(example_input)

    def run(mode: SignalMode) -> Any:
        return trial_run(unwrapped(model), mode, args, kwargs, gradients=gradients)

    gradients = False
    try:
        return trace_run(model, (args, kwargs), run, include, exclude, on_meta=on_meta)
    except ValueError:  # a forward may need gradients
        gradients = True
    args, kwargs = arguments_of(example_input)
    return trace_run(model, (args, kwargs), run, include, exclude, on_meta=on_meta)


def trace_run(
    model: nn.Module,
    inputs: Any,
    run: Callable[[SignalMode], Any],
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    *,
    partial: bool = False,
    on_meta: bool = False,
) -> Traced:
    """What any run of a model shows, for which `run` enters the mode that it is given.

    Args:
        model: The model whose parameters are used.
        inputs: What the run reads, in nested tuples, lists and dicts.
        run: Makes the run and returns what the model gives.
        include: Glob patterns, as in `find_weights`.
        exclude: Likewise.
        partial: Whether what was seen counts if the run fails behind a weight.
        on_meta: As in `find_weights`.

    Raises:
        ValueError: As `find_weights`.
        Exception: Whatever `run` raises.
    """
    inventory = find_weights(model, include, exclude, on_meta=on_meta)
    modules = modules_of(model)
    parameters = _parameters(model, modules, inventory.weights)
    candidates = _candidates(model, modules, parameters)
    mode, outputs = _followed(
        modules, parameters, inputs, run, candidates, partial=partial, on_meta=on_meta
    )
    if candidates:
        inventory = find_weights(model, include, exclude, dict(mode.matrices.values()), on_meta)
    weights = mode.scores.scaled(mode.fans.corrected(inventory.weights))
    inventory = replace(inventory, weights=weights)
    return Traced(inventory, _activations(mode, inventory.weights, outputs), mode.norms)


def _followed(
    modules: Iterable[nn.Module],
    parameters: Iterable[tuple[nn.Parameter, tuple[Weight, ...]]],
    inputs: Any,
    run: Callable[[SignalMode], Any],
    candidates: Mapping[int, str] | None = None,
    *,
    partial: bool = False,
    on_meta: bool = False,
) -> tuple[SignalMode, Any]:
    """Run the model under a mode that follows its signals; max pooling is measured in a run before.

    That run ends behind as many as there are modules. If there turn out to be more, all are
    measured, and the model is followed again.
    """

    def follow(growths: Sequence[float]) -> tuple[SignalMode, Any]:
        mode = _signal_mode(parameters, inputs, candidates, growths)
        try:
            with eager():
                return mode, run(mode)
        except Exception:
            if not mode.reached or not partial:
                raise
            return mode, ()

    expected = 0 if on_meta else sum("MaxPool" in type(one).__name__ for one in modules)
    growths = _growths(run, expected) if expected else ()
    mode, outputs = follow(growths)
    if mode.max_pools.count > len(growths) and not on_meta:
        mode, outputs = follow(_growths(run))
    return mode, outputs


def _growths(run: Callable[[Any], Any], calls: float = math.inf) -> tuple[float, ...]:
    """What every max pooling adds; nothing more than was seen where the run ends early."""
    from lightning_init.inspection.max_pools import PoolMode

    mode = PoolMode(calls)
    with suppress(Exception), eager():
        run(mode)
    return tuple(mode.growths)


def _signal_mode(
    parameters: Iterable[tuple[nn.Parameter, tuple[Weight, ...]]],
    inputs: Any,
    candidates: Mapping[int, str] | None = None,
    growths: Sequence[float] = (),
) -> SignalMode:
    # What a trace needs is imported when one is made: an eighth of the package.
    from lightning_init.inspection.regions import tensors_in
    from lightning_init.inspection.signal_mode import SignalMode

    return SignalMode(parameters, tensors_in(inputs), candidates, growths)


def _activations(
    mode: SignalMode, weights: Iterable[Weight], outputs: Any
) -> dict[str, ActivationInFront]:
    scale_free = mode.scale_free(outputs)
    return {
        weight.name: in_front(
            _one_of(mode.reached[weight.name]), "traced", scale_free=weight.name in scale_free
        )
        for weight in weights
        if weight.name in mode.reached
    }


def _candidates(
    model: nn.Module,
    modules: Iterable[nn.Module],
    parameters: Iterable[tuple[nn.Parameter, tuple[Weight, ...]]],
) -> dict[int, str]:
    """By identity, the names of the parameters that no known kind of layer holds as a weight."""
    tables = {id(module.weight) for module in modules if isinstance(module, EMBEDDING_LAYERS)}
    if all(p.dim() < 2 or weights or id(p) in tables for p, weights in parameters):
        return {}
    slots = tuple(walk_parameters(model))
    known = {
        id(leaf)
        for slot in slots
        for leaf in slot.leaves
        if slot.blocks or slot.is_bias or isinstance(slot.module, EMBEDDING_LAYERS)
    }
    return {
        id(slot.leaves[0]): slot.layer_name
        for slot in reversed(slots)
        if len(slot.leaves) == 1 and len(slot.shape) > 1 and id(slot.leaves[0]) not in known
    }


def _parameters(
    model: nn.Module, modules: Iterable[nn.Module], weights: tuple[Weight, ...]
) -> list[tuple[nn.Parameter, tuple[Weight, ...]]]:
    held = {p: None for part in modules for _, p in own_parameters(part)}
    if any(map(is_lazy, held)):
        lazy = [name for name, parameter in model.named_parameters() if is_lazy(parameter)]
        raise ValueError(
            f"Parameter {lazy[0]!r} is lazy and has no shape yet; "
            "run one forward pass on a batch first."
        )
    made_of: dict[int, list[Weight]] = {}
    for weight in weights:
        for parameter in tensors_behind(model, weight):
            made_of.setdefault(id(parameter), []).append(weight)
    return [(p, tuple(made_of.get(id(p), ()))) for p in held]


def _one_of(signals: list[Signal]) -> Signal:
    """Return the signal that stands for all uses of a weight: the most frequent rule of them."""
    if len(signals) == 1:
        return signals[0]._replace(straight_from=frozenset())
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
