"""Puts back, bit for bit, what was overwritten when a draw fails on its way."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lightning_init.initialization import fill
from lightning_init.inspection.weights import Weight

_FEW_BYTES = 256 * 2**20  # whose copies nobody notices


class Rollback:
    """Holds what is overwritten until all of it is; entered around the writing.

    Plain weights in CPU memory are drawn where they stand, which needs no memory and cannot fail.
    A model of more than 256 MiB that has nothing else is not copied, and only an interrupt between
    two of its weights leaves it half drawn.

    Args:
        model: The model.
        weights: All that is to be written.
    """

    def __init__(self, model: nn.Module, weights: Iterable[Weight]) -> None:
        weights = tuple(weights)
        leaves = {id(p): p for one in weights for p in fill.parameters_of(model, one)}
        few = sum(leaf.numel() * leaf.element_size() for leaf in leaves.values()) <= _FEW_BYTES
        self._holds = few or not all(fill.is_drawn_in_place(model, one) for one in weights)
        self._model = model
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def keep(self, weight: Weight) -> None:
        """Hold a weight and its biases, which are about to be written."""
        if not self._holds:
            return
        for one in (*fill.parameters_of(self._model, weight), *fill.biases_of(self._model, weight)):
            if id(one) not in self._before:
                self._before[id(one)] = one.detach(), one.detach().clone()

    def __enter__(self) -> Rollback:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        with torch.no_grad():
            for target, values in self._before.values():
                if not torch.equal(
                    target, values
                ):  # one that refuses to be written to is unchanged
                    target.copy_(values)
