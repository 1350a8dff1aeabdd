"""What stood in a model before the draw, and what of it an author had set on purpose."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor, nn

from lightning_init.initialization.planned_weight import PlannedWeight
from lightning_init.initialization.settings import FractionalMomentSettings
from lightning_init.inspection.initial_distributions import (
    Sample,
    bias_purpose,
    generic_scheme,
    sample_all,
    structure,
)
from lightning_init.inspection.parameter_walk import module_at, tensor_at
from lightning_init.inspection.reasons import whole_tensor
from lightning_init.inspection.weights import Weight, effective_weight

_CHAIN_KINDS = ("linear", "conv", "conv_transpose")
_CHAIN_MARKS = frozenset({"normalized", "pooled", "scale-free"})
_SMALL = 0.2  # of the rule's scale: a layer that starts near zero
_IN_A_BRANCH = "inside a branch"
_DEPTH_SCALED = "scaled by the depth"
_NEAR_ZERO = "near zero on purpose"
_OF_NO_SCHEME = "no generic scheme's scale"
_OF_A_STACK = (_NEAR_ZERO, _OF_NO_SCHEME, _IN_A_BRANCH)


class _Held(NamedTuple):
    """A planned weight beside the values that it has now, and what they look like."""

    row: PlannedWeight
    values: Tensor
    sample: Sample
    fans: tuple[tuple[int, int], ...]


def beside_what_was_there(
    rows: Sequence[PlannedWeight], model: nn.Module, settings: FractionalMomentSettings
) -> tuple[PlannedWeight, ...]:
    """Add to every row what its weight was, and keep what an author had set on purpose.

    A weight is taken for generic, and redrawn, if its values may come from torch's defaults,
    Kaiming, Xavier, LeCun or N(0, 0.02^2). Everything else is kept with a reason: constants,
    identities, orthogonal matrices, and scales that no generic scheme gives (layers that start
    near zero, depth-scaled branches, scales that are part of the function, weights that were
    loaded); and with it the other weights of the same stack. Weights inside branches that are
    added up are kept too: the theorem follows a chain, and says nothing of how large a branch is
    to be beside another.

    Args:
        rows: The rows of a plan.
        model: The model before the draw; nothing in it is changed.
        settings: Whose choices count, and what happens to biases.
    """
    held = _held(rows, model)
    judged = [one.row for one in held]
    if settings.respect == "author":
        depth = Counter(_place(one.row.weight) for one in held)
        inside = _inside_branches(rows)
        judged = _like_their_siblings(
            [
                _judged(one, depth[_place(one.row.weight)], one.row.weight.name in inside)
                for one in held
            ]
        )
    zeroes = _zeroed(judged, held, model, settings, in_chain=is_plain_chain(rows))
    found = {
        row.weight.name: row._replace(before=one.sample.scale, zeroes=zeroed)
        for row, one, zeroed in zip(judged, held, zeroes, strict=True)
    }
    return tuple([found.get(row.weight.name, row) for row in rows])


def is_plain_chain(rows: Sequence[PlannedWeight]) -> bool:
    """Whether a model is a plain feed-forward chain, in which biases other than zero add noise.

    Linear layers and convolutions with activations, norms and pooling in between; no recurrence,
    attention, sum of branches, concatenation, or product of signals.
    """
    return all(
        row.weight.kind in _CHAIN_KINDS
        and (row.activation.source != "assumed" or row.activation.first_layer)
        and _CHAIN_MARKS.issuperset(row.activation.marks)
        for row in rows
    )


def _held(rows: Sequence[PlannedWeight], model: nn.Module) -> list[_Held]:
    """Look at all weights in one pass."""
    pairs = [(row, effective_weight(model, row.weight)) for row in rows]
    there = [(row, whole_tensor(values)) for row, values in pairs if not values.is_meta]
    samples = sample_all([values for _, values in there])
    return [
        _Held(row, values, sample, _fans(row.weight, values))
        for (row, values), sample in zip(there, samples, strict=True)
    ]


def _fans(weight: Weight, values: Tensor) -> tuple[tuple[int, int], ...]:
    """The fans of what is computed, and those that torch's schemes read off the whole tensor."""
    taps = values.shape[2:].numel()
    blocks = 3 if weight.kind == "attention" and weight.rows is not None else 1
    by_shape = (values.shape[1] * taps, blocks * values.shape[0] * taps)
    computed = (weight.fan_in, weight.fan_out)
    return (computed,) if by_shape == computed else (computed, by_shape)


