"""Fan-ins that only a call shows: masked weights, and convolutions of which a part sees zeros."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lightning_init.inspection.calls import Call
from lightning_init.inspection.operation_names import (
    LAYERS,
    MATRIX_PRODUCTS,
    MAX_POOLS,
    POOLS,
    names,
)
from lightning_init.inspection.tensor_table import TensorTable
from lightning_init.inspection.weights import Weight

_PADS = names("pad constant_pad_nd")
# Every position has unit size behind a norm of its own; a linear map mixes other dimensions.
_ENDS = names("layer_norm rms_norm normalize") | LAYERS | MATRIX_PRODUCTS
_POOLED: dict[int, Any] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


class SeenFans:
    """Counts, call by call, the products that are summed into one output.

    At a border, part of a convolution's taps fall on zeros, and a transposed convolution gives an
    output only kernel / stride of them. Outputs near a border are smaller for it, and smaller
    inputs of the next layer, so the mean square is followed over the positions, as a profile of
    mean 1. It depends on shapes alone, never on the data.

    Plain convolutions keep Kaiming's convention, which counts every tap, unless the model also has
    max pooling or a transposed or masked convolution: there the scale is measured, borders too.
    """

    def __init__(self) -> None:
        self._counts_borders = False
        self._plain: set[str] = set()
        self._counts: dict[str, list[tuple[float, float]]] = {}
        self._rows: dict[str, tuple[int, ...]] = {}
        self._profiles: TensorTable[Tensor] = TensorTable()
        self._last: Tensor | None = None

    @torch.no_grad()
    def note(
        self,
        call: Call,
        matrix: Tensor,
        mask: Tensor | None,
        weights: Iterable[Weight],
    ) -> None:
        """Note what one call of a linear layer or a convolution sums.

        Args:
            call: The call.
            matrix: What it multiplies by.
            mask: Of the matrix's shape, zero where a mask keeps it zero; None without one.
            weights: The weights that the matrix is made of.
        """
        self._last = None
        held = [weight.name for weight in weights if weight.rows is None]
        if mask is not None:
            counts = tuple(mask.flatten(1).ne(0).sum(1).tolist())
            if len(set(counts)) > 1 and "transpose" not in call.name:
                self._rows.update(dict.fromkeys(held, counts))
        if call.name == "linear":
            if mask is not None:
                self._count(held, _mean_of_positive(mask.flatten(1)), 1.0)
        elif call.name.startswith("conv"):
            self._convolved(call, matrix, mask, held)

    def _convolved(
        self,
        call: Call,
        matrix: Tensor,
        mask: Tensor | None,
        held: list[str],
    ) -> None:
        entered: Tensor = call.argument(0, "input")
        rank = matrix.dim() - 2
        transposed = "transpose" in call.name
        padding = call.argument(4, "padding", 0)
        before = self._profiles.get(entered)
        if before is None and mask is None and not transposed and not _pads(padding):
            return
        # In single precision on the CPU, whatever the model and the defaults are.
        plain: Any = {"dtype": torch.float32, "device": "cpu"}
        profile = torch.ones(1, 1, *entered.shape[-rank:], **plain) if before is None else before
        open_taps = torch.ones(matrix.shape[2:], **plain)
        if mask is not None:
            open_taps = mask.to(**plain).mean((0, 1))
        options = list(call.args[3:])
        named = {k: v for k, v in call.kwargs.items() if k not in ("input", "weight", "bias")}
        groups = options[3] if len(options) > 3 else named.pop("groups", 1)
        if len(options) > 3:
            options[3] = 1
        with torch.autocast("cpu", enabled=False):
            seen = call.function(profile, open_taps[None, None], None, *options, **named)
        taps = float(seen.mean())
        channels = matrix.shape[0] // groups if transposed else matrix.shape[1]
        self._last = seen / max(taps, 1e-30)
        self._count(held, taps * channels, taps)
        if transposed or mask is not None:
            self._counts_borders = True
        else:
            self._plain.update(held)

    def _count(self, held: list[str], fan_in: float, taps: float) -> None:
        for name in held:
            self._counts.setdefault(name, []).append((fan_in, taps))

    def follow(self, call: Call, outputs: list[Tensor]) -> None:
        """Carry the profile of a call's input over to its results."""
        self._counts_borders |= call.name in MAX_POOLS
        profile, self._last = self._last, None
        if profile is None:
            if not self._profiles.values:
                return
            given = (self._profiles.get(tensor) for tensor, _ in call.carriers)
            profile = next((one for one in given if one is not None), None)
            if profile is None or call.name in _ENDS:
                return
        for output in outputs:
            there = _carried(call, profile, output)
            if there is not None:
                self._profiles[output] = there

    def corrected(self, weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
        """The weights with the fan-ins that were seen, the mean over the uses of one weight."""
        return tuple([self._corrected(weight) for weight in weights])

    def _corrected(self, weight: Weight) -> Weight:
        counts = self._counts.get(weight.name)
        if counts is None or (weight.name in self._plain and not self._counts_borders):
            return weight
        fan_in, taps = (max(1, round(sum(one) / len(counts))) for one in zip(*counts, strict=True))
        return weight._replace(fan_in=fan_in, taps=taps, row_fans=self._rows.get(weight.name, ()))


def _pads(padding: Any) -> bool:
    if isinstance(padding, str):
        return padding == "same"
    return any(padding) if isinstance(padding, (tuple, list)) else padding > 0


def _carried(call: Call, profile: Tensor, output: Tensor) -> Tensor | None:
    """The profile of a result, None where it can no longer be told."""
    rank = profile.dim() - 2
    if output.dim() < rank + 1:
        return None
    size = output.shape[-rank:]
    if size == profile.shape[-rank:]:
        return profile
    if call.name in _PADS and len(call.argument(1, "pad")) <= 2 * rank:
        padded = functional.pad(profile, *call.args[1:], **_without_input(call))
        return padded / padded.mean()
    if call.name in POOLS and prod(size) > 1:
        pooled: Tensor = _POOLED[rank](profile, tuple(size))
        return pooled
    return None


def _without_input(call: Call) -> dict[str, Any]:
    return {key: value for key, value in call.kwargs.items() if key != "input"}


def _mean_of_positive(mask: Tensor) -> float:
    counts = mask.ne(0).sum(1)
    positive = counts[counts > 0]
    return float(positive.double().mean()) if len(positive) else 1.0
