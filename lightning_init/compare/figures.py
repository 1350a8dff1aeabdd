"""The figure of a comparison: paired differences in the colours of their verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_init.compare import tables
from lightning_init.compare.quantities import BOTH, FINAL, Quantity, Runs
from lightning_init.compare.records import RunRecord
from lightning_init.figure_style import (
    GREY,
    PALETTE,
    blank_figure,
    plain_axes,
    plain_text,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS_IN_A_ROW = 3
# Of what is shown by both the interval and the test; all else is grey.
COLOURS = {tables.BETTER: PALETTE[0], tables.WORSE: PALETTE[1]}


def differences(
    records: Sequence[RunRecord], quantities: Sequence[Quantity], table: pd.DataFrame
) -> Figure:
    """Draw the paired differences of final values: one panel per metric, one line per pair.

    Every seed is a dot; the mean and its interval below them are blue for a first scheme that is
    better, orange for one that is worse, and grey where that is not shown.
    """
    runs = Runs(records)
    finals = [quantity for quantity in quantities if quantity.name == FINAL]
    found = table[table["quantity"] == FINAL]
    height = max(2, found.groupby("metric").size().max())
    columns = min(MOST_PANELS_IN_A_ROW, len(finals))
    lines = math.ceil(len(finals) / columns)
    size = 2.4 + 2.6 * columns, lines * (1.0 + 0.5 * height)
    figure = blank_figure(*size, layout="constrained", package="lightning_init[compare]")
    for place, quantity in enumerate(finals):
        axes = plain_axes(figure, "", "", (lines, columns, place + 1))
        rows = list(found[found["metric"] == quantity.metric].itertuples(index=False))
        for position, row in enumerate(rows):
            of_seeds = runs.differences(row.first, row.second, row.budget, quantity)
            _draw_row(axes, row, [d for d in of_seeds.values() if math.isfinite(d)], position)
        names = [_row_name(row) if place % columns == 0 else "" for row in rows]
        axes.set_yticks(range(len(rows)), names, fontsize=7)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.axvline(0.0, color="black", linewidth=0.8, linestyle=":")
        axes.tick_params(axis="x", labelsize=7)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(
            f"{plain_text(f'final {quantity.metric}', 30)}\n({rows[0].better_is} is better)",
            fontsize=8,
        )
    figure.suptitle("Differences, first minus second: blue better, orange worse", fontsize=9)
    return figure


def _draw_row(axes: Axes, row: Any, finite: Sequence[float], position: int) -> None:
    colour = COLOURS.get(row.verdict, GREY)
    # Dots of equal height hide each other: spread them by the order of the seeds.
    heights = position - 0.3 + 0.3 * np.linspace(0, 1, len(finite))
    axes.plot(finite, heights, "o", color=colour, markersize=3, alpha=0.5, linewidth=0)
    below = position + 0.2
    ends = [row.lower, row.upper]
    axes.plot(ends, [below, below], color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot([row.mean_difference], [below], "D", color=colour, markersize=5)


def _row_name(row: Any) -> str:
    budget = "" if row.budget == BOTH else f", {row.budget}"
    name = f"{plain_text(row.first, 24)}{budget}\n- {plain_text(row.second, 24)}"
    # Runs without a number have no mark: say how many there are.
    lost = f"\n{row.first_unfinished} and {row.second_unfinished} unfinished"
    return name + lost if row.first_unfinished or row.second_unfinished else name
