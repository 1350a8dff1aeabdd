"""`python -m lightning_init recipe --model my.Module --checkpoint last.ckpt`: V(W) of a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule

from lightning_init.cli.parsing import model_parser
from lightning_init.recipes.recipe import InitRecipe


def recipe(arguments: Sequence[str]) -> None:
    """Write the variances that checkpoints hold to a file, and print them.

    Raises:
        SystemExit: With status 2 and one line, if a file cannot be read or does not fit the model.
    """
    parser = recipe_parser()
    config = parser.parse_args(list(arguments))
    model: LightningModule = parser.instantiate_classes(config).model
    model.configure_model()
    try:
        found = InitRecipe.from_checkpoint(config.checkpoint, model)
        found.save(config.out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    sys.stdout.write(f"{found}\n")
    sys.stdout.write(
        f"Written: {config.out}; start from it with OptimalVarianceInit(recipe=...).\n"
    )


def recipe_parser() -> ArgumentParser:
    """The arguments of `recipe`: the model, checkpoints, and where to write."""
    parser = model_parser("recipe", "Take V(W) from the checkpoints of earlier runs.")
    parser.add_argument(
        "--checkpoint",
        type=str,
        action="append",
        required=True,
        help="A checkpoint; given several times: seeds, or epochs of one run.",
    )
    parser.add_argument(
        "--out", type=str, default="init_recipe.json", help="Where to write the recipe."
    )
    return parser
