"""`python -m lightning_init show recipe.json`: a recipe as a table."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from lightning_init.recipes.recipe import InitRecipe

RECIPE_FILE = "init_recipe.json"


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
