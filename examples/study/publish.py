"""From the kept runs of the study to the page of tables and the plots of the documentation.

    python examples/study/publish.py --results results --page docs/study_tables.md

Reads `RESULTS/<protocol>/<cell>/runs` of every protocol that was run, and writes one table per
protocol and metric, with the command that makes its rows, and a forest plot per question. A
protocol without runs keeps the section that stands in the page.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from study_cells import PROTOCOLS, Cell, cells, read_protocol
from study_curves import paired_curves, steps_table
from study_forest import forest
from study_tables import scan_table, table_row, trainable_table

from lightning_init.compare import ComparisonReport, RunRecord, summarize

# What is asked of each protocol: first scheme against second, and a word for the file.
QUESTIONS = {
    "a": [("optimal", "he")],
    "c": [("fractional:order=1.0", "he"), ("fractional:order=0.8", "he")],
    "d": [("optimal", "he")],
    "e": [("optimal", "he")],
}
NEW = "f"  # protocols from this letter on have curves of their runs
# A second reference, where schemes are also to be compared with another one.
ALSO_AGAINST = dict.fromkeys("fghim", "pilot:seed=1000")
PLOTTED = ("train_loss", "test_loss", "test_accuracy")


@dataclass(frozen=True)
class CellResult:
    """One cell that was run."""

    cell: Cell
    records: tuple[RunRecord, ...]
    report: ComparisonReport


def read_runs(directory: Path) -> list[RunRecord]:
    """Every record that a comparison kept, its probe's length taken out of the label."""
    found = []
    for file in sorted((directory / "runs").glob("[!.]*.jsonl")):
        for line in file.read_text().splitlines():
            record = RunRecord.from_json(line)
            found.append(replace(record, scheme=without_length(record.scheme)))
    return found


def without_length(scheme: str) -> str:
    """A scheme's name, without the length of its probe where that is all that is told.

    >>> without_length("optimal:max_probe_steps=40"), without_length("optimal:draw=scale")
    ('optimal', 'optimal:draw=scale')
    """
    name, _, options = scheme.partition(":max_probe_steps=")
    return name if options.isdigit() else scheme


def read_cell(cell: Cell, protocol: Mapping[str, Any], directory: Path) -> CellResult | None:
    order = [without_length(init) for init in cell.inits]
    records = sorted(read_runs(directory), key=lambda r: (order.index(r.scheme), r.seed, r.budget))
    if len({record.scheme for record in records}) < 2:
        return None
    report = summarize(records, protocol["metrics"], cell.reference)
    return CellResult(cell, tuple(records), report)


def metric_table(results: Sequence[CellResult], metric: str) -> list[str]:
    """One row per cell, scheme and budget: the paired difference to the reference."""
    heads = ["cell", "reference, mean", "scheme", "budget", "pairs", "difference", "verdict"]
    lines = [table_row(heads), "|" + " --- |" * len(heads)]
    for result in results:
        summaries = {
            (row["scheme"], row["budget"]): row
            for row in result.report.summary.to_dict("records")
            if (row["metric"], row["quantity"]) == (metric, "final")
        }
        for row in result.report.table.itertuples():
            if (row.metric, row.quantity) != (metric, "final"):
                continue
            reference = next(s for (name, _), s in summaries.items() if name == row.second)
            shown = (
                f"{row.mean_difference:+.4f} [{row.lower:+.4f}, {row.upper:+.4f}]"
                if math.isfinite(row.lower)
                else "-"
            )
            lost = row.first_unfinished + row.second_unfinished
            lines.append(
                table_row(
                    [
                        result.cell.name,
                        f"{row.second}, {reference['mean']:.4f}",
                        row.first,
                        row.budget,
                        f"{row.pairs}{f' ({lost} unfinished)' if lost else ''}",
                        shown,
                        row.verdict,
                    ]
                )
            )
    return lines


def against(result: CellResult, reference: str, metrics: Mapping[str, str]) -> CellResult:
    """The same runs compared with another scheme."""
    return replace(result, report=summarize(result.records, metrics, reference))


