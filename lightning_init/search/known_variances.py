"""The recipe at the side of a Trainer: made from a report, written, applied."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from lightning_init.initialization.synchronization import synchronize
from lightning_init.inspection.weights import WeightInventory
from lightning_init.probe.shadows import shadows_follow
from lightning_init.recipes.recipe import InitRecipe
from lightning_init.reporting.report import InitReport

RECIPE_FILE = "init_recipe.json"


def recipe_of(report: InitReport, trainer: Trainer) -> InitRecipe:
    """What a probe found, with the optimizers that it holds for."""
    optimizers = [
        (type(optimizer).__name__, float(group["lr"]))
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
        if group.get("lr") is not None
    ]
    return InitRecipe.from_report(report, optimizers)


def apply_recipe(
    trainer: Trainer,
    module: LightningModule,
    recipe: InitRecipe,
    inventory: WeightInventory,
    seed: int,
    by_width: bool,
) -> list[str]:
    """Draw a recipe's layers on every rank and on the copies that follow them.

    Raises:
        ValueError: If the recipe does not fit the model; nothing is changed then.
    """
    with shadows_follow(trainer, module):
        drawn = recipe.apply_to(module, inventory, seed, by_width)
        synchronize(module)
    return drawn


def write_in_log_dir(trainer: Trainer, recipe: InitRecipe) -> Path | None:
    """Write ``init_recipe.json`` beside what the first logger with a local directory writes.

    Returns:
        The file, or None where there is no such directory.
    """
    if not trainer.is_global_zero:
        return None
    for logger in trainer.loggers:
        log_dir = getattr(logger, "log_dir", None)
        if isinstance(log_dir, (str, os.PathLike)) and "://" not in str(log_dir):
            recipe.save(Path(log_dir) / RECIPE_FILE)
            return Path(log_dir) / RECIPE_FILE
    return None
