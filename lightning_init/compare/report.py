"""The report of a comparison: sentences first, then tables; files of both and of the figures."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_init.compare.figures import report_figures
from lightning_init.compare.quantities import BOTH, FINAL, MAX, MIN, Quantity, Runs, find_quantities
from lightning_init.compare.rank_tests import optional
from lightning_init.compare.records import EQUAL, STATUSES, RunRecord
from lightning_init.compare.sentences import notes, p_text, seeds_text, sentence
from lightning_init.compare.tables import (
    ComparisonRow,
    comparison_rows,
    cost_rows,
    scheme_pairs,
    summary_rows,
)
from lightning_init.tables import markdown_table, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COST = """# Cost

Means over the runs. Steps are those of the optimizer; those of a probe come before the run's own. \
Under the equal budget the run is shorter by them."""


@dataclass(frozen=True)
class ReportSettings:
    """What a report is about.

    Args:
        metrics: Metric names with `min` or `max`; None takes all that were logged.
        levels: Metric names with the level whose first reaching is compared.
        reference: The scheme that the others are compared with; None compares all pairs.

    Raises:
        ValueError: A direction is neither word.
    """

    metrics: Mapping[str, str] | None = None
    levels: Mapping[str, float] | None = None
    reference: str | None = None

    def __post_init__(self) -> None:
        for name, direction in (self.metrics or {}).items():
            if direction not in (MIN, MAX):
                raise ValueError(
                    f"`metrics` must give `min` or `max` for `{name}`, got {direction!r}."
                )


