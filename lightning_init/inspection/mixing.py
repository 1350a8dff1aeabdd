"""What mixes signals, positions or rows: products, attention, and choices by another signal."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_init.inspection.calls import Call
from lightning_init.inspection.operation_names import MATRIX_PRODUCTS
from lightning_init.inspection.signals import Signal, undecided

PRODUCT_NOTE = "a product of two signals reaches this weight: linear rule used"
WEIGHTED_NOTE = "weighted by a softmax: linear rule used"
WEIGHTS_NOTE = "softmax weights have no law of their own: linear rule used"


def product(call: Call) -> Signal:
    """Return the signal behind a product of signals, elementwise or of matrices."""
    if call.name in MATRIX_PRODUCTS and any("attention" in one.marks for one in call.signals):
        return attention(call)
    one = merged(call.signals)
    if _weighs_rows(call):
        return undecided(Signal(marks=one.marks), WEIGHTED_NOTE)
    marks = one.marks - {"attention"}  # softmax weights of something else than positions
    return undecided(one._replace(from_input=False, marks=marks), PRODUCT_NOTE)


def _weighs_rows(call: Call) -> bool:
    """Whether softmax weights multiply rows, a weight for many values."""
    sizes = {WEIGHTS_NOTE in one.notes: tensor.numel() for tensor, one in call.carriers}
    return len(sizes) == 2 and sizes[True] < sizes[False]


def attention(call: Call) -> Signal:
    """Return the signal behind attention: a mean of values, which the linear rule holds for."""
    positions = _averaged_positions(call)
    over = f"over {positions} positions" if positions else "over positions"
    by = f"by up to {positions**0.5:.2g}" if positions else "by that"
    note = f"attention averages {over}: linear rule used, the output is smaller {by}"
    return Signal(marks=frozenset({"attention"}), notes=(note,))


def _averaged_positions(call: Call) -> int:
    """How many positions attention averages over; 0 where the call does not tell."""
    if call.name == "einsum":
        return 0
    if call.name in MATRIX_PRODUCTS:
        weights = next(tensor for tensor, one in call.carriers if "attention" in one.marks)
        return int(weights.shape[-1])
    key = call.argument(1, "key")
    if not isinstance(key, Tensor):
        return 0
    fused = call.name == "scaled_dot_product_attention"
    return int(key.shape[-2 if fused else 0])  # the other form has the sequence first


def softmax_weights(call: Call) -> Signal:
    """Return the signal behind the softmax that gives attention its weights."""
    marks = merged(call.signals).marks if "div" in call.name else frozenset[str]()
    return undecided(Signal(marks=marks | {"attention"}), WEIGHTS_NOTE)


def merged(signals: tuple[Signal, ...]) -> Signal:
    """What is left of several signals: their marks, and whether all are fed in."""
    return Signal(
        marks=frozenset().union(*(signal.marks for signal in signals)),
        from_input=all(signal.from_input for signal in signals),
    )


def chooses_rows(call: Call) -> bool:
    """Whether whole rows are chosen, so that what a weight sums over stays together."""
    chosen = call.argument(0, "input")
    if call.name == "index_select":
        return bool(call.argument(1, "dim") % chosen.dim() < chosen.dim() - 1)
    if call.name != "getitem":
        return False
    index = call.argument(1, "index")
    places = index if isinstance(index, tuple) else (index,)
    covered = sum(
        place.dim() if isinstance(place, Tensor) and place.dtype == torch.bool else 1
        for place in places
    )
    return bool(covered < chosen.dim())


def factor(signals: list[Signal]) -> Signal:
    """Return what a weight matrix is multiplied by: one signal, or the product of several."""
    if len(signals) == 1:
        return signals[0]
    one = merged(tuple(signals))
    plain = all(signal.rule == one.rule and signal.decided for signal in signals)
    return one if plain else undecided(one, PRODUCT_NOTE)
