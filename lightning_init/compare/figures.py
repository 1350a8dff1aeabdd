"""Figures of a comparison: curves with bands, and paired differences.

Drawn without pyplot, in the palette and the size of the package's other figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_init.compare.quantities import BOTH, FINAL, Runs
from lightning_init.compare.rank_tests import scipy_stats
from lightning_init.compare.records import EQUAL, FINISHED, FULL, RunRecord
from lightning_init.compare.tables import ComparisonRow
from lightning_init.reporting.figure_style import (
    MOST_POINTS_PER_CURVE,
    PALETTE,
    blank_figure,
    plain_axes,
    plain_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


STYLES = ("-", "--", ":", "-.")


def report_figures(
    records: Sequence[RunRecord], rows: Sequence[ComparisonRow]
) -> dict[str, Figure]:
    """Draw the curves and the differences of every metric and budget of a report.

    Args:
        records: The report's runs.
        rows: Its comparisons.

    Returns:
        Figures by name, `curves_val_loss`, `differences_val_loss_equal`, ...

    Raises:
        ImportError: matplotlib is not installed.
    """
    drawn = {}
    budgets = list(dict.fromkeys(row.budget for row in rows if row.budget != BOTH))
    for metric in dict.fromkeys(row.quantity.metric for row in rows):
        for budget in budgets or [BOTH]:
            suffix = "" if budget == BOTH else f"_{budget}"
            if any(metric in logged for run in records for _, logged in run.curve):
                drawn[f"curves_{metric}{suffix}"] = curves(records, metric, budget)
            finals = [row for row in rows if _is_final(row, metric, budget)]
            if finals:
                drawn[f"differences_{metric}{suffix}"] = paired_differences(finals, budget)
    return drawn


def curves(records: Sequence[RunRecord], metric: str, budget: str = EQUAL) -> Figure:
    """Draw a metric against optimizer steps: the mean over the runs that finished, with a band.

    The band is the pointwise 95 % interval of the mean by Student's t. Under the equal budget the
    steps of a probe are counted, so that its curve starts after them.

    Args:
        records: Of all schemes.
        metric: A name in their curves.
        budget: `equal`, `full`, or `both` if no scheme has a probe.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _blank("optimizer step", plain_text(metric, 40))
    runs = Runs(records)
    for place, scheme in enumerate(runs.schemes):
        of_scheme = runs.of(scheme, budget)
        finished = [run for run in of_scheme if run.status == FINISHED]
        steps, values = _on_one_grid(finished, metric, charge_probe=budget != FULL)
        if not steps.size:
            continue
        colour, style = _look(place)
        label = f"{scheme} ({len(finished)} of {len(of_scheme)} runs)"
        mean = values.mean(axis=0)
        (line,) = axes.plot(steps, mean, color=colour, linestyle=style, linewidth=1.6)
        line.set_gid(label)
        if len(values) > 1:
            quantile = float(scipy_stats().t.ppf(0.975, len(values) - 1))
            half = quantile * values.std(axis=0, ddof=1) / math.sqrt(len(values))
            axes.fill_between(steps, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
    axes.set_title(f"Mean and 95 % band{_budget_text(budget)}")
    _legend_below(figure, axes)
    return figure


def paired_differences(rows: Sequence[ComparisonRow], budget: str = EQUAL) -> Figure:
    """Draw the differences of every seed as dots, with the mean and its interval below them.

    Args:
        rows: Comparisons of one quantity under one budget, at least one.
        budget: For the title.

    Raises:
        ImportError: matplotlib is not installed.
    """
    quantity = rows[0].quantity
    figure, axes = _rows_figure(
        [
            f"{plain_text(row.first, 24)}\n- {plain_text(row.second, 24)}{_unfinished(row)}"
            for row in rows
        ]
    )
    for place, row in enumerate(rows):
        colour, _ = _look(place)
        finite = row.paired.of_finished()
        # Dots of equal height hide each other: spread them by the order of the seeds.
        heights = place - 0.3 + 0.3 * np.linspace(0, 1, len(finite))
        axes.plot(finite, heights, "o", color=colour, markersize=3.5, alpha=0.6, linewidth=0)
        _draw_interval(axes, row, place + 0.2, colour)
    better = "lower" if quantity.lower_is_better else "higher"
    axes.set_xlabel(f"difference in {plain_text(quantity.title, 40)} ({better} is better)")
    axes.set_title(f"Paired differences{_budget_text(budget)}")
    return figure


def _is_final(row: ComparisonRow, metric: str, budget: str) -> bool:
    here = row.quantity.metric == metric and row.quantity.name == FINAL
    return here and row.budget in (budget, BOTH)


def _on_one_grid(
    runs: Sequence[RunRecord], metric: str, charge_probe: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interpolate the runs on the steps that all of them cover: probes differ in length."""
    curves = []
    for run in runs:
        known = [(step, logged[metric]) for step, logged in run.curve if metric in logged]
        if known:
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


def _unfinished(row: ComparisonRow) -> str:
    """Runs without a number have no mark: say on the axis how many there are."""
    return (
        f"\n{row.unfinished[0]} and {row.unfinished[1]} unfinished" if any(row.unfinished) else ""
    )


def _blank(x: str, y: str, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = blank_figure(5.0, height, layout="constrained", package="lightning_init[compare]")
    return figure, plain_axes(figure, x, y)


def _rows_figure(names: Sequence[str]) -> tuple[Figure, Axes]:
    figure, axes = _blank("", "", height=1.2 + 0.5 * max(2, len(names)))
    axes.axvline(0.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    return figure, axes


def _legend_below(figure: Figure, axes: Axes) -> None:
    # Not by labels: matplotlib hides those that begin with an underscore, as a scheme's name may.
    lines = [line for line in axes.lines if line.get_gid() is not None]
    if lines:
        labels = [plain_text(str(line.get_gid()), 44) for line in lines]
        figure.legend(lines, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=7)


def _look(place: int) -> tuple[str, str]:
    return PALETTE[place % len(PALETTE)], STYLES[place // len(PALETTE) % len(STYLES)]


def _budget_text(budget: str) -> str:
    return "" if budget == BOTH else f", {budget} budget"
