"""`python -m lightning_init show recipe.json`: a recipe as a table."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from lightning_init.recipes.recipe import InitRecipe
from lightning_init.recipes.recipe_format import RecipeLayer
from lightning_init.tables import number, shape_text, shorten, text_table

HEADERS = ("layer", "shape", "fan_in", "V", "rel. s.e.", "verdict", "sigma0", "action")


def show(arguments: Sequence[str]) -> None:
    """Print the recipe that is named on the command line.

    Raises:
        SystemExit: With status 2 and one line, if the file cannot be read or is no recipe.
    """
    parser = ArgumentParser(
        prog="python -m lightning_init show",
        description="Print what a probe found, from the file that it wrote.",
    )
    parser.add_argument("recipe", type=str, help="The file, e.g. <log_dir>/init_recipe.json.")
    path = parser.parse_args(list(arguments)).recipe
    try:
        recipe = InitRecipe.load(path)
    except FileNotFoundError:
        parser.error(f"argument `recipe`: there is no file {path!r}; a probe writes it to log_dir.")
    except (OSError, ValueError) as error:
        parser.error(f"argument `recipe`: {error}")
    sys.stdout.write(f"{recipe_table(recipe)}\n")


def recipe_table(recipe: InitRecipe) -> str:
    """Render a recipe as plain text: its layers, and what they were found with.

    >>> layer = RecipeLayer("net.0", (4, 8), 8, 0.25, "redrawn", "stationary", 0.25, 0.01)
    >>> print(recipe_table(InitRecipe((layer,), optimizers=(("SGD", 0.1),))))
    InitRecipe: 1 redrawn, 0 kept, 0 left out; fingerprint 5137d105e3ed3225e344caaf45caf780.
    layer  shape  fan_in  V     rel. s.e.  verdict     sigma0  action
    -----  -----  ------  ----  ---------  ----------  ------  -------
    net.0  4x8    8       0.25  0.01       stationary  0.5     redrawn
    optimizers: SGD at learning rate 0.1
    """
    redrawn = sum(layer.action == "redrawn" for layer in recipe.layers)
    heading = (
        f"InitRecipe: {redrawn} redrawn, {len(recipe.layers) - redrawn} kept,"
        f" {len(recipe.left_out)} left out; fingerprint {recipe.fingerprint}."
    )
    facts = {
        "left out": ", ".join(recipe.left_out),
        "optimizers": ", ".join(
            f"{name} at learning rate {lr:g}" for name, lr in recipe.optimizers
        ),
        "settings": ", ".join(f"{name}={value}" for name, value in recipe.settings),
        "versions": ", ".join(f"{name} {version}" for name, version in recipe.library_versions),
    }
    table = text_table(HEADERS, [_cells(layer) for layer in recipe.layers])
    return "\n".join([heading, table, *(f"{name}: {text}" for name, text in facts.items() if text)])


def _cells(layer: RecipeLayer) -> tuple[str, ...]:
    return (
        shorten(layer.name, 40),
        shape_text(layer.shape),
        str(layer.fan_in or "-"),
        number(_known(layer.variance), 4),
        number(_known(layer.standard_error), 2),
        layer.verdict,
        number(math.sqrt(layer.sigma0_squared), 4),
        layer.action,
    )


def _known(value: float | None) -> float:
    return math.nan if value is None else value