def _place(weight: Weight) -> tuple[str, tuple[int, ...]]:
    """Name of a weight without the numbers in it, and its shape: equal in every block of a net."""
    return _stack(weight), weight.shape


def _stack(weight: Weight) -> str:
    return _without_numbers(weight.name)


@lru_cache(maxsize=4096)
def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _inside_branches(rows: Sequence[PlannedWeight]) -> frozenset[str]:
    """In a model that adds branches up, every weight but the heads behind the sums.

    A head stands behind a sum, and its place is not repeated through the depth.
    """
    behind = {row.weight.name for row in rows if "residual" in row.activation.marks}
    if not behind:
        return frozenset()
    depth = Counter(_stack(row.weight) for row in rows)
    heads = {row.weight.name for row in rows if depth[_stack(row.weight)] == 1} & behind
    return frozenset(row.weight.name for row in rows) - heads


def _judged(one: _Held, depth: int, inside: bool) -> PlannedWeight:
    row, sample = one.row, one.sample
    if row.treatment == "keep":
        return row
    if reason := structure(sample, one.values):
        return _kept(row, reason)
    drawn = row.treatment == "normal"
    if not generic_scheme(sample, one.fans, row.kaiming_std if drawn else None):
        return _kept(row, _why_not_generic(one, depth))
    return _kept(row, _IN_A_BRANCH) if inside else row


def _why_not_generic(one: _Held, depth: int) -> str:
    for count in (depth, 2 * depth) if depth > 1 else ():
        root = math.sqrt(count)
        larger = {name: root * getattr(one.sample, name) for name in ("mean", "scale", "largest")}
        if generic_scheme(one.sample._replace(**larger), one.fans):
            return _DEPTH_SCALED
    small = one.sample.scale < _SMALL * one.row.kaiming_std
    return _NEAR_ZERO if small else _OF_NO_SCHEME


def _kept(row: PlannedWeight, reason: str) -> PlannedWeight:
    return row._replace(
        treatment="keep",
        std=math.nan,
        kaiming_std=math.nan,
        formula=f"kept ({reason})",
        note="",
        row_stds=(),
        author=reason,
    )


def _like_their_siblings(rows: list[PlannedWeight]) -> list[PlannedWeight]:
    """Keep a stack as its author set it where that can be told of one of its weights."""
    set_by_hand = {_stack(row.weight) for row in rows if row.author in _OF_A_STACK}
    return [
        _kept(row, "like its siblings")
        if _stack(row.weight) in set_by_hand and row.treatment != "keep"
        else row
        for row in rows
    ]


def _zeroed(
    rows: Sequence[PlannedWeight],
    held: Sequence[_Held],
    model: nn.Module,
    settings: FractionalMomentSettings,
    *,
    in_chain: bool,
) -> list[tuple[str, ...]]:
    """By row, the biases that are zeroed with a weight, and are not zero already."""
    names = [() if row.treatment == "keep" else row.weight.biases for row in rows]
    some = settings.bias == "zero" or (settings.bias == "auto" and in_chain)
    if not some or not any(names):
        return [() for _ in rows]
    samples = iter(
        sample_all(
            [
                whole_tensor(tensor_at(module_at(model, row.weight.module_name), name))
                for row, of_row in zip(rows, names, strict=True)
                for name in of_row
            ]
        )
    )
    return [
        tuple(
            [
                name
                for name, sample in zip(of_row, samples, strict=False)  # as many as there are names
                if sample.largest
                and (settings.bias == "zero" or not bias_purpose(sample, one.fans))
            ]
        )
        for one, of_row in zip(held, names, strict=True)
    ]
