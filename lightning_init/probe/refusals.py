"""What a probe refuses: before it starts, and after it has run."""

from __future__ import annotations

from collections.abc import Iterator

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.limits import ProbeLimits


def refuse_what_cannot_be_probed(
    trainer: Trainer, module: LightningModule, limits: ProbeLimits
) -> None:
    """Refuse lazy parameters, models that cannot be put back, data that can be read only once."""
    for name, parameter in module.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise MisconfigurationException(
                f"{name!r} is not initialized yet, so it can be neither probed nor redrawn; run a"
                " batch through the module once in `setup`."
            )
    strategy = trainer.strategy
    if not (internals.distributed_with_copies(strategy) or internals.trains_in_place(strategy)):
        raise MisconfigurationException(
            f"A probe can neither copy nor restore a model sharded by {type(strategy).__name__};"
            " probe once on one device, with DDP or with ModelParallelStrategy, and apply the"
            " recipe here: OptimalVarianceInit(recipe='init_recipe.json')."
        )
    instance, _ = internals.train_data_source(trainer)
    if limits.dataloaders is None and isinstance(instance, Iterator):
        raise MisconfigurationException(
            "The training data are a one-shot iterator, which a probe would use up; pass a loader"
            " that can be read again, or `probe_dataloaders=`."
        )


def refuse_false_probe(has_moved: bool) -> None:
    """Refuse a probe after which every weight is where it was."""
    if has_moved:
        return
    raise MisconfigurationException(
        "The probe took optimizer steps but no weight moved; check that the learning rate is not 0"
        " throughout (`probe_lr=` sets the probe's own) and that the optimizer holds the module's"
        " parameters."
    )
