"""`python -m lightning_init plan`, `recipe` and `show`: plans, and recipes of earlier runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import jsonargparse
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule

from lightning_init.functional import fractional_moment_init_
from lightning_init.initialization.settings import FractionalMomentSettings
from lightning_init.recipes.recipe import InitRecipe

RECIPE_FILE = "init_recipe.json"


def model_parser(command: str, description: str) -> ArgumentParser:
    """A parser of a file, of environment variables `PL_<COMMAND>_...`, and of a module.

    Args:
        command: Name of the subcommand.
        description: One sentence for its help.
    """
    parser = ArgumentParser(
        prog=f"python -m lightning_init {command}",
        description=description,
        default_env=True,
        env_prefix=f"PL_{command.upper()}_",
    )
    from_file: Any = vars(jsonargparse)["ActionConfigFile"]  # exported, but not in its type hints
    parser.add_argument("-c", "--config", action=from_file, help="YAML file of arguments.")
    parser.add_subclass_arguments(LightningModule, "model", required=True, fail_untyped=False)
    return parser


def plan(arguments: Sequence[str]) -> None:
    """Build the model, print its plan and change nothing.

    The plan is that of `FractionalMomentInit` before any data are read: activations are traced on
    the module's `example_input_array`, without one they come from the order of its modules.

    Raises:
        SystemExit: With status 2 and one line, if an argument is wrong or the model has no plan.
    """
    parser = model_parser("plan", "Print what FractionalMomentInit would draw, and change nothing.")
    parser.add_class_arguments(FractionalMomentSettings)
    config = parser.parse_args(list(arguments))
    model: LightningModule = parser.instantiate_classes(config).model
    model.configure_model()
    try:
        settings = FractionalMomentSettings.among(vars(config))
        fractional_moment_init_(
            model, example_input=model.example_input_array, dry_run=True, **vars(settings)
        )
    except ValueError as error:
        parser.error(str(error))


def recipe(arguments: Sequence[str]) -> None:
    """Write the variances that checkpoints hold to a file, and print them.

    Raises:
        SystemExit: With status 2 and one line, if a file cannot be read or does not fit the model.
    """
    parser = model_parser("recipe", "Take V(W) from the checkpoints of earlier runs.")
    parser.add_argument(
        "--checkpoint",
        type=str,
        action="append",
        required=True,
        help="A checkpoint; given several times: seeds, or epochs of one run.",
    )
    parser.add_argument("--out", type=str, default=RECIPE_FILE, help="Where to write the recipe.")
    config = parser.parse_args(list(arguments))
    model: LightningModule = parser.instantiate_classes(config).model
    model.configure_model()
    try:
        found = InitRecipe.from_checkpoint(config.checkpoint, model)
        found.save(config.out)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    start = f"OptimalVarianceInit(recipe={config.out!r})"
    sys.stdout.write(f"{found}\n")
    sys.stdout.write(f"Written: {config.out}; start the next run from it with {start}.\n")


def show(arguments: Sequence[str]) -> None:
    """Print the recipe that is named on the command line.

    Raises:
        SystemExit: With status 2 and one line, if the file cannot be read or is no recipe.
    """
    parser = ArgumentParser(
        prog="python -m lightning_init show",
        description="Print what a probe found, from the file that it wrote.",
    )
    parser.add_argument(
        "recipe", type=str, help=f"The file, e.g. <log_dir>/{RECIPE_FILE}, or the folder of it."
    )
    path = parser.parse_args(list(arguments)).recipe
    if os.path.isdir(path):
        path = os.path.join(path, RECIPE_FILE)
    try:
        recipe = InitRecipe.load(path)
    except FileNotFoundError:
        parser.error(f"argument `recipe`: there is no file {path!r}; a probe writes it to log_dir.")
    except (OSError, ValueError) as error:
        parser.error(f"argument `recipe`: {error}")
    sys.stdout.write(f"{recipe.full()}\n")
