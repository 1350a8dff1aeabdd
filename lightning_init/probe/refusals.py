"""What a probe refuses: before it starts, and after it has run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.data_state import data_held_by
from lightning_init.probe.iterators import QUEUES
from lightning_init.probe.limits import ProbeLimits, ProbeRefused
from lightning_init.probe.object_walk import ObjectWalk, without_collections

# A queue is behind a loader's few attributes, not among its samples in their thousands.
_NEAR = 5_000


class NothingToProbe(ProbeRefused):
    """There is nothing to train on, which is no failure."""


def refuse_what_cannot_be_probed(
    trainer: Trainer, module: LightningModule, limits: ProbeLimits
) -> None:
    """Refuse what a probe cannot copy or put back, and data that can be read only once."""
    for name, parameter in module.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ProbeRefused(
                f"{name!r} is not initialized yet, so it can be neither probed nor redrawn; run a"
                " batch through the module once in `setup`."
            )
        if parameter.layout != torch.strided:
            raise ProbeRefused(
                f"{name!r} is stored as {parameter.layout}, which torch cannot copy for a probe."
            )
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise ProbeRefused(
                f"{name!r} is TorchScript, a copy of which no optimizer trains; script the module"
                " after training, or use `torch.compile`."
            )
    strategy = trainer.strategy
    if not (internals.distributed_with_copies(strategy) or internals.trains_in_place(strategy)):
        raise ProbeRefused(
            f"A probe can neither copy nor restore a model sharded by {type(strategy).__name__};"
            " probe once on one device, with DDP or with ModelParallelStrategy, and apply the"
            " recipe here: OptimalVarianceInit(recipe='init_recipe.json')."
        )
    if limits.dataloaders is not None and not hasattr(type(limits.dataloaders), "__iter__"):
        raise ProbeRefused(
            "`probe_dataloaders` must be loaders, which can be iterated, got"
            f" {type(limits.dataloaders).__name__}."
        )
    instance, _ = internals.train_data_source(trainer)
    if limits.dataloaders is None and is_read_once(instance):
        raise ProbeRefused(
            "The training data are a one-shot iterator, which a probe would use up; pass a loader"
            " that can be read again, or `probe_dataloaders=`."
        )
    if limits.dataloaders is None and (queue := _queue_behind(instance, module)):
        raise ProbeRefused(
            f"The training data read a queue ({queue}), which a probe would use up; pass"
            " `probe_dataloaders=`."
        )


def _queue_behind(instance: Any, module: LightningModule) -> str:
    """Name of a queue that the training data read, which nobody can fill again; empty if none."""
    roots = data_held_by(module) if instance is module else [instance]
    with without_collections():
        walk = ObjectWalk({type(root).__name__: root for root in roots}, most=_NEAR)
    names = (
        walk.name(index)
        for index, found in enumerate(walk.found)
        if type(found.item).__module__ in QUEUES
    )
    # A loader's own workers are fed by queues too.
    return next((name for name in names if "_iterator" not in name), "")


def is_read_once(loaders: Any) -> bool:
    """Whether reading ``loaders``, or one of several in a container, uses it up.

    An object that is its own iterator may well be read again, as a ``CombinedLoader`` is; what
    keeps its position where nobody can put it back (generators, `map`, `zip`, files) may not.
    """
    if isinstance(loaders, Mapping):
        return any(map(is_read_once, loaders.values()))
    if isinstance(loaders, (list, tuple)):
        return any(map(is_read_once, loaders))
    return isinstance(loaders, Iterator) and not hasattr(loaders, "__dict__")


def refuse_false_probe(has_moved: bool, batches: int, lost_losses: int) -> None:
    """Refuse a probe after which every weight is where it was."""
    if has_moved:
        return
    if batches and lost_losses == batches:
        raise ProbeRefused(
            f"The probe took optimizer steps but no weight moved, because `training_step` returned"
            f" no loss in all of {batches} batches; check when it returns None."
        )
    raise ProbeRefused(
        "The probe took optimizer steps but no weight moved; check that the learning rate is not 0"
        " throughout (`probe_lr=` sets the probe's own) and that the optimizer holds the module's"
        " parameters."
    )
