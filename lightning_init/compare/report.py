"""The report of a comparison: sentences first, then tables; files of both and of the figures."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_init.compare import sentences
from lightning_init.compare.quantities import (
    BOTH,
    FINAL,
    Runs,
    check_directions,
    find_quantities,
    undecided_metrics,
)
from lightning_init.compare.records import EQUAL, RunRecord
from lightning_init.compare.summaries import CostRow, SummaryRow, cost_rows, summary_rows
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
        confidence: Of the intervals; one minus it is the level of the tests.
        equal_budget: Show the runs that pay for their probe before those that do not.

    Raises:
        ValueError: `confidence` is not between 0 and 1, or a direction is neither word.
    """

    metrics: Mapping[str, str] | None = None
    levels: Mapping[str, float] | None = None
    reference: str | None = None
    confidence: float = 0.95
    equal_budget: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"`confidence` must be between 0 and 1, got {self.confidence}.")
        check_directions(self.metrics or {})


@dataclass(frozen=True)
class ComparisonReport:
    """What the runs of a comparison show.

    All but the cost is the same for the same records whatever their wall times.

    Args:
        settings: What was asked for.
        records: The runs.
        rows: One comparison per metric, quantity, pair of schemes and budget.
        summaries: One per metric, quantity, scheme and budget.
        costs: One per scheme and budget.
        sentences: One per row, in the same order.
        notes: One per scheme with runs that did not finish, then what was left out and how the
            numbers were made.
    """

    settings: ReportSettings
    records: tuple[RunRecord, ...]
    rows: tuple[ComparisonRow, ...]
    summaries: tuple[SummaryRow, ...]
    costs: tuple[CostRow, ...]
    sentences: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def table(self) -> pd.DataFrame:
        """Paired differences, one line per row."""
        return _frame([row.columns() for row in self.rows])

    @property
    def summary(self) -> pd.DataFrame:
        """Every scheme by itself."""
        return _frame([asdict(row) for row in self.summaries])

    @property
    def cost(self) -> pd.DataFrame:
        """Steps and wall times."""
        return _frame([asdict(row) for row in self.costs])

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

    def cost_markdown(self) -> str:
        """Steps and wall times as a Markdown table."""
        columns = list(CostRow.__dataclass_fields__)
        rows = [[_cell(value) for value in asdict(row).values()] for row in self.costs]
        text = (
            "Means over the runs. Steps are those of the optimizer; those of a probe come before "
            "the run's own. Under the equal budget the run is shorter by them."
        )
        return f"# Cost\n\n{text}\n\n{_table(columns, rows)}\n"

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
            "cost.md": self.cost_markdown(),
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
        titles = dict.fromkeys((row.metric, row.quantity) for row in self.summaries)
        for metric, quantity in titles:
            yield f"## {metric}, {quantity}"
            yield _summary_table(
                [row for row in self.summaries if (row.metric, row.quantity) == (metric, quantity)]
            )
            rows = [
                row
                for row in self.rows
                if (row.quantity.metric, row.quantity.name) == (metric, quantity)
            ]
            if rows:
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
    first = settings.equal_budget
    rows = comparison_rows(runs, quantities, pairs, settings.confidence, first)
    notes = sentences.unfinished_sentences(runs)
    unknown = undecided_metrics(records) if settings.metrics is None else []
    if unknown:
        notes.append(sentences.undecided_sentence(unknown))
    if rows:
        notes.append(sentences.method_text(rows, settings.confidence))
    return ComparisonReport(
        settings=settings,
        records=tuple(records),
        rows=tuple(rows),
        summaries=tuple(summary_rows(runs, quantities, first)),
        costs=tuple(cost_rows(runs)),
        sentences=tuple(sentences.sentence(row) for row in rows),
        notes=tuple(notes),
    )


def _summary_table(rows: Sequence[SummaryRow]) -> str:
    headers = ("scheme", "budget", "runs", "finished", "diverged", "failed")
    cells = []
    for row in rows:
        counts = (row.runs, row.finished, row.diverged, row.failed)
        error = "" if math.isnan(row.standard_error) else f" ± {number(row.standard_error, 2)}"
        mean = f"{number(row.mean, 4)}{error}"
        cells.append([row.scheme, row.budget, *map(str, counts), mean, number(row.median, 4)])
    return _table((*headers, "mean ± standard error", "median"), cells)


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
    return _table(headers, cells)


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table([header.replace("_", " ") for header in headers], rows)


def _cell(value: object) -> str:
    return number(value, 4) if isinstance(value, float) else str(value)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    try:
        import pandas
    except ImportError:
        raise ImportError(
            "tables of a comparison need pandas; install it with "
            "`pip install lightning_init[compare]`."
        ) from None
    return pandas.DataFrame(rows)