def protocol_page(name: str, size: str, results: Sequence[CellResult], images: list[str]) -> str:
    protocol = read_protocol(name)
    seeds = sorted({len({r.seed for r in result.records}) for result in results})
    seconds = sum(record.seconds for result in results for record in result.records)
    blocks = [
        f"## {name}. {protocol['title']}",
        f"The claim: {protocol['claim'].strip()}",
        f"{sum(len(result.records) for result in results)} runs, {'-'.join(map(str, seeds))} seeds"
        f" per scheme, {seconds / 60:.0f} minutes of single-thread wall time; size `{size}`.",
        f"```console\n{protocol['command']}\n```",
    ]
    for metric in protocol["metrics"]:
        better = {"min": "lower", "max": "higher"}[protocol["metrics"][metric]]
        blocks.append(f"### {name}: final {metric} ({better} is better)")
        blocks.append("\n".join(metric_table(results, metric)))
    if (other := ALSO_AGAINST.get(name)) is not None:
        again = [
            against(result, other, protocol["metrics"])
            for result in results
            if other in result.cell.inits
        ]
        for metric in ("train_loss", "test_loss"):
            blocks.append(f"### {name}: final {metric} against {other}")
            blocks.append("\n".join(metric_table(again, metric)))
    if name >= NEW:
        cells = {r.cell.name: (r.records, r.cell.reference) for r in results}
        if rows := steps_table(cells):
            blocks += [f"### {name}: steps until a training loss is reached", "\n".join(rows)]
    blocks += [f"![{Path(image).stem}]({image})" for image in images]
    records = {result.cell.name: result.records for result in results}
    if "scan" in protocol:
        blocks.append(scan_table(records).replace("## ", "### b: "))
    if "trained_accuracy" in protocol:
        blocks.append(f"### {name}: share of runs that fail to train")
        blocks.append(trainable_table(records, protocol["trained_accuracy"]))
    return "\n\n".join(blocks)


def draw(name: str, results: Sequence[CellResult], directory: Path) -> list[str]:
    """Forest plots of the protocol's questions, or each cell's pairs; as the page names them."""
    drawn = []
    if name not in QUESTIONS:
        for result in results:
            file = directory / f"study_{name}_{result.cell.name}.png"
            result.report.plot().savefig(file, metadata={"Software": None})
            drawn.append(f"{directory.name}/{file.name}")
    for result in results if name >= NEW else ():
        title = f"{name}: {result.cell.name}"
        if curves := paired_curves(result.records, result.cell.reference, title):
            file = directory / f"study_{name}_{result.cell.name}_curves.png"
            curves.savefig(file, metadata={"Software": None})
            drawn.append(f"{directory.name}/{file.name}")
    for first, second in QUESTIONS.get(name, ()):
        asked = {
            result.cell.name: result.report
            for result in results
            if {first, second} <= {record.scheme for record in result.records}
            and second == result.cell.reference
        }
        for metric in PLOTTED if asked else ():
            word = first.partition(":")[0] + first.partition("=")[2].replace(".", "")
            file = directory / f"study_{name}_{word}_{metric}.png"
            forest(asked, metric, first, second).savefig(file, metadata={"Software": None})
            drawn.append(f"{directory.name}/{file.name}")
    return drawn


def sections(page: Path) -> dict[str, str]:
    """The sections that a page has, by the letter of their protocol."""
    texts = re.split(r"^(?=## \w\. )", page.read_text() if page.exists() else "", flags=re.M)[1:]
    return {text[3]: text.rstrip() for text in texts}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--size", choices=["published", "full"], default="published")
    parser.add_argument("--page", type=Path, default=Path("docs/study_tables.md"))
    options = parser.parse_args(argv)
    images = options.page.parent / "images"
    images.mkdir(parents=True, exist_ok=True)
    blocks = ["# The study: all tables", INTRODUCTION]
    standing = sections(options.page)
    for name in sorted(path.stem for path in PROTOCOLS.glob("*.yaml")):
        protocol = read_protocol(name)
        found = [
            result
            for cell in cells(protocol, options.size)
            if (result := read_cell(cell, protocol, options.results / name / cell.name))
        ]
        if found:
            drawn = draw(name, found, images)
            blocks.append(protocol_page(name, options.size, found, drawn))
        elif name in standing:
            blocks.append(standing[name])
    options.page.write_text("\n\n".join(blocks).rstrip() + "\n")


INTRODUCTION = """Made by `python examples/study/publish.py` from the runs that the commands below
left; what they mean is on [the study's page](study.md). A difference is the scheme's value minus
the reference's, mean over paired seeds, with a 95 % interval (studentized bootstrap). `better` and
`worse` need an interval without zero and a Wilcoxon p below 5 % after Holm's correction within the
cell; `may be` means that only the interval says so. Budget `equal`: the steps of the probe are
charged; `full`: they are not; `both`: the scheme has no probe."""


if __name__ == "__main__":
    main()
