"""Every parameter of a model, or block of one, that is judged on its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from lightning_init.inspection.bare_matrices import matrix_block
from lightning_init.inspection.fans import Fans, WeightBlock
from lightning_init.inspection.parameter_walk import ParameterSlot, walk_parameters
from lightning_init.inspection.reasons import EMBEDDING_LAYERS


class Candidate(NamedTuple):
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
        """Names that a pattern may match."""
        names = {
            name
            for slot in self.tied
            for name in (slot.layer_name, slot.parameter_name, slot.public_name)
            if name
        }
        return frozenset(names.union(_labelled(name, self.block) for name in names))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the block; `()` while it is lazy."""
        shape = self.slot.shape
        if self.block is None or self.block.rows is None or not shape:
            return shape
        return (self.block.rows[1] - self.block.rows[0], *shape[1:])


def _labelled(name: str, block: WeightBlock | None) -> str:
    return f"{name}.{block.label}" if block and block.label else name


def find_candidates(
    model: nn.Module, matrices: Mapping[int, Fans] | None = None, every: bool = False
) -> Iterator[Candidate]:
    """Yield every parameter of a model, stacked ones block by block.

    Args:
        model: Any module.
        matrices: By identity, the fans of parameters that a trace saw in linear maps.
        every: Whether embeddings and bare matrices are blocks too.
    """
    slots = tuple(walk_parameters(model, matrices or {}))
    groups: dict[int, list[ParameterSlot]] = defaultdict(list)
    for slot in slots:
        groups[id(slot.leaves[0])].append(slot)
    for slot in slots:
        group = groups[id(slot.leaves[0])]
        first = slot if len(group) == 1 else min(group, key=_precedence)
        name, is_bias = slot.layer_name, slot.is_bias
        if slot is not first:
            yield Candidate(name, slot, None, is_bias, (), first.layer_name)
            continue
        bare = matrix_block(slot) if every and not slot.blocks else None
        blocks: tuple[WeightBlock | None, ...] = slot.blocks or (bare,)
        for block in blocks:
            yield Candidate(_labelled(name, block), slot, block, is_bias, group)


def _precedence(slot: ParameterSlot) -> int:
    # What is tied to an embedding counts as one; a bare parameter that a layer also uses as its
    # weight is that layer's; what a metric refers to is not the metric's.
    if slot.in_metric:
        return 3
    if isinstance(slot.module, EMBEDDING_LAYERS):
        return 0
    return 1 if slot.blocks else 2