@dataclass(frozen=True)
class ComparisonReport:
    """What the runs of a comparison show.

    All but the cost is the same for the same records whatever their wall times.

    Args:
        records: The runs.
        quantities: What is compared of each run.
        rows: One comparison per quantity, pair of schemes and budget.
        table: The same as a pandas frame: paired differences, one line per row.
        summary: Every scheme by itself, a pandas frame.
        cost: Steps and wall times, a pandas frame.
        sentences: One per row, in the same order.
        notes: One per scheme with runs that did not finish, then what was left out and how the
            numbers were made.
    """

    records: tuple[RunRecord, ...]
    quantities: tuple[Quantity, ...]
    rows: tuple[ComparisonRow, ...]
    table: pd.DataFrame
    summary: pd.DataFrame
    cost: pd.DataFrame
    sentences: tuple[str, ...]
    notes: tuple[str, ...]

    def find(
        self, metric: str, first: str, second: str, quantity: str = FINAL, budget: str = EQUAL
    ) -> ComparisonRow:
        """Look up one comparison.

        Raises:
            ValueError: There is none of these names.
        """
        wanted = (metric, quantity, first, second)
        for row in self.rows:
            here = (row.quantity.metric, row.quantity.name, row.first, row.second)
            if here == wanted and row.budget in (budget, BOTH):
                return row
        raise ValueError(
            f"No comparison of {first!r} against {second!r} in {quantity} {metric} under budget "
            f"{budget!r}; see the lines of `table`."
        )

    def to_markdown(self) -> str:
        """Sentences, then summaries and differences as Markdown tables."""
        return "\n\n".join(self._blocks()) + "\n"

    def figures(self) -> dict[str, Figure]:
        """Draw curves and paired differences of every metric, by file name without suffix.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return report_figures(self.records, self.rows)

    def write(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write report.md, cost.md, three CSV files and, with matplotlib, figures as PNG.

        Args:
            directory: Made if it is not there; files of the same names are replaced.

        Returns:
            The files, `report.md` first.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        drawn: dict[Path, Figure] = {}
        there = importlib.util.find_spec("matplotlib") is not None
        for name, figure in self.figures().items() if there else ():
            path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.png"
            # Two metrics whose names differ in other characters only.
            while path in drawn:
                path = path.with_stem(f"{path.stem}_")
            drawn[path] = figure
            figure.savefig(path, metadata={"Software": None})
        links = [f"![{path.stem}]({path.name})" for path in drawn]
        costs = self.cost.rename(columns=lambda name: name.replace("_", " ")).to_dict("records")
        columns = {name: _plain(name) for name in costs[0]} if costs else {}
        texts = {
            "report.md": "\n\n".join([*self._blocks(), *links]) + "\n",
            "differences.csv": self.table.to_csv(index=False),
            "summary.csv": self.summary.to_csv(index=False),
            "cost.md": f"{COST}\n\n{_table(columns, costs)}\n",
            "cost.csv": self.cost.to_csv(index=False),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return [*(folder / name for name in texts), *drawn]

    def _blocks(self) -> Iterable[str]:
        yield "# Comparison of initializations"
        said = list(zip(self.rows, self.sentences, strict=True))
        for title in dict.fromkeys(row.quantity.title for row in self.rows):
            lines = [text for row, text in said if row.quantity.title == title]
            yield f"**{title}**\n\n" + "\n".join(f"- {text}" for text in lines)
        if not self.rows:
            yield "Nothing to compare."
        yield from self.notes
        summaries, differences = (x.to_dict("records") for x in (self.summary, self.table))
        for quantity in self.quantities:
            here = (quantity.metric, quantity.name)
            yield "## " + ", ".join(here)
            yield _table(SUMMARY, [s for s in summaries if (s["metric"], s["quantity"]) == here])
            if found := [d for d in differences if (d["metric"], d["quantity"]) == here]:
                yield _table(DIFFERENCES, found)


def summarize(
    records: Sequence[RunRecord], settings: ReportSettings | None = None
) -> ComparisonReport:
    """Compare the schemes of some runs, pair by pair.

    Args:
        records: Runs of two schemes or more, each scheme, seed and budget once.
        settings: What to compare; None is all metrics and all pairs.

    Returns:
        The report. The order of schemes is that of the records, the order of seeds is of no matter.

    Raises:
        ImportError: scipy or pandas is not installed.
        ValueError: A metric or the reference cannot be used, or a run is there twice.
    """
    settings = settings or ReportSettings()
    frame = optional("pandas").DataFrame
    runs = Runs(records)
    quantities, unknown = find_quantities(records, settings.metrics, settings.levels)
    rows = comparison_rows(runs, quantities, scheme_pairs(runs.schemes, settings.reference))
    return ComparisonReport(
        records=tuple(records),
        quantities=tuple(quantities),
        rows=tuple(rows),
        table=frame([row.columns() for row in rows]),
        summary=frame(summary_rows(runs, quantities)),
        cost=frame(cost_rows(runs)),
        sentences=tuple(map(sentence, rows)),
        notes=tuple(notes(runs, rows, unknown)),
    )


Row = dict[str, Any]


def _table(columns: Mapping[str, Callable[[Row], str]], rows: Sequence[Row]) -> str:
    cells = [[write(row) for write in columns.values()] for row in rows]
    return markdown_table(list(columns), cells)


def _plain(name: str, digits: int = 4) -> Callable[[Row], str]:
    def write(row: Row) -> str:
        value = row[name]
        return number(value, digits) if isinstance(value, float) else str(value)

    return write


def _mean(row: Row) -> str:
    error = row["standard_error"]
    return number(row["mean"], 4) + ("" if math.isnan(error) else f" ± {number(error, 2)}")


def _interval(row: Row) -> str:
    lower, upper = row["lower"], row["upper"]
    return "-" if math.isnan(lower) else f"[{number(lower)}, {number(upper)}]"


SUMMARY: dict[str, Callable[[Row], str]] = {
    **{name: _plain(name) for name in ("scheme", "budget", "runs", *STATUSES)},
    "mean ± standard error": _mean,
    "median": _plain("median"),
}
DIFFERENCES: dict[str, Callable[[Row], str]] = {
    **{name: _plain(name) for name in ("first", "second", "budget", "pairs")},
    "mean difference": _plain("mean_difference", digits=3),
    "interval": _interval,
    "Wilcoxon p": lambda row: p_text(row["wilcoxon_p_holm"]),
    "sign p": lambda row: p_text(row["sign_p_holm"]),
    "seeds needed": lambda row: seeds_text(row["seeds_needed"]),
    "verdict": _plain("verdict"),
}
