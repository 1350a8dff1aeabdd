"""Figures of a comparison: curves with bands, and paired differences.

Drawn without pyplot, in the palette and the size of the package's other figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_init.compare.quantities import BOTH, FINAL, Runs
from lightning_init.compare.rank_tests import optional
from lightning_init.compare.records import EQUAL, FINISHED, FULL, RunRecord
from lightning_init.compare.tables import ComparisonRow
from lightning_init.figure_style import (
    MOST_POINTS_PER_CURVE,
    PALETTE,
    blank_figure,
    plain_axes,
    plain_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


STYLES = ("-", "--", ":", "-.")


def report_figures(
    records: Sequence[RunRecord], rows: Sequence[ComparisonRow]
) -> dict[str, Figure]:
    """Draw the curves and the differences of every metric and budget, by name."""
    drawn = {}
    budgets = list(dict.fromkeys(row.budget for row in rows if row.budget != BOTH)) or [BOTH]
    for metric, budget in product(dict.fromkeys(row.quantity.metric for row in rows), budgets):
        name = metric if budget == BOTH else f"{metric}_{budget}"
        if any(run.curve_of(metric) for run in records):
            drawn[f"curves_{name}"] = curves(records, metric, budget)
        here = [row for row in rows if row.budget in (budget, BOTH)]
        finals = [r for r in here if (r.quantity.metric, r.quantity.name) == (metric, FINAL)]
        if finals:
            drawn[f"differences_{name}"] = paired_differences(finals, budget)
    return drawn


def curves(records: Sequence[RunRecord], metric: str, budget: str = EQUAL) -> Figure:
    """Draw a metric against optimizer steps: the mean over the runs that finished, with a band.

    The band is the pointwise 95 % interval of the mean by Student's t. Under the equal budget the
    steps of a probe are counted, so that its curve starts after them.
    """
    figure, axes = _blank("optimizer step", plain_text(metric, 40))
    runs = Runs(records)
    lines: list[Line2D] = []
    labels: list[str] = []
    for place, scheme in enumerate(runs.schemes):
        of_scheme = runs.of(scheme, budget)
        finished = [run for run in of_scheme if run.status == FINISHED]
        steps, values = _on_one_grid(finished, metric, charge_probe=budget != FULL)
        if not steps.size:
            continue
        colour = PALETTE[place % len(PALETTE)]
        style = STYLES[place // len(PALETTE) % len(STYLES)]
        mean = values.mean(axis=0)
        lines += axes.plot(steps, mean, color=colour, linestyle=style, linewidth=1.6)
        labels.append(plain_text(f"{scheme} ({len(finished)} of {len(of_scheme)} runs)", 44))
        if len(values) > 1:
            quantile = float(optional("scipy.stats").t.ppf(0.975, len(values) - 1))
            half = quantile * values.std(axis=0, ddof=1) / math.sqrt(len(values))
            axes.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
    axes.set_title(f"Mean and 95 % band{_budget_text(budget)}")
    if lines:
        # Of lines and labels: matplotlib hides labels of lines that begin with an underscore.
        figure.legend(lines, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=7)
    return figure


def paired_differences(rows: Sequence[ComparisonRow], budget: str = EQUAL) -> Figure:
    """Draw the differences of every seed as dots, with the mean and its interval below them.

    The rows are of one quantity; the budget is for the title.
    """
    quantity = rows[0].quantity
    figure, axes = _blank("", "", height=1.2 + 0.5 * max(2, len(rows)))
    axes.axvline(0.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [_row_name(row) for row in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for place, row in enumerate(rows):
        colour = PALETTE[place % len(PALETTE)]
        finite = row.paired.of_finished()
        # Dots of equal height hide each other: spread them by the order of the seeds.
        heights = place - 0.3 + 0.3 * np.linspace(0, 1, len(finite))
        axes.plot(finite, heights, "o", color=colour, markersize=3.5, alpha=0.6, linewidth=0)
        _draw_interval(axes, row, place + 0.2, colour)
    better = "lower" if quantity.lower_is_better else "higher"
    axes.set_xlabel(f"difference in {plain_text(quantity.title, 40)} ({better} is better)")
    axes.set_title(f"Paired differences{_budget_text(budget)}")
    return figure


def _on_one_grid(
    runs: Sequence[RunRecord], metric: str, charge_probe: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interpolate the runs on the steps that all of them cover: probes differ in length."""
    curves = []
    for run in runs:
        if known := run.curve_of(metric):
            steps, values = np.array(known, dtype=np.float64).T
            curves.append((steps + (run.probe_steps if charge_probe else 0), values))
    if not curves:
        return np.empty(0), np.empty((0, 0))
    start, end = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    grid = np.unique(np.concatenate([steps for steps, _ in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    grid = grid[:: max(1, len(grid) // MOST_POINTS_PER_CURVE)]
    return grid, np.array([np.interp(grid, steps, values) for steps, values in curves])


def _draw_interval(axes: Axes, row: ComparisonRow, height: float, colour: str) -> None:
    interval = row.statistics.interval
    if not math.isnan(interval.lower):
        ends = [interval.lower, interval.upper]
        axes.plot(ends, [height, height], color=colour, linewidth=2.2, solid_capstyle="butt")
    if not math.isnan(interval.mean):
        axes.plot([interval.mean], [height], "D", color=colour, markersize=6)


def _row_name(row: ComparisonRow) -> str:
    name = f"{plain_text(row.first, 24)}\n- {plain_text(row.second, 24)}"
    # Runs without a number have no mark: say how many there are.
    lost = f"\n{row.unfinished[0]} and {row.unfinished[1]} unfinished"
    return name + lost if any(row.unfinished) else name


def _blank(x: str, y: str, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = blank_figure(5.0, height, layout="constrained", package="lightning_init[compare]")
    return figure, plain_axes(figure, x, y)


def _budget_text(budget: str) -> str:
    return "" if budget == BOTH else f", {budget} budget"
