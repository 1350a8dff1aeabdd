"""Attention that does not divide its scores by the root of their size, as in T5 and GPT-Neo.

Scores q k of d products each have the variance d when q and k have unit scale. Most attentions
divide them by sqrt(d). Where none does, the first weights of the queries have to.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from lightning_init.inspection.calls import Call
from lightning_init.inspection.operation_names import (
    CHOICES,
    LAYOUTS,
    PRODUCTS,
    SELECTIONS,
    SUMS,
    names,
)
from lightning_init.inspection.signals import SCALE_NOTE
from lightning_init.inspection.tensor_table import TensorTable
from lightning_init.inspection.weights import Weight

_SOFTMAX = names("softmax safe_softmax")
_PAIRS = names("matmul bmm baddbmm")
_KEEPS = CHOICES | LAYOUTS | SELECTIONS | SUMS
_SHARP = 1.5  # standard deviation of the scores from which on it is no rounding


class _Scores(NamedTuple):
    queries: frozenset[str]
    size: int
    factor: float


class AttentionScale:
    """Finds the weights of queries whose scores are not brought to unit scale."""

    def __init__(self) -> None:
        self.gains: dict[str, float] = {}
        self._scores: TensorTable[_Scores] = TensorTable()

    def follow(self, call: Call, outputs: list[Tensor]) -> None:
        """Note a product of queries and keys, what becomes of it, and the softmax at its end."""
        if call.name == "scaled_dot_product_attention":
            scale = call.argument(6, "scale")
            if scale is not None:
                given = call.argument(0, "query"), call.argument(1, "key")
                self._judge(_scores(call, *given, float(scale)))
        elif call.name in _PAIRS and len(call.carriers) >= 2:
            (first, _), (second, _) = call.carriers[-2:]
            if (found := _scores(call, first, second)) is not None:
                self._scores[outputs[0]] = found
        elif call.carriers and self._scores.values:
            scores = self._scores.get(call.carriers[0][0])
            if scores is None:
                return
            if call.name in _SOFTMAX:
                self._judge(scores)
            elif (after := _after(scores, call)) is not None:
                for output in outputs:
                    self._scores[output] = after

    def scaled(self, weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
        """The weights with the gains that were found."""
        gains = self.gains
        return tuple([w._replace(gain=gains[w.name]) if w.name in gains else w for w in weights])

    def _judge(self, scores: _Scores | None) -> None:
        if scores is None:
            return
        sharpness = scores.factor * scores.size**0.5
        if sharpness > _SHARP:
            self.gains.update(dict.fromkeys(scores.queries, 1.0 / sharpness))


def _scores(call: Call, query: Tensor, key: Tensor, factor: float = 1.0) -> _Scores | None:
    """The scores of two signals that still have the scale that their weights gave them."""
    signals = [signal for one in (query, key) if (signal := call.signal_of(one)) is not None]
    plain = [one for one in signals if one.straight_from and SCALE_NOTE not in one.notes]
    if len(plain) < 2:
        return None
    return _Scores(plain[0].straight_from, query.shape[-1], factor)


def _after(scores: _Scores, call: Call) -> _Scores | None:
    if call.name in _KEEPS:
        return scores
    other = call.argument(1, "other")
    if call.name not in PRODUCTS or not isinstance(other, (int, float)) or not other > 0:
        return None
    factor = 1.0 / other if "div" in call.name else float(other)
    return scores._replace(factor=scores.factor * factor)
