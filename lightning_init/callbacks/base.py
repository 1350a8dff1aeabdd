"""What both callbacks share: when a run is fresh, and which seed it has."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_init.inspection.reasons import ON_META_DEVICE
from lightning_init.inspection.weights import WeightInventory
from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.lightning_packages import also_a_callback_of_the_other_name


class _InitCallback(Callback):
    """A callback that writes first weights: once, on a fresh run, alike on every rank."""

    def __init__(self, seed: int | None) -> None:
        super().__init__()
        self.seed = seed
        self._resumed = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what an earlier run of this object left (k-fold training reuses callbacks)."""
        if stage == "fit":
            self._resumed = False

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note that the run resumes: weights from a checkpoint are not first weights."""
        # Lightning's tuners restore a temporary checkpoint of their own on a fresh run.
        if not internals.restored_by_tuner(trainer):
            self._resumed = True

    def _is_fresh(self, trainer: Trainer) -> bool:
        return not (self._resumed or internals.is_restoring(trainer) or trainer.global_step > 0)

    def _resolve_seed(self, trainer: Trainer) -> int:
        # Reading the seed draws nothing; ranks may have been seeded differently, rank zero decides.
        seed = torch.initial_seed() if self.seed is None else self.seed
        return int(trainer.strategy.broadcast(seed))


also_a_callback_of_the_other_name(_InitCallback)


def require_weights(name: str, inventory: WeightInventory) -> None:
    """Refuse a model on which nothing can be drawn.

    Raises:
        MisconfigurationException: If a weight is on the meta device, or none takes part.
    """
    for skipped in inventory.left_out:
        if skipped.reason == ON_META_DEVICE:
            raise MisconfigurationException(
                f"{name}: {skipped.name!r} is on the meta device and has no values to draw;"
                " materialize it in `configure_model` (`module.to_empty(...)`) first."
            )
    if inventory.weights:
        return
    reasons = sorted({s.reason for s in inventory.left_out if not s.reason.startswith("bias of")})
    raise MisconfigurationException(
        f"{name}: no weight takes part ({'; '.join(reasons[:4]) or 'the model has no parameters'});"
        " check `include`/`exclude` and `requires_grad`."
    )
