"""The report of a comparison: verdicts and one figure first, then sentences and tables."""

from __future__ import annotations

import html
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_init.compare.figures import differences
from lightning_init.compare.quantities import Quantity, Runs, find_quantities
from lightning_init.compare.records import RunRecord
from lightning_init.compare.sentences import notes, sentence
from lightning_init.compare.tables import (
    comparison_table,
    cost_table,
    scheme_pairs,
    summary_table,
    verdict_table,
)
from lightning_init.tables import markdown_table, number

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COST = """# Cost

Means over the runs. Steps are those of the optimizer; those of a probe come before the run's own. \
Under the equal budget the run is shorter by them."""
DIFFERENCES = [
    *("metric", "quantity", "first", "second", "budget", "pairs", "mean_difference", "lower"),
    *("upper", "wilcoxon_p_holm", "sign_p_holm", "seeds_needed", "verdict"),
]


@dataclass(frozen=True)
class ComparisonReport:
    """What the runs of a comparison show; in a notebook, its verdicts and sentences.

    All but the cost is the same for the same records whatever their wall times.

    Args:
        records: The runs.
        quantities: What is compared of each run.
        table: Paired differences, a pandas frame: one line per quantity, pair of schemes and
            budget. Differences are the first scheme's value minus the second's; the verdict is on
            the first.
        summary: Every scheme by itself, a pandas frame.
        cost: Steps and wall times, a pandas frame.
        sentences: One per line of the table, in the same order.
        notes: One per scheme with runs that did not finish, then what was left out and how the
            numbers were made.
    """

    records: tuple[RunRecord, ...]
    quantities: tuple[Quantity, ...]
    table: pd.DataFrame
    summary: pd.DataFrame
    cost: pd.DataFrame
    sentences: tuple[str, ...]
    notes: tuple[str, ...]

    def to_markdown(self) -> str:
        """Verdicts, sentences, then summaries and differences as Markdown tables."""
        return "\n\n".join([*self._start(), *self._rest()]) + "\n"

    def _repr_html_(self) -> str:
        said = "".join(f"<li>{html.escape(text)}</li>" for text in self.sentences)
        shown = "" if self.table.empty else verdict_table(self.table).to_html(index=False, border=0)
        return f"{shown}<ul>{said}</ul>"

    def to_pandas(self) -> pd.DataFrame:
        """Return `table`, one line per quantity, pair of schemes and budget."""
        return self.table.copy()

    def plot(self) -> Figure:
        """Draw the paired differences of the final values, coloured by their verdicts.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: There is no pair of schemes.
        """
        if self.table.empty:
            raise ValueError("There is nothing to plot: a comparison takes two schemes or more.")
        return differences(self.records, self.quantities, self.table)

    def write(self, directory: str | os.PathLike[str]) -> list[Path]:
        """Write report.md, cost.md, three CSV files and, with matplotlib, differences.png.

        Args:
            directory: Made if it is not there; files of the same names are replaced.

        Returns:
            The files, `report.md` first.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        picture = folder / "differences.png"
        drawn = not self.table.empty and importlib.util.find_spec("matplotlib") is not None
        if drawn:
            self.plot().savefig(picture, metadata={"Software": None})
        page = [
            *self._start(),
            *(["![differences](differences.png)"] if drawn else []),
            *self._rest(),
        ]
        texts = {
            "report.md": "\n\n".join(page) + "\n",
            "differences.csv": self.table.to_csv(index=False),
            "summary.csv": self.summary.to_csv(index=False),
            "cost.md": f"{COST}\n\n{_markdown(self.cost)}\n",
            "cost.csv": self.cost.to_csv(index=False),
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return [*(folder / name for name in texts), *([picture] if drawn else [])]

    def _start(self) -> Iterator[str]:
        yield "# Comparison of initializations"
        yield "Nothing to compare." if self.table.empty else _markdown(verdict_table(self.table))

    def _rest(self) -> Iterator[str]:
        by_quantity: dict[str, list[str]] = {}
        rows = self.table.itertuples(index=False)
        for row, text in zip(rows, self.sentences, strict=True):
            by_quantity.setdefault(f"**{row.quantity} {row.metric}**\n", []).append(f"- {text}")
        for title, lines in by_quantity.items():
            yield "\n".join([title, *lines])
        yield from self.notes
        yield "## Schemes"
        yield _markdown(self.summary)
        if not self.table.empty:
            yield "## Differences"
            yield _markdown(self.table[DIFFERENCES])


def summarize(
    records: Sequence[RunRecord],
    metrics: Mapping[str, str] | None = None,
    reference: str | None = None,
) -> ComparisonReport:
    """Compare the schemes of some runs, pair by pair.

    Args:
        records: Runs of two schemes or more, each scheme, seed and budget once.
        metrics: Metric names with `min` or `max`; None takes all that were logged.
        reference: The scheme that the others are compared with; None compares all pairs.

    Returns:
        The report. The order of schemes is that of the records, the order of seeds is of no matter.

    Raises:
        ImportError: scipy or pandas is not installed.
        ValueError: A metric or the reference cannot be used, or a run is there twice.
    """
    runs = Runs(records)
    quantities, unknown = find_quantities(records, metrics)
    table = comparison_table(runs, quantities, scheme_pairs(runs.schemes, reference))
    rows = list(table.itertuples(index=False))
    return ComparisonReport(
        records=tuple(records),
        quantities=tuple(quantities),
        table=table,
        summary=summary_table(runs, quantities),
        cost=cost_table(runs),
        sentences=tuple(map(sentence, rows)),
        notes=tuple(notes(runs, rows, unknown)),
    )


def _markdown(frame: pd.DataFrame) -> str:
    cells = [
        [number(cell, 4) if isinstance(cell, float) else str(cell) for cell in line]
        for line in frame.itertuples(index=False)
    ]
    return markdown_table(list(frame), cells)
