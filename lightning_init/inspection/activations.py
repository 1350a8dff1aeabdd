"""The weights of a model and what stands in front of each: traced, declared, named or assumed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from lightning_init.inspection.activation_tracing import (
    NOT_REACHED,
    ActivationInFront,
    Traced,
    declared_activations,
    trace_model,
)
from lightning_init.inspection.signals import Signal, in_front, undecided
from lightning_init.inspection.weights import Weight, WeightInventory, find_weights

if TYPE_CHECKING:
    from lightning_init.inspection.traced_norms import TracedNorms

NOTHING_TELLS = undecided(Signal(), "nothing tells what stands in front of it: linear rule used")


class Reading(NamedTuple):
    """What is known of a model before anything is drawn.

    Args:
        inventory: The weights that take part.
        activations: What stands in front of them, by weight name; of some it may be missing.
        norms: What entered the layers in a trace.
    """

    inventory: WeightInventory
    activations: dict[str, ActivationInFront]
    norms: TracedNorms | None = None

    @property
    def unknown(self) -> list[str]:
        """The weights of which nothing tells what stands in front of them."""
        weights = self.inventory.weights
        return [weight.name for weight in weights if weight.name not in self.activations]

    @property
    def complete(self) -> bool:
        """Whether a trace would add nothing: all is decided, and no other parameter may be one.

        What a transposed convolution sums depends on the size of its input, which a trace sees.
        """
        may_be_one = any(
            left.reason.startswith("bare nn.Parameter") and len(left.shape) > 1
            for left in self.inventory.left_out
        )
        decided = all(one.source != "assumed" for one in self.activations.values())
        sized = any(weight.kind == "conv_transpose" for weight in self.inventory.weights)
        known = bool(self.inventory.weights) and not self.unknown and decided
        return known and not may_be_one and not sized

    def assumed(self) -> Reading:
        """The same with the linear rule, as an assumption, wherever nothing is known."""
        record = in_front(NOTHING_TELLS, "assumed", scale_free=False)
        return self._replace(
            activations={**dict.fromkeys(self.unknown, record), **self.activations}
        )


def read_model(
    model: nn.Module,
    example_input: Any = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    *,
    on_meta: bool = False,
) -> Reading:
    """Find the weights of a model and what stands in front of each.

    Args:
        model: The model; it is left as it was.
        example_input: What ``model`` is called with once, to trace it; None reads the order of
            modules only.
        include: Glob patterns, as in `find_weights`.
        exclude: Likewise.
        on_meta: Likewise.

    Raises:
        ValueError: As `find_weights`, and if the forward pass on ``example_input`` fails.
    """
    if example_input is not None:
        traced = trace_model(model, example_input, include, exclude, on_meta=on_meta)
        return reading_of(model, traced)
    inventory = find_weights(model, include, exclude, on_meta=on_meta)
    return Reading(inventory, declared_activations(model, inventory))


def reading_of(model: nn.Module, traced: Traced) -> Reading:
    """A trace, completed by the order of modules where the run did not come by."""
    missed = [one for one in traced.inventory.weights if one.name not in traced.activations]
    if not missed:
        return Reading(*traced)
    not_reached = in_front(NOT_REACHED, "assumed", scale_free=False)
    declared = declared_activations(model, missed)
    rest = {weight.name: declared.get(weight.name, not_reached) for weight in missed}
    return Reading(traced.inventory, {**rest, **traced.activations}, traced.norms)


def named_activations(
    weights: Iterable[Weight],
    found: Mapping[str, ActivationInFront],
    nonlinearity: str,
    param: float | tuple[float, ...] | None,
    dropout: float,
) -> dict[str, ActivationInFront]:
    """Put one named activation in front of every weight but the first.

    Which weight is the first is read from the model where it can be; otherwise the first one in
    module order is taken, with all that is stacked in the same tensor, and the note says so.

    Args:
        weights: The weights.
        found: What is known of the model, as `Reading.activations`.
        nonlinearity: The activation.
        param: Its parameters.
        dropout: Dropout probability that goes with it.
    """
    weights = tuple(weights)
    names = {weight.name for weight in weights}
    first_known = any(activation.first_layer for activation in found.values())
    result = {}
    for weight in weights:
        known = found.get(weight.name)
        guessed = not first_known and _place(weight) == _place(weights[0]) and len(names) > 1
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


def _place(weight: Weight) -> tuple[str, str]:
    """The tensor that holds a weight: queries, keys and values in one read the same input."""
    return weight.module_name, weight.attribute
