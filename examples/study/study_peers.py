"""Initializations that a comparison has no name for: other people's, and an unlike run's variances.

lsuv               their own packages
anyinit
transfer:rate=2    V of a run with so many times the learning rate
transfer:width=2   V of a run with hidden layers so many times as wide
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import manual_seed, nn

from lightning_init import OptimalVarianceInit
from lightning_init.compare import Scheme
from lightning_init.compare.pilots import with_pilots
from lightning_init.compare.runs import RunTask
from lightning_init.compare.schemes import make_scheme

PILOT = "pilot:seed=1000"
Peer = Callable[[nn.Module, Any, int], Any]


class _ApplyPeer(Callback):
    """Calls a peer on the module and the first inputs, with random numbers of its own."""

    def __init__(self, peer: Peer, seed: int, inputs: Any) -> None:
        self.peer, self.seed, self.inputs = peer, seed, inputs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with isolate_rng():
            manual_seed(self.seed)
            self.peer(pl_module, self.inputs, self.seed)


def _lsuv(module: nn.Module, inputs: Any, seed: int) -> None:
    """Layer by layer until the first batch leaves each with unit variance (1511.06422)."""
    importlib.import_module("lsuv").lsuv_with_singlebatch(module, inputs, verbose=False)


def _anyinit(module: nn.Module, inputs: Any, seed: int) -> None:
    importlib.import_module("anyinit").initialize(module, "analytic", inputs, seed=seed)


PEERS: dict[str, Peer] = {"lsuv": _lsuv, "anyinit": _anyinit}


def _build(peer: Peer, seed: int, first_batch: Callable[[], Any]) -> list[Callback]:
    inputs = first_batch()
    while isinstance(inputs, (list, tuple, dict)):
        # What a model is called with: the first tensor of the batch.
        inputs = next(iter(inputs.values() if isinstance(inputs, dict) else inputs))
    return [_ApplyPeer(peer, seed, inputs)]


def with_peers(inits: Sequence[str]) -> list[str | Scheme]:
    """Those of a protocol, the peers among them as schemes."""
    return [Scheme(name, partial(_build, PEERS[name])) if name in PEERS else name for name in inits]


def with_transfers(
    inits: Sequence[str | Scheme], task: RunTask, folder: Path
) -> list[str | Scheme]:
    """Train a pilot for each scheme that is named `transfer:...`, unless its recipe is there."""
    return [
        _transfer(init, task, folder / init.replace(":", "-"))
        if isinstance(init, str) and init.startswith("transfer:")
        else init
        for init in inits
    ]


def _transfer(init: str, task: RunTask, folder: Path) -> Scheme:
    name, _, value = init.partition(":")[2].partition("=")
    given = task.model.keywords
    model = partial(task.model.func, **given | _changed(given, name, float(value)))
    (pilot,) = with_pilots([make_scheme(PILOT)], replace(task, model=model), folder)
    recipe = pilot.build.keywords["recipe"]
    return Scheme(init, partial(_draw, recipe), pilot.pilot_steps)


def _changed(given: Mapping[str, Any], name: str, value: float) -> dict[str, Any]:
    if name == "width":
        first, *hidden, last = given["widths"]
        return {"widths": [first, *(round(value * one) for one in hidden), last]}
    if name == "rate":
        return {"learning_rate": value * given["learning_rate"]}
    raise ValueError(f"`transfer` knows rate and width, got {name!r}.")


def _draw(recipe: str, seed: int, first_batch: Callable[[], Any]) -> list[Callback]:
    return [OptimalVarianceInit(recipe=recipe, recipe_by_width=True, seed=seed, verbose=False)]
