"""How a recipe reads: what it draws, and what it was found with."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning_init.pages import MOST_ROWS, Page, Readable, columns_of
from lightning_init.recipes.recipe_format import RecipeLayer
from lightning_init.tables import number, shape_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS: tuple[tuple[str, Callable[[RecipeLayer], str], int], ...] = (
    ("layer", lambda layer: layer.name, 0),
    ("shape", lambda layer: shape_text(layer.shape), 4),
    ("fan_in", lambda layer: str(layer.fan_in or "-"), 5),
    ("V", lambda layer: number(_known(layer.variance), 4), 0),
    ("rel. s.e.", lambda layer: number(_known(layer.standard_error), 2), 3),
    ("spread", lambda layer: number(_known(layer.spread), 2), 2),
    ("change", lambda layer: "-" if layer.change is None else f"{layer.change:+.0%}", 2),
    ("verdict", lambda layer: layer.verdict, 1),
    ("sigma0", lambda layer: number(math.sqrt(layer.sigma0_squared), 4), 0),
    ("action", lambda layer: layer.action, 0),
)


class ReadableRecipe(Readable):
    """The ways to read a recipe."""

    layers: tuple[RecipeLayer, ...]
    left_out: tuple[str, ...]
    settings: tuple[tuple[str, Any], ...]
    optimizers: tuple[tuple[str, float], ...]
    library_versions: tuple[tuple[str, str], ...]

    def page(self, max_rows: int | None = MOST_ROWS) -> Page:
        """See `Readable.page`; a recipe does not know what changes most, so the first are shown."""
        every, layers = max_rows is None, self.layers[:max_rows]
        hidden = len(self.layers) - len(layers)
        redrawn = sum(layer.action == "redrawn" for layer in self.layers)
        facts = {
            "left out": ", ".join(self.left_out) if every else "",
            "optimizers": ", ".join(
                f"{name} at learning rate {lr:g}" for name, lr in self.optimizers
            ),
            "settings": ", ".join(f"{name}={value}" for name, value in self.settings),
            "versions": ", ".join(f"{name} {version}" for name, version in self.library_versions),
        }
        shown = facts if every else {"optimizers": facts["optimizers"]}
        return Page(
            lead=f"InitRecipe: {redrawn} redrawn, {len(self.layers) - redrawn} kept,"
            f" {len(self.left_out)} left out, by OptimalVarianceInit(recipe=...).",
            columns=columns_of(layers, _COLUMNS),
            remarks=(
                *([f"... and {hidden} more layers: `print(recipe.full())`."] if hidden else []),
                *[f"{name}: {text}" for name, text in shown.items() if text],
            ),
            folds=every,
        )

    def records(self) -> list[dict[str, Any]]:
        """The fields of every layer."""
        return [dict(vars(layer)) for layer in self.layers]

    def plot(self) -> Figure:
        """Draw the standard deviation that every layer gets.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from lightning_init.figure_style import scale_figure

        names = [layer.name for layer in self.layers]
        after = [math.sqrt(layer.sigma0_squared) for layer in self.layers]
        return scale_figure(names, [math.nan] * len(names), after, "First weights of the recipe")


def _known(value: float | None) -> float:
    return math.nan if value is None else value
