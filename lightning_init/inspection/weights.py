"""Which parameters of a model take part, and why every other one is left out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_init.inspection.bare_matrices import (
    EMBEDDING,
    MATRIX,
    padding_row,
    why_structure_is_kept,
)
from lightning_init.inspection.candidates import Candidate, find_candidates
from lightning_init.inspection.fans import Fans, WeightBlock
from lightning_init.inspection.parameter_walk import ParameterSlot, module_at, tensor_at
from lightning_init.inspection.patterns import check_patterns, matches
from lightning_init.inspection.reasons import (
    EXCLUDED,
    NOT_INCLUDED,
    ON_META_DEVICE,
    why_not_a_weight,
    why_not_writable,
    why_values_are_kept,
)


class Weight(NamedTuple):
    """One weight matrix that takes part: a parameter, or one block of rows of a stacked parameter.

    Args:
        name: Unique layer name, safe as a logger tag: the parameter's name without ".weight"
            ("net.0"), with the gate or projection appended for a block ("lstm.weight_ih_l0.input").
        module_name: Name of the module, as `model.get_submodule` takes it.
        module_type: Class name of the module, without its parametrizations.
        attribute: Attribute of the module that yields the effective weight.
        rows: Slice of dimension 0 of the attribute; None is all of it.
        shape: Shape of the block.
        fan_in: Products summed into one output unit.
        fan_out: Output units that one input unit feeds.
        taps: Kernel positions; 1 for a dense layer.
        kind: "linear", "bilinear", "conv", "conv_transpose", "attention", "recurrent_input",
            "recurrent_hidden", "matrix" for another parameter (one that a trace saw in a linear
            map, or any with `find_every_weight`), or "embedding".
        parametrization: "weight_norm", or None.
        biases: Attributes of the module's biases that belong to this weight. A stacked bias is
            listed on the first block only, and only when every block of its stack takes part.
        padding_row: Row of an embedding that stays zero, or None.
        row_fans: Fan-in of every row where a mask makes rows differ; `fan_in` is their mean.
        gain: Factor on the rule's scale: below 1 for the queries of an unscaled attention.
    """

    name: str
    module_name: str
    module_type: str
    attribute: str
    rows: tuple[int, int] | None
    shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    taps: int
    kind: str
    parametrization: str | None
    biases: tuple[str, ...]
    padding_row: int | None = None
    row_fans: tuple[int, ...] = ()
    gain: float = 1.0

    @property
    def zeros(self) -> int:
        """Entries of the padding row, which are always zero and no part of V."""
        return 0 if self.padding_row is None else math.prod(self.shape[1:])

    @property
    def knows_fan_in(self) -> bool:
        """Whether `fan_in` is that of a linear map; not for an embedding, nor if it is unknown."""
        return self.kind != EMBEDDING and self.fan_in > 0


@dataclass(frozen=True)
class LeftOut:
    """A parameter, or a block of one, that does not take part.

    Args:
        name: Its layer name, in the manner of `Weight.name`.
        shape: Its shape; `()` while lazy.
        reason: A short clause; `inspection.reasons` names those that a caller may have to act on,
            such as `ON_META_DEVICE` and `UNINITIALIZED`.
    """

    name: str
    shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class WeightInventory:
    """Every parameter of a model: it takes part, is a bias of one that does, or is left out."""

    weights: tuple[Weight, ...]
    left_out: tuple[LeftOut, ...]


@torch.no_grad()
def find_weights(
    model: nn.Module,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    matrices: Mapping[int, Fans] | None = None,
    on_meta: bool = False,
) -> WeightInventory:
    """Sort every parameter of a model into weights, their biases, and the left out.

    Weights of linear, bilinear, convolution, attention and recurrent layers take part, subclasses
    included; stacked gates and packed projections count one block each. A tied weight counts once,
    under its first name, and as an embedding when it is tied to one.

    Args:
        model: Any module; nothing in it is changed.
        include: Glob patterns, case sensitive. A weight takes part only if one of them matches
            its layer name ("net.0"), its parameter name ("net.0.weight"), its module's name or, for
            a block, the name of the block. A tied weight answers to all its names. None is every
            weight. Patterns narrow the choice only.
        exclude: Glob patterns in the same manner. A weight that one of them matches is left out,
            whatever `include` says.
        matrices: By identity, the fans of parameters that a trace saw as matrices of linear maps,
            which take part too; None without a trace.
        on_meta: Whether what has no values yet takes part: in a dry run.

    Returns:
        The inventory, in the order of `model.named_modules()`. The biases of a weight that is left
        out are left out with it.

    Raises:
        TypeError: If `include` or `exclude` is one string.
        ValueError: If `include` is empty, or if a pattern matches no parameter at all.

    Example:
        >>> inventory = find_weights(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)))
        >>> [(weight.name, weight.fan_in, weight.biases) for weight in inventory.weights]
        [('0', 3, ('bias',))]
        >>> inventory.left_out[0]
        LeftOut(name='1', shape=(4,), reason='scale of a normalization layer')
    """
    candidates = tuple(find_candidates(model, matrices))
    return _inventory(candidates, include, exclude, matrices is not None, on_meta)


@torch.no_grad()
def find_every_weight(
    model: nn.Module,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
) -> WeightInventory:
    """Like `find_weights`, with what needs no fan-in to have a variance: embeddings, bare matrices.

    A bare parameter takes part when it is a matrix of more than one row and column whose values may
    be a draw around 0. The fan-in of an embedding is 1, that of a bare matrix 0: not known.

    Args:
        model: Any module; nothing in it is changed.
        include: As in `find_weights`.
        exclude: As in `find_weights`.

    Raises:
        TypeError: If `include` or `exclude` is one string.
        ValueError: If `include` is empty, or if a pattern matches no parameter at all.

    Example:
        >>> model = nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 2))
        >>> [(weight.name, weight.kind) for weight in find_every_weight(model).weights]
        [('0', 'embedding'), ('1', 'linear')]
    """
    return _inventory(tuple(find_candidates(model, every=True)), include, exclude)


def _inventory(
    candidates: tuple[Candidate, ...],
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    traced: bool = False,
    on_meta: bool = False,
) -> WeightInventory:
    places = [one for one in candidates if not one.is_bias]
    if include is not None or exclude is not None:
        answers = {one.name: one.answers_to for one in places}
        check_patterns("include", include, answers)
        check_patterns("exclude", exclude, answers)
    reasons = {one.name: _reason(one, include, exclude, traced, on_meta) for one in places}
    # By module and attribute of a bias: the blocks that it is added to.
    stacks: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for one in places:
        for bias in one.block.biases if one.block else ():
            stacks[one.slot.module_name, bias].append(one)
    taken: set[tuple[str, str]] = set()
    for one in candidates:
        if one.is_bias:
            place = (one.slot.module_name, one.slot.attribute)
            reason = _bias_reason(one, stacks[place], reasons)
            reasons[one.name] = reason = None if on_meta and reason == ON_META_DEVICE else reason
            if reason is None:
                taken.add(place)
    weights = [
        _weight(one, one.block, taken)
        for one in places
        if one.block is not None and reasons[one.name] is None
    ]
    return WeightInventory(
        weights=tuple(weights),
        left_out=tuple(
            [
                LeftOut(one.name, one.shape, reason)
                for one in candidates
                if (reason := reasons[one.name]) is not None
            ]
        ),
    )


def effective_weight(model: nn.Module, weight: Weight) -> Tensor:
    """The values a layer multiplies by, of shape `weight.shape`, outside the autograd graph.

    A view of the parameter where there is one, so it must not be written to; a fresh tensor under
    weight normalization.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> bool((effective_weight(model, find_weights(model).weights[0]) == model.weight).all())
        True
    """
    module = module_at(model, weight.module_name)
    if weight.parametrization is None:  # a parameter: nothing is computed
        return _read(module, weight.attribute, weight.rows)
    with torch.no_grad():
        return _read(module, weight.attribute, weight.rows)


def _read(module: nn.Module, attribute: str, rows: tuple[int, int] | None) -> Tensor:
    tensor = tensor_at(module, attribute).detach()
    return tensor if rows is None else tensor[slice(*rows)]


def _weight(candidate: Candidate, block: WeightBlock, taken: Collection[tuple[str, str]]) -> Weight:
    slot = candidate.slot
    held = [bias for bias in block.biases if (slot.module_name, bias) in taken]
    biases = [bias for bias in held if _first_block(slot, bias) is block]
    return Weight(
        candidate.name,
        slot.module_name,
        slot.module_type,
        block.attribute,
        block.rows,
        candidate.shape,
        *block.fans,
        kind=block.kind,
        parametrization="weight_norm" if len(slot.leaves) > 1 else None,
        biases=tuple(biases),
        padding_row=padding_row(slot.module),
    )


def _first_block(slot: ParameterSlot, bias: str) -> WeightBlock:
    blocks = slot.module_blocks
    return blocks[0] if len(blocks) == 1 else next(one for one in blocks if bias in one.biases)


def _reason(
    candidate: Candidate,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    traced: bool,
    on_meta: bool,
) -> str | None:
    slot, block = candidate.slot, candidate.block
    if candidate.tied_to is not None:
        return f"tied to {candidate.tied_to}"
    if slot.in_metric:
        return "inside a torchmetrics metric"
    if block is None:
        return why_not_a_weight(slot, traced=traced)
    for pattern in exclude or ():
        if matches(pattern, candidate.answers_to):
            return f"{EXCLUDED} {pattern!r}"
    if include is not None and not any(
        matches(pattern, candidate.answers_to) for pattern in include
    ):
        return NOT_INCLUDED
    if reason := why_not_writable(slot):
        return None if on_meta and reason == ON_META_DEVICE else reason
    # A whole leaf need not be looked up and detached again, which takes as long as the rest of it.
    whole = len(slot.leaves) == 1 and block.rows is None
    values = slot.leaves[0] if whole else _read(slot.module, slot.attribute, block.rows)
    is_bare = block.kind == MATRIX and not traced
    kept = why_values_are_kept(values, block)
    return kept or (why_structure_is_kept(values) if is_bare else None)


def _bias_reason(
    candidate: Candidate, stack: Sequence[Candidate], reasons: Mapping[str, str | None]
) -> str | None:
    slot = candidate.slot
    if candidate.tied_to is not None:
        return f"tied to {candidate.tied_to}"
    if slot.in_metric:
        return "inside a torchmetrics metric"
    if len(stack) < len([one for one in slot.module_blocks if slot.attribute in one.biases]):
        return f"bias of {slot.public_name or slot.module_type!r}, which is left out"
    for one in stack:
        if reasons[one.name] is not None:
            return f"bias of {one.name!r}, which is left out"
    return why_not_writable(slot)
