"""The recipe at the side of a Trainer: made from a report, written, applied."""

from __future__ import annotations

import os
from pathlib import Path

from lightning.pytorch import LightningModule, Trainer

from lightning_init.initialization.fill import synchronize
from lightning_init.inspection.weights import WeightInventory
from lightning_init.probe.shadows import shadows_follow
from lightning_init.recipes.recipe import InitRecipe
from lightning_init.reporting.run_files import local_directory

RECIPE_FILE = "init_recipe.json"


def optimizers_of(trainer: Trainer) -> list[tuple[str, float]]:
    """Class and learning rate, one pair per parameter group.

    At the end of a schedule, and at the foot of a warm-up, the rate says nothing: the largest that
    the group names is taken.
    """
    found = []
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            rates = [group.get(name) for name in ("lr", "initial_lr", "max_lr")]
            known = [float(rate) for rate in rates if rate is not None]
            if known:
                found.append((type(optimizer).__name__, max(known)))
    return found


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


def write_recipe(
    trainer: Trainer, recipe: InitRecipe, given: str | None = None, read_from: str | None = None
) -> Path | None:
    """Write a recipe where the user asked for it, or ``init_recipe.json`` beside the log.

    Without a logger that writes to this machine it goes to the Trainer's root directory.

    Args:
        trainer: On its global rank zero the file is written.
        recipe: What to write.
        given: The user's path, or None.
        read_from: The file that the run started from, which stays as it is.

    Returns:
        The file, or None where nothing was written.
    """
    folder = local_directory(trainer.loggers)
    if folder is None and "://" not in trainer.default_root_dir:
        folder = Path(trainer.default_root_dir)
    path = Path(given) if given else None if folder is None else folder / RECIPE_FILE
    if path is None or not trainer.is_global_zero:
        return None
    if read_from is not None and os.path.realpath(path) == os.path.realpath(read_from):
        return None
    recipe.save(path)
    return path
