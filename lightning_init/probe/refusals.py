"""What a probe refuses: before it starts, and after it has run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_init.probe import lightning_internals as internals

if TYPE_CHECKING:
    from lightning_init.probe.runner import ProbeLimits

Versions = list[tuple[str, Tensor, int]]


def refuse_what_cannot_be_probed(
    trainer: Trainer, module: LightningModule, limits: ProbeLimits
) -> None:
    """Refuse lazy parameters, sharded models and data that can be read only once."""
    for name, parameter in module.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise MisconfigurationException(
                f"{name!r} is not initialized yet, so it can be neither probed nor redrawn; run a"
                " batch through the module once in `setup`."
            )
    if not internals.distributed_with_copies(trainer.strategy):
        raise MisconfigurationException(
            f"A probe cannot copy a model sharded by {type(trainer.strategy).__name__}; probe once"
            " on one device or with DDP and apply the recipe here:"
            " OptimalVarianceInit(recipe='init_recipe.json')."
        )
    instance, _ = internals.train_data_source(trainer)
    if limits.dataloaders is None and isinstance(instance, Iterator):
        raise MisconfigurationException(
            "The training data are a one-shot iterator, which a probe would use up; pass a loader"
            " that can be read again, or `probe_dataloaders=`."
        )


def refuse_false_probe(copied: LightningModule, module: LightningModule) -> None:
    """Refuse a probe after which every weight of the copy is where it was."""
    originals = dict(module.named_parameters())
    for name, parameter in copied.named_parameters():
        original = originals.get(name)
        if original is None or not parameter.requires_grad:
            continue
        if original.shape != parameter.shape or not torch.equal(
            original.detach().to(parameter.device), parameter.detach()
        ):
            return
    raise MisconfigurationException(
        "The probe took optimizer steps but no weight moved; check that the learning rate is not 0"
        " at the start of the schedule (`probe_lr=` or `keep_schedule=True` help) and that the"
        " optimizer holds the module's parameters."
    )


def write_counts(module: LightningModule) -> Versions:
    """How often each parameter and buffer was written so far."""
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [(name, tensor, internals.write_count(tensor)) for name, tensor in tensors]


def verify_untouched(versions: Versions) -> None:
    """Refuse a probe that wrote to the real model."""
    for name, tensor, version in versions:
        if internals.write_count(tensor) != version:
            raise MisconfigurationException(
                f"The probe modified {name!r} of the real model, so the restart would not be fair;"
                " look for a hook or closure that writes to the original module."
            )
