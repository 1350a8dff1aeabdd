"""Log-norms of what enters the layers, noted in a trace or worked out in a run of its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lightning_init.inspection.weights import Weight

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
DENSE = frozenset({"linear", *CONVOLUTIONS})
_CHAIN = 8  # layers without a sum of branches: all will be drawn
_MANY = 8192  # from here on several threads may add in another order


class TracedNorms:
    """Log-norms of what enters each layer in a trace, before anything is drawn.

    They stand after the draw too, if nothing runs behind the first weight that is drawn. That is so
    in a network of branches of which only the head is drawn. Elsewhere nothing is noted for long.
    """

    def __init__(self) -> None:
        self.complete, self.branches = True, False
        self._entered: list[tuple[str, Tensor, int]] = []
        self._first_use: dict[str, int] = {}

    def note_use(self, weights: Iterable[Weight]) -> None:
        """Note that a call makes use of these weights."""
        for weight in weights:
            self._first_use.setdefault(weight.name, len(self._entered))

    def note_input(
        self,
        operation: str,
        entered: Tensor,
        matrix: Tensor,
        names: Iterable[str],
        *,
        known: bool,
    ) -> None:
        """Note what enters a layer, if `record_layer_inputs` would; it may not be `known` what."""
        chain = len(self._entered) == _CHAIN and not self.branches
        self.complete &= known and not chain
        names = [*set(names)]
        if operation not in DENSE or len(names) != 1 or not self.complete:
            return
        try:
            norms = norms_of(entered, 1 if operation == "linear" else matrix.dim() - 1)
        except Exception:  # of a kind that has no norm: it is measured again
            self.complete = False
            return
        self._entered.append((names[0], norms, entered.numel()))

    def unchanged_by(
        self, drawn: Collection[str], fan_in: Mapping[str, int]
    ) -> dict[str, float] | None:
        """By layer, its log-norm; None if the draw of these weights may change one.

        Args:
            drawn: Names of the weights that are drawn.
            fan_in: Of every weight.
        """
        if not self.complete or not drawn or not self._first_use.keys() >= set(drawn):
            return None
        first = min(self._first_use[name] for name in drawn)
        behind = [name for name, *_ in self._entered[first:]]
        at_first = [name for name in drawn if self._first_use[name] == first]
        if behind and behind != at_first:
            return None
        times = Counter(name for name, *_ in self._entered)
        once = [one for one in self._entered if times[one[0]] == 1]
        means = mean_logs([norms for _, norms, _ in once])
        return {
            name: log_norm(mean, fan_in[name], norms.numel(), entries)
            for (name, norms, entries), mean in zip(once, means, strict=True)
        }


def norms_of(entered: Tensor, dimensions: int) -> Tensor:
    """The norms over the last dimensions."""
    axes = tuple(range(max(-dimensions, -entered.dim()), 0))
    norms: Tensor = torch.linalg.vector_norm(entered, dim=axes, dtype=torch.float64)
    return norms


def mean_logs(norms: Sequence[Tensor]) -> list[float]:
    """Of every tensor, the mean log of what is not zero; -inf if all is."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, one in enumerate(norms):
        size = one.numel()
        alike.setdefault((size, one.device, index if size > _MANY else 0), []).append(index)
    found: dict[int, float] = {}
    for indices in alike.values():
        means = torch.stack([norms[i].reshape(-1) for i in indices]).log().mean(1)
        found.update(zip(indices, means.tolist(), strict=True))
    return [
        mean if math.isfinite(mean) else _mean_log_of_positive(norms[index])
        for index, mean in sorted(found.items())
    ]


def _mean_log_of_positive(norms: Tensor) -> float:
    alive = norms[norms > 0]
    return alive.log().mean().item() if alive.numel() else -math.inf


def log_norm(mean: float, fan_in: int, norms: int, entries: int) -> float:
    """Log of the norm of what one output unit sums, from the mean log of `norms` norms."""
    return mean + 0.5 * math.log(fan_in * norms / entries)
