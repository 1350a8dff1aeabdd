"""The page of the study's tables is made of the kept runs, all of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))
import publish
import study_spread
from study_cells import Cell, cells, read_protocol
from study_forest import find, forest

from lightning_init.compare import RunRecord, summarize

SEEDS = 6


def write_runs(directory: Path, cell: Cell, worse: float) -> None:
    """Made-up runs: `optimal` ends a little above the others; one `xavier` run diverges."""
    (directory / "runs").mkdir(parents=True)
    for place, init in enumerate(cell.inits):
        for seed in range(SEEDS):
            loss = 0.5 + 0.01 * seed + (worse if init.startswith("optimal") else 0.001 * place)
            lost = init == "xavier" and seed == 0
            budgets = ("full", "equal") if init.startswith("optimal") else ("full",)
            records = [
                RunRecord(
                    scheme=init,
                    seed=seed,
                    budget=budget,
                    status="diverged" if lost else "finished",
                    reason="the loss was not finite" if lost else "",
                    steps=100,
                    probe_steps=50 if init.startswith("optimal") else 0,
                    seconds=1.0,
                    probe_seconds=0.0,
                    curve=(),
                    final={"train_loss": loss, "test_loss": loss, "test_accuracy": 1 - loss},
                )
                for budget in budgets
            ]
            text = "".join(record.to_json() + "\n" for record in records)
            (directory / "runs" / f"{place}-seed{seed}.jsonl").write_text(text)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for cell in cells(read_protocol("e"), "published")[:2]:
        write_runs(tmp_path / "results" / "e" / cell.name, cell, worse=0.02)
    return tmp_path


def test_every_scheme_of_every_cell_has_its_row(results: Path) -> None:
    page = results / "docs" / "tables.md"
    publish.main(["--results", str(results / "results"), "--page", str(page)])
    text = page.read_text()
    assert "python examples/study/run.py --protocol e --size published" in text
    assert "## a." not in text  # nothing was run
    first, second = cells(read_protocol("e"), "published")[:2]
    for cell in (first, second):
        for metric in ("train_loss", "test_loss", "test_accuracy"):
            section = text.partition(f"### e: final {metric}")[2].partition("### ")[0]
            rows = [line for line in section.splitlines() if line.startswith(f"| {cell.name} ")]
            schemes = {init.partition(":max_probe_steps")[0] for init in cell.inits}
            # All but the reference, and the charged and the uncharged run of the probe.
            assert len(rows) == len(schemes)
            optimal = [row for row in rows if "| optimal |" in row]
            assert len(optimal) == 2
            assert all("0.0200 [" in row for row in optimal)
            (xavier,) = [row for row in rows if "| xavier |" in row]
            assert f"| {SEEDS} (1 unfinished) |" in xavier


def test_plots_are_beside_the_page(results: Path) -> None:
    page = results / "docs" / "tables.md"
    publish.main(["--results", str(results / "results"), "--page", str(page)])
    named = [
        line[line.index("(") + 1 : -1] for line in page.read_text().splitlines() if line[:2] == "!["
    ]
    assert named == [f"images/study_e_optimal_{metric}.png" for metric in publish.PLOTTED]
    assert all((page.parent / name).stat().st_size > 5000 for name in named)


def test_a_protocol_without_runs_keeps_its_section(results: Path) -> None:
    page = results / "tables.md"
    page.write_text("# Tables\n\n## a. Kept\n\nrows of a\n\n## e. Old\n\nrows of e\n")
    publish.main(["--results", str(results / "results"), "--page", str(page)])
    text = page.read_text()
    assert text.index("## a. Kept\n\nrows of a\n\n## e. ") > 0
    assert "rows of e" not in text


def test_a_cell_that_is_half_done_is_not_hidden(tmp_path: Path) -> None:
    cell = cells(read_protocol("e"), "published")[0]
    directory = tmp_path / "e" / cell.name
    write_runs(directory, cell, worse=0.0)
    for file in (directory / "runs").glob("1-seed[345].jsonl"):
        file.unlink()
    page = tmp_path / "tables.md"
    publish.main(["--results", str(tmp_path), "--page", str(page)])
    rows = [line for line in page.read_text().splitlines() if f"| {cell.inits[1]} |" in line]
    assert len(rows) == 3
    # Three of the six seeds are there, one of which diverged.
    assert all("| 3 (1 unfinished) |" in row for row in rows)


def losses(shift: float) -> list[RunRecord]:
    """Eight seeds of he and of optimal, which differs by `shift` and noise."""
    rng = np.random.default_rng(3)
    levels = {"he": rng.normal(0.5, 0.1, 8), "optimal": rng.normal(0.5, 0.1, 8) + shift}
    return [
        RunRecord(scheme, seed, "full", "finished", "", 8, 0, 1.0, 0.0, (), {"val_loss": level})
        for scheme, of_scheme in levels.items()
        for seed, level in enumerate(of_scheme.tolist())
    ]


def test_new_seeds_are_counted_inside_the_published_spread(results: Path) -> None:
    """Made-up runs lie between 0.5 and 0.55; one new run of each scheme does, and one does not."""
    cell = cells(read_protocol("e"), "published")[0]
    write_runs(results / "again" / "e" / cell.name, cell, worse=0.02)
    kept = {0: 20, 3: 21}  # two of the made-up seeds stand for seeds that were not published
    for file in (results / "again").rglob("*.jsonl"):
        record, *_ = map(RunRecord.from_json, file.read_text().splitlines())
        file.unlink()
        if record.seed in kept and record.scheme != "xavier":
            loss = record.final["train_loss"] + (record.seed == 3)
            final = {**record.final, "train_loss": loss}
            new = replace(record, seed=kept[record.seed], final=final)
            file.write_text(new.to_json() + "\n")
    _, _, row = study_spread.spread_table(results / "results", results / "again")
    schemes = len(cell.inits) - 1
    # Seed 3's training loss is 1 above every published one, and its two other metrics are inside.
    assert row.startswith(f"| e: {cell.name} | 20, 21 | {5 * schemes} of {6 * schemes} |")
    values = {("he", "full", "loss"): {0: 1.0, 1: 2.0}, ("new", "full", "loss"): {0: 2.0, 1: 4.0}}
    assert study_spread.differences(values, "he") == {("new", "full", "loss"): {0: 1.0, 1: 2.0}}


def test_a_forest_has_one_line_per_cell() -> None:
    reports = {"mlp": summarize(losses(0.0)), "cnn": summarize(losses(-1.0))}
    axes = forest(reports, "val_loss", "optimal", "he").axes[0]
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == ["mlp\nno difference shown, 8 seeds", "cnn\nbetter, 8 seeds"]
    means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
    expected = find(reports["mlp"], "val_loss", "optimal", "he").mean_difference
    np.testing.assert_allclose(means, [expected, expected - 1])
    with pytest.raises(ValueError, match="No comparison of 'optimal' against 'lecun'"):
        forest(reports, "val_loss", "optimal", "lecun")
