"""A forest plot: one comparison over the cells of a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from lightning_init.compare import ComparisonReport

BLUE = "#0072B2"


def forest(reports: Mapping[str, ComparisonReport], metric: str, first: str, second: str) -> Figure:
    """Draw the final value's mean paired difference and interval, one line per cell.

    Args:
        reports: A report per cell, by its name, from top to bottom.
        metric: As logged; in the same units in all cells.
        first: The scheme that the verdicts are about; its probe is charged.
        second: The scheme that it is compared with.

    Raises:
        ValueError: A cell has no such comparison.
    """
    rows = {name: find(report, metric, first, second) for name, report in reports.items()}
    figure = Figure(figsize=(5.0, 1.2 + 0.5 * max(2, len(rows))), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.axvline(0.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [label(*item) for item in rows.items()], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for height, row in enumerate(rows.values()):
        axes.plot([row.lower, row.upper], [height, height], color=BLUE, linewidth=2.2)
        axes.plot([row.mean_difference], [height], "D", color=BLUE, markersize=6)
    better = next(iter(rows.values())).better_is
    axes.set_xlabel(f"difference in final {metric} ({better} is better)")
    charged = any(row.budget == "equal" for row in rows.values())
    axes.set_title(f"{first} - {second}{', equal budget' if charged else ''}")
    return figure


def find(report: ComparisonReport, metric: str, first: str, second: str) -> Any:
    """The line of the final value, under the equal budget where there are two."""
    for row in report.table.itertuples():
        here = (row.metric, row.quantity, row.first, row.second)
        if here == (metric, "final", first, second) and row.budget != "full":
            return row
    raise ValueError(f"No comparison of {first!r} against {second!r} in final {metric}.")


def label(name: str, row: Any) -> str:
    """A cell's name, the verdict, and how many runs have no number."""
    said = f"{name}\n{row.verdict}, {row.pairs} seeds"
    lost = f"\n{row.first_unfinished} and {row.second_unfinished} unfinished"
    return said + lost if row.first_unfinished or row.second_unfinished else said
