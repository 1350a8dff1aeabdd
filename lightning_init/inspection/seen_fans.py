"""Fan-ins that only a call shows: masked weights, and convolutions of which a part sees zeros."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from math import prod
from typing import Any, NamedTuple

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
# In single precision on the CPU, whatever the model and the defaults are.
_SINGLE: Any = {"dtype": torch.float32, "device": "cpu"}
_POOLED: dict[int, Any] = {
    1: functional.adaptive_avg_pool1d,
    2: functional.adaptive_avg_pool2d,
    3: functional.adaptive_avg_pool3d,
}


class _Profile(NamedTuple):
    """A profile over positions of this size, worked out when it is asked for."""

    size: torch.Size
    make: Callable[[], Tensor]


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
        self._counts: dict[str, list[Callable[[], tuple[float, float]]]] = {}
        self._rows: dict[str, tuple[int, ...]] = {}
        self._profiles: TensorTable[_Profile] = TensorTable()
        self._last: Callable[[torch.Size], _Profile] | None = None

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
                counted = _mean_of_positive(mask.flatten(1)), 1.0
                self._count(held, lambda: counted)
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
        places, kernel = entered.shape[-rank:], matrix.shape[2:]
        open_taps = None if mask is None else mask.to(**_SINGLE).mean((0, 1))
        options = list(call.args[3:])
        named = {k: v for k, v in call.kwargs.items() if k not in ("input", "weight", "bias")}
        groups = options[3] if len(options) > 3 else named.pop("groups", 1)
        if len(options) > 3:
            options[3] = 1
        channels = matrix.shape[0] // groups if transposed else matrix.shape[1]
        function = call.function

        @cache
        def seen() -> Tensor:
            entering = torch.ones(1, 1, *places, **_SINGLE) if before is None else before.make()
            taps = torch.ones(kernel, **_SINGLE) if open_taps is None else open_taps
            with torch.autocast("cpu", enabled=False):
                found: Tensor = function(entering, taps[None, None], None, *options, **named)
            return found

        def counted() -> tuple[float, float]:
            taps = float(seen().mean())
            return taps * channels, taps

        profile = cache(lambda: seen() / max(float(seen().mean()), 1e-30))
        self._last = lambda shape: _Profile(shape[-rank:], profile)
        self._count(held, counted)
        if transposed or mask is not None:
            self._counts_borders = True
        else:
            self._plain.update(held)

    def _count(self, held: list[str], counted: Callable[[], tuple[float, float]]) -> None:
        for name in held:
            self._counts.setdefault(name, []).append(counted)

    def follow(self, call: Call, outputs: list[Tensor]) -> None:
        """Carry the profile of a call's input over to its results."""
        self._counts_borders |= call.name in MAX_POOLS
        made, self._last = self._last, None
        if made is not None:
            for output in outputs:
                self._profiles[output] = made(output.shape)
            return
        if not self._profiles.values or call.name in _ENDS:
            return
        given = (self._profiles.get(tensor) for tensor, _ in call.carriers)
        profile = next((one for one in given if one is not None), None)
        if profile is None:
            return
        for output in outputs:
            there = _carried(call, profile, output)
            if there is not None:
                self._profiles[output] = there

    @torch.no_grad()
    def corrected(self, weights: tuple[Weight, ...]) -> tuple[Weight, ...]:
        """The weights with the fan-ins that were seen, the mean over the uses of one weight."""
        if self._counts_borders:  # in the order of execution: each asks the one before
            for counts in self._counts.values():
                for counted in counts:
                    counted()
        return tuple([self._corrected(weight) for weight in weights])

    def _corrected(self, weight: Weight) -> Weight:
        counts = self._counts.get(weight.name)
        if counts is None or (weight.name in self._plain and not self._counts_borders):
            return weight
        found = [counted() for counted in counts]
        fan_in, taps = (max(1, round(sum(one) / len(found))) for one in zip(*found, strict=True))
        return weight._replace(fan_in=fan_in, taps=taps, row_fans=self._rows.get(weight.name, ()))


def _pads(padding: Any) -> bool:
    if isinstance(padding, str):
        return padding == "same"
    return any(padding) if isinstance(padding, (tuple, list)) else padding > 0


def _carried(call: Call, profile: _Profile, output: Tensor) -> _Profile | None:
    """The profile of a result, None where it can no longer be told."""
    rank = len(profile.size)
    if output.dim() < rank + 1:
        return None
    size = output.shape[-rank:]
    if size == profile.size:
        return profile
    if call.name in _PADS and len(call.argument(1, "pad")) <= 2 * rank:
        options, named = call.args[1:], _without_input(call)
        return _Profile(size, cache(lambda: _padded(profile.make(), options, named)))
    if call.name in POOLS and prod(size) > 1:
        return _Profile(size, cache(lambda: _POOLED[rank](profile.make(), tuple(size))))
    return None


def _padded(profile: Tensor, options: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    padded = functional.pad(profile, *options, **named)
    return padded / padded.mean()


def _without_input(call: Call) -> dict[str, Any]:
    return {key: value for key, value in call.kwargs.items() if key != "input"}


def _mean_of_positive(mask: Tensor) -> float:
    counts = mask.ne(0).sum(1)
    positive = counts[counts > 0]
    return float(positive.double().mean()) if len(positive) else 1.0
