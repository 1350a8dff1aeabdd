"""The report of a comparison: sentences first, then tables; files of both and of the figures."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_init.compare import sentences
from lightning_init.compare.quantities import (
    BOTH,
    FINAL,
    MAX,
    MIN,
    Quantity,
    Runs,
    find_quantities,
    undecided_metrics,
)
from lightning_init.compare.records import EQUAL, RunRecord
from lightning_init.compare.summaries import cost_rows, summary_rows
from lightning_init.compare.tables import ComparisonRow, comparison_rows, scheme_pairs
from lightning_init.tables import markdown_table, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


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
        settings: What was asked for.
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

    settings: ReportSettings
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
        from lightning_init.compare import figures

        return figures.report_figures(self.records, self.rows)

    def write(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write report.md, cost.md, three CSV files and, with matplotlib, figures as PNG.

        Args:
            directory: Made if it is not there; files of the same names are replaced.

        Returns:
            The files, `report.md` first.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        drawn = self._write_figures(folder)
        links = [f"![{path.stem}]({path.name})" for path in drawn]
        texts = {
            "report.md": "\n\n".join([*self._blocks(), *links]) + "\n",
            "differences.csv": self.table.to_csv(index=False),
            "summary.csv": self.summary.to_csv(index=False),
            "cost.md": _cost_text(self.cost),
            "cost.csv": self.cost.to_csv(index=False),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return [*(folder / name for name in texts), *drawn]

    def _write_figures(self, folder: Path) -> list[Path]:
        if importlib.util.find_spec("matplotlib") is None:
            return []
        paths = []
        for name, figure in self.figures().items():
            path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.png"
            # Two metrics whose names differ in other characters only.
            while path in paths:
                path = path.with_stem(f"{path.stem}_")
            figure.savefig(path, metadata={"Software": None})
            paths.append(path)
        return paths

    def _blocks(self) -> Iterable[str]:
        yield "# Comparison of initializations"
        said = list(zip(self.rows, self.sentences, strict=True))
        for title in dict.fromkeys(row.quantity.title for row in self.rows):
            lines = [text for row, text in said if row.quantity.title == title]
            yield f"**{title}**\n\n" + "\n".join(f"- {text}" for text in lines)
        if not self.rows:
            yield "Nothing to compare."
        yield from self.notes
        for quantity in self.quantities:
            here = (quantity.metric, quantity.name)
            yield "## " + ", ".join(here)
            summaries = self.summary.to_dict("records")
            yield _summary_table([s for s in summaries if (s["metric"], s["quantity"]) == here])
            if rows := [row for row in self.rows if row.quantity == quantity]:
                yield _difference_table(rows)


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
        ImportError: scipy is not installed.
        ValueError: A metric or the reference cannot be used, or a run is there twice.
    """
    settings = settings or ReportSettings()
    runs = Runs(records)
    quantities = find_quantities(records, settings.metrics, settings.levels)
    pairs = scheme_pairs(runs.schemes, settings.reference)
    rows = comparison_rows(runs, quantities, pairs)
    unknown = undecided_metrics(records) if settings.metrics is None else []
    return ComparisonReport(
        settings=settings,
        records=tuple(records),
        quantities=tuple(quantities),
        rows=tuple(rows),
        table=_frame(row.columns() for row in rows),
        summary=_frame(summary_rows(runs, quantities)),
        cost=_frame(cost_rows(runs)),
        sentences=tuple(map(sentences.sentence, rows)),
        notes=tuple(sentences.notes(runs, rows, unknown)),
    )


def _summary_table(rows: Sequence[dict[str, Any]]) -> str:
    headers = ("scheme", "budget", "runs", "finished", "diverged", "failed")
    cells = []
    for row in rows:
        error = row["standard_error"]
        mean = number(row["mean"], 4) + ("" if math.isnan(error) else f" ± {number(error, 2)}")
        cells.append([*(str(row[name]) for name in headers), mean, number(row["median"], 4)])
    return markdown_table((*headers, "mean ± standard error", "median"), cells)


def _cost_text(cost: pd.DataFrame) -> str:
    text = (
        "Means over the runs. Steps are those of the optimizer; those of a probe come before "
        "the run's own. Under the equal budget the run is shorter by them."
    )
    cells = [
        [number(value, 4) if isinstance(value, float) else str(value) for value in row]
        for row in cost.itertuples(index=False)
    ]
    table = markdown_table([name.replace("_", " ") for name in cost.columns], cells)
    return f"# Cost\n\n{text}\n\n{table}\n"


def _difference_table(rows: Sequence[ComparisonRow]) -> str:
    headers = (
        *("first", "second", "budget", "pairs", "mean difference", "interval"),
        *("Wilcoxon p", "sign p", "seeds needed", "verdict"),
    )
    cells = []
    for row in rows:
        interval = row.statistics.interval
        ends = f"[{number(interval.lower)}, {number(interval.upper)}]"
        cells.append(
            [
                *(row.first, row.second, row.budget, str(row.statistics.pairs)),
                *(number(interval.mean), "-" if math.isnan(interval.lower) else ends),
                *(sentences.p_text(row.wilcoxon), sentences.p_text(row.sign)),
                *(sentences.seeds_text(row.statistics.seeds_needed), row.verdict),
            ]
        )
    return markdown_table(headers, cells)


def _frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    try:
        import pandas
    except ImportError:
        raise ImportError(
            "tables of a comparison need pandas; install it with "
            "`pip install lightning_init[compare]`."
        ) from None
    return pandas.DataFrame(list(rows))
