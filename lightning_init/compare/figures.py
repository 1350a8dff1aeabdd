"""Figures of a comparison: paired differences with their verdicts, and curves with bands.

Drawn without pyplot, in the palette and the size of the package's other figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_init.compare import tables
from lightning_init.compare.quantities import BOTH, FINAL, Quantity, Runs
from lightning_init.compare.rank_tests import optional
from lightning_init.compare.records import EQUAL, FINISHED, RunRecord
from lightning_init.reporting.figure_style import (
    GREY,
    MOST_POINTS_PER_CURVE,
    PALETTE,
    blank_figure,
    plain_axes,
    plain_text,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

STYLES = ("-", "--", ":", "-.")
MOST_PANELS_IN_A_ROW = 3
# Of what is shown by both the interval and the test; all else is grey.
COLOURS = {tables.BETTER: PALETTE[0], tables.WORSE: PALETTE[1]}
PACKAGE = "lightning_init[compare]"


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
    figure = blank_figure(
        2.4 + 2.6 * columns, lines * (1.0 + 0.5 * height), 160, "constrained", PACKAGE
    )
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


def curves(records: Sequence[RunRecord], metric: str) -> Figure:
    """Draw a metric against optimizer steps: the mean over the runs that finished, with a band.

    The band is the pointwise 95 % interval of the mean by Student's t. Under the equal budget the
    steps of a probe are counted, so that its curve starts after them.
    """
    figure = blank_figure(5.0, 3.6, layout="constrained", package=PACKAGE)
    axes = plain_axes(figure, "optimizer step", plain_text(metric, 40))
    runs = Runs(records)
    lines: list[Line2D] = []
    labels: list[str] = []
    for place, (scheme, budget) in enumerate(runs.groups()):
        of_scheme = runs.of(scheme, budget)
        finished = [run for run in of_scheme if run.status == FINISHED]
        values = _on_one_grid(finished, metric, charge_probe=budget == EQUAL)
        if values.empty:
            continue
        colour = PALETTE[place % len(PALETTE)]
        style = STYLES[place // len(PALETTE) % len(STYLES)]
        mean = values.mean(axis=1)
        lines += axes.plot(values.index, mean, color=colour, linestyle=style, linewidth=1.6)
        count = f" ({len(finished)} of {len(of_scheme)} runs)"
        labels.append(plain_text(_under(scheme, budget) + count, 44))
        half = values.sem(axis=1) * optional("scipy.stats").t.ppf(0.975, values.shape[1] - 1)
        axes.fill_between(
            values.index, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0
        )
    axes.set_title("Mean and 95 % band")
    if lines:
        # Of lines and labels: matplotlib hides labels of lines that begin with an underscore.
        figure.legend(lines, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure


def _on_one_grid(runs: Sequence[RunRecord], metric: str, charge_probe: bool) -> pd.DataFrame:
    """Interpolate the runs on the steps that all of them cover: probes differ in length."""
    pandas = optional("pandas")
    curves = {}
    for run in runs:
        shift = run.probe_steps if charge_probe else 0
        if known := {step + shift: value for step, value in run.curve_of(metric)}:
            curves[run.seed] = pandas.Series(known)
    frame = pandas.DataFrame(curves).sort_index()
    shared = frame.interpolate(method="index", limit_area="inside").dropna()
    return shared[:: max(1, len(shared) // MOST_POINTS_PER_CURVE)]


def _draw_row(axes: Axes, row: Any, finite: Sequence[float], position: int) -> None:
    colour = COLOURS.get(row.verdict, GREY)
    # Dots of equal height hide each other: spread them by the order of the seeds.
    heights = position - 0.3 + 0.3 * np.linspace(0, 1, len(finite))
    axes.plot(finite, heights, "o", color=colour, markersize=3, alpha=0.5, linewidth=0)
    below = position + 0.2
    if not math.isnan(row.lower):
        ends = [row.lower, row.upper]
        axes.plot(ends, [below, below], color=colour, linewidth=2.2, solid_capstyle="butt")
    if not math.isnan(row.mean_difference):
        axes.plot([row.mean_difference], [below], "D", color=colour, markersize=5)


def _row_name(row: Any) -> str:
    name = f"{_under(plain_text(row.first, 24), row.budget)}\n- {plain_text(row.second, 24)}"
    # Runs without a number have no mark: say how many there are.
    lost = f"\n{row.first_unfinished} and {row.second_unfinished} unfinished"
    return name + lost if row.first_unfinished or row.second_unfinished else name


def _under(scheme: str, budget: str) -> str:
    return scheme if budget == BOTH else f"{scheme}, {budget}"
