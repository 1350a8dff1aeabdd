"""The figure of a comparison: what is drawn is what the records say."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from found_rows import find

from lightning_init.compare.records import DIVERGED, EQUAL, FINISHED, FULL, RunRecord
from lightning_init.compare.report import summarize

SHIFTS = {("he", FULL): 0.0, ("optimal", FULL): -0.1, ("optimal", EQUAL): 0.1}
LEVELS = np.random.default_rng(3).normal(0.5, 0.1, (3, 8))


def records(metric: str = "val_loss") -> list[RunRecord]:
    """Eight seeds of he and of optimal, whose probes take 4 steps and are charged or not."""
    made = []
    for seed in range(8):
        for place, (scheme, budget) in enumerate(
            (("he", FULL), ("optimal", FULL), ("optimal", EQUAL))
        ):
            level = float(LEVELS[place, seed])
            curve = tuple((step, {metric: level + 1 / step}) for step in (1, 2, 4, 8))
            probe = 4 if scheme == "optimal" else 0
            last = {metric: level + 1 / 8}
            made.append(
                RunRecord(scheme, seed, budget, FINISHED, "", 8, probe, 1.0, 0.1, curve, last)
            )
    return made


def test_unfinished_runs_are_counted_on_the_axis() -> None:
    made = records()
    made[0] = replace(made[0], status=DIVERGED)
    axes = summarize(made).plot().axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [f"optimal, {b}\n- he\n0 and 1 unfinished" for b in (EQUAL, FULL)]


def test_paired_differences_are_dots_with_their_interval() -> None:
    report = summarize(records())
    row = find(report, "val_loss", "optimal", "he", budget=FULL)
    axes = report.plot().axes[0]
    # Below those of the equal budget, three for three.
    drawn = [line.get_xdata() for line in axes.lines[3:]]
    np.testing.assert_allclose(drawn[0], LEVELS[1] - LEVELS[0])
    np.testing.assert_array_equal(drawn[1], [row.lower, row.upper])
    np.testing.assert_array_equal(drawn[2], [row.mean_difference])
    assert axes.get_xlabel() == "final val_loss\n(lower is better)"


def test_a_verdict_has_its_colour() -> None:
    shifted = [
        replace(r, final={"val_loss": 0.5 + SHIFTS[r.scheme, r.budget] + 0.001 * r.seed})
        for r in records()
    ]
    axes = summarize(shifted).plot().axes[0]
    markers = [line for line in axes.lines if line.get_marker() == "D"]
    assert [line.get_color() for line in markers] == ["#D55E00", "#0072B2"]


def test_every_metric_has_its_panel() -> None:
    more = [
        replace(r, final={f"loss{k}": r.seed * 0.1 + k for k in range(4)}, curve=())
        for r in records()
    ]
    figure = summarize(more, {f"loss{k}": "min" for k in range(4)}).plot()
    named = [axes.get_xlabel().splitlines()[0] for axes in figure.axes]
    assert named == [f"final loss{k}" for k in range(4)]
    # Rows are named once in a line of three panels.
    first = [axes.get_yticklabels()[0].get_text() for axes in figure.axes]
    assert [bool(text) for text in first] == [True, False, False, True]


def test_one_scheme_alone_has_nothing_to_plot() -> None:
    alone = summarize([r for r in records() if r.scheme == "he"])
    with pytest.raises(ValueError, match="nothing to plot: a comparison takes two schemes"):
        alone.plot()


def test_any_name_of_a_metric_can_be_drawn(tmp_path: Path) -> None:
    made = [replace(r, final={"a/$loss": 1.0 + r.seed}) for r in records() if r.scheme == "he"]
    made += [replace(r, scheme="_$x$") for r in made]
    files = summarize(made, {"a/$loss": "min"}).write(tmp_path)
    drawn = [path.name for path in files if path.suffix == ".png"]
    assert drawn == ["differences.png"]
    assert (tmp_path / "differences.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_figure_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = summarize(records())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install lightning_init\[compare\]"):
        report.plot()
