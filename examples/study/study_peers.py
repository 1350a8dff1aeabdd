"""Other people's initializations as schemes of a comparison: LSUV, from its own package."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import manual_seed

from lightning_init.compare import Scheme


class LayerSequentialUnitVariance(Callback):
    """Scales layer by layer until the first batch leaves each with unit variance (1511.06422)."""

    def __init__(self, seed: int, inputs: Any) -> None:
        self.seed, self.inputs = seed, inputs

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with isolate_rng():
            manual_seed(self.seed)
            lsuv = importlib.import_module("lsuv")
            lsuv.lsuv_with_singlebatch(pl_module, self.inputs, verbose=False)


def lsuv(seed: int, first_batch: Callable[[], Any]) -> list[Callback]:
    inputs = first_batch()
    while isinstance(inputs, (list, tuple, dict)):
        # What a model is called with: the first tensor of the batch.
        inputs = next(iter(inputs.values() if isinstance(inputs, dict) else inputs))
    return [LayerSequentialUnitVariance(seed, inputs)]


def with_peers(inits: Sequence[str]) -> list[str | Scheme]:
    """Those of a protocol, the peers among them as schemes."""
    return [Scheme(name, lsuv) if name == "lsuv" else name for name in inits]
