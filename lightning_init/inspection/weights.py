"""Which parameters of a model take part, and why every other one is left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lightning_init.inspection.fans import Fans, WeightBlock
from lightning_init.inspection.parameter_walk import (
    ParameterSlot,
    module_at,
    tensor_at,
    walk_parameters,
)
from lightning_init.inspection.patterns import check_patterns, matches
from lightning_init.inspection.reasons import (
    EMBEDDING_LAYERS,
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
            "recurrent_hidden", or "matrix" for another parameter that a trace saw in a linear map.
        parametrization: "weight_norm", or None.
        biases: Attributes of the module's biases that belong to this weight. A stacked bias is
            listed on the first block only, and only when every block of its stack takes part.
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


@dataclass(frozen=True)
class LeftOut:
    """A parameter, or a block of one, that does not take part.

    Args:
        name: Its layer name, in the manner of `Weight.name`.
        shape: Its shape; `()` while it is lazy.
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
            weight. Patterns narrow the choice; they never bring in what is left out anyway.
        exclude: Glob patterns in the same manner. A weight that one of them matches is left out,
            whatever `include` says.
        matrices: By identity, the fans of parameters that a trace saw as matrices of linear maps,
            which take part too; None without a trace.

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
    candidates = tuple(_candidates(model, matrices))
    places, traced = [one for one in candidates if not one.is_bias], matrices is not None
    if include is not None or exclude is not None:
        answers = {one.name: one.answers_to for one in places}
        check_patterns("include", include, answers)
        check_patterns("exclude", exclude, answers)
    reasons = {one.name: _reason(one, include, exclude, traced) for one in places}
    # By module and attribute of a bias: the blocks that it is added to.
    stacks: dict[tuple[str, str], list[_Candidate]] = defaultdict(list)
    for one in places:
        for bias in one.block.biases if one.block else ():
            stacks[one.slot.module_name, bias].append(one)
    taken: set[tuple[str, str]] = set()
    for one in candidates:
        if one.is_bias:
            place = (one.slot.module_name, one.slot.attribute)
            reasons[one.name] = reason = _bias_reason(one, stacks[place], reasons)
            if reason is None:
                taken.add(place)
    return WeightInventory(
        weights=tuple(
            [
                _weight(one, one.block, taken)
                for one in places
                if one.block is not None and reasons[one.name] is None
            ]
        ),
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
    return tensor if rows is None else tensor[rows[0] : rows[1]]


class _Candidate(NamedTuple):
    """A parameter, or one block of it, that is judged on its own.

    `tied` holds the slots of its parameter; none when it is tied to another one, `tied_to`.
    """

    name: str
    slot: ParameterSlot
    block: WeightBlock | None
    is_bias: bool
    tied: Sequence[ParameterSlot]
    tied_to: str | None = None

    @property
    def answers_to(self) -> frozenset[str]:
        names = {
            name
            for slot in self.tied
            for name in (slot.layer_name, slot.parameter_name, slot.public_name)
            if name
        }
        return frozenset(names.union(_labelled(name, self.block) for name in names))

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.slot.shape
        if self.block is None or self.block.rows is None or not shape:
            return shape
        return (self.block.rows[1] - self.block.rows[0], *shape[1:])


def _labelled(name: str, block: WeightBlock | None) -> str:
    return f"{name}.{block.label}" if block and block.label else name


def _candidates(model: nn.Module, matrices: Mapping[int, Fans] | None) -> Iterator[_Candidate]:
    slots = tuple(walk_parameters(model, matrices or {}))
    groups: dict[int, list[ParameterSlot]] = defaultdict(list)
    for slot in slots:
        groups[id(slot.leaves[0])].append(slot)
    for slot in slots:
        group = groups[id(slot.leaves[0])]
        first = slot if len(group) == 1 else min(group, key=_precedence)
        name, is_bias = slot.layer_name, slot.is_bias
        if slot is not first:
            yield _Candidate(name, slot, None, is_bias, (), first.layer_name)
            continue
        blocks: tuple[WeightBlock | None, ...] = slot.blocks or (None,)
        for block in blocks:
            yield _Candidate(_labelled(name, block), slot, block, is_bias, group)


def _precedence(slot: ParameterSlot) -> int:
    # What is tied to an embedding counts as one; a bare parameter that a layer also uses as its
    # weight is that layer's; what a metric refers to is not the metric's.
    if slot.in_metric:
        return 3
    if isinstance(slot.module, EMBEDDING_LAYERS):
        return 0
    return 1 if slot.blocks else 2


def _weight(
    candidate: _Candidate, block: WeightBlock, taken: Collection[tuple[str, str]]
) -> Weight:
    slot = candidate.slot
    biases = [
        bias
        for bias in block.biases
        if (slot.module_name, bias) in taken and _first_block(slot, bias) is block
    ]
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
    )


def _first_block(slot: ParameterSlot, bias: str) -> WeightBlock:
    blocks = slot.module_blocks
    return blocks[0] if len(blocks) == 1 else next(one for one in blocks if bias in one.biases)


def _reason(
    candidate: _Candidate,
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
    traced: bool,
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
            return f"excluded by pattern {pattern!r}"
    if include is not None and not any(
        matches(pattern, candidate.answers_to) for pattern in include
    ):
        return "matched by no include pattern"
    if reason := why_not_writable(slot):
        return reason
    # A whole leaf need not be looked up and detached again, which takes as long as the rest of it.
    whole = len(slot.leaves) == 1 and block.rows is None
    values = slot.leaves[0] if whole else _read(slot.module, slot.attribute, block.rows)
    return why_values_are_kept(values, block)


def _bias_reason(
    candidate: _Candidate, stack: Sequence[_Candidate], reasons: Mapping[str, str | None]
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
