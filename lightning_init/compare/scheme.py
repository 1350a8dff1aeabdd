"""One initialization of a comparison: what it does to a model before its run starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

Initialize = Callable[[nn.Module, int], Any]
# From a seed and one batch of training data to the callbacks that initialize.
Build = Callable[[int, Any], Sequence[Callback]]


@dataclass(frozen=True)
class Pilot:
    """An earlier run whose V(W) the runs of a comparison start from.

    Args:
        seed: Of the pilot; outside the seeds of the comparison.
        share: How much of the planned steps it trains.
        start: Scheme of its own first weights, and of what is not redrawn from it.
        include: Glob patterns of layer names to draw, parted by "|"; None is all.
    """

    seed: int = 1000
    share: float = 1.0
    start: str = "default"
    include: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"`share` must be above 0 and at most 1, got {self.share!r}.")

    @property
    def name(self) -> str:
        """What the runs have in common that may share this pilot."""
        return re.sub(r"[^A-Za-z0-9_.=-]+", "_", f"{self.start}-{self.seed}-{self.share:g}")


@dataclass(frozen=True)
class Scheme:
    """One initialization of a comparison.

    Args:
        label: Its name in every table.
        build: From a seed and one training batch (None unless `needs_batch`) to the callbacks that
            initialize the model. Picklable if runs are spread over processes.
        needs_batch: Whether `build` looks at data.
        pilot: The earlier run that it starts from, or None.
        pilot_steps: Optimizer steps of that run, shared by all seeds.
    """

    label: str
    build: Build
    needs_batch: bool = False
    pilot: Pilot | None = None
    pilot_steps: int = 0

    @classmethod
    def from_function(cls, function: Initialize, label: str | None = None) -> Scheme:
        """Make a scheme of a function that changes a model in place.

        Args:
            function: Called with the module and the seed just before training; the global random
                generators are seeded before and put back after.
            label: Name in the tables; the function's own by default.
        """
        named = function.func if isinstance(function, partial) else function
        own_name: str = getattr(named, "__name__", type(named).__name__)
        return cls(label or own_name, partial(_apply, function))


class ApplyInitialization(Callback):
    """Calls a function on the whole module before the first step, with random numbers of its own.

    Args:
        function: Called with the module and the seed.
        seed: Of this run.
    """

    def __init__(self, function: Initialize, seed: int) -> None:
        self._function = function
        self._seed = seed

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Initialize: everything exists by now, and no optimizer has stepped."""
        with isolate_rng():
            torch.manual_seed(self._seed)
            self._function(pl_module, self._seed)


def _apply(function: Initialize, seed: int, batch: Any) -> list[Callback]:
    return [ApplyInitialization(function, seed)]
