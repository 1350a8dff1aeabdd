"""The figures of a comparison: what is drawn is what the records say."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from lightning_init.compare.figures import curves, paired_differences
from lightning_init.compare.records import DIVERGED, EQUAL, FINISHED, FULL, RunRecord
from lightning_init.compare.report import ReportSettings, summarize

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


def test_curves_are_means_with_students_band() -> None:
    axes = curves(records(), "val_loss", FULL).axes[0]
    he = axes.lines[0]
    np.testing.assert_array_equal(he.get_xdata(), [1, 2, 4, 8])
    np.testing.assert_allclose(he.get_ydata(), LEVELS[0].mean() + 1 / np.array([1, 2, 4, 8]))
    band = axes.collections[0].get_paths()[0].vertices
    at_last = band[band[:, 0] == 8][:, 1]
    half = stats.t.ppf(0.975, 7) * LEVELS[0].std(ddof=1) / np.sqrt(8)
    assert (at_last.max() - at_last.min()) / 2 == pytest.approx(half)


def test_a_charged_probe_shifts_its_curve() -> None:
    figure = curves(records(), "val_loss", EQUAL)
    optimal = figure.axes[0].lines[1]
    np.testing.assert_array_equal(optimal.get_xdata(), [5, 6, 8, 12])
    np.testing.assert_allclose(optimal.get_ydata()[0], LEVELS[2].mean() + 1)


def test_runs_of_different_lengths_are_averaged_where_all_of_them_are() -> None:
    made = [replace(r, probe_steps=r.seed) for r in records() if r.budget == EQUAL]
    steps = curves(made, "val_loss", EQUAL).axes[0].lines[0].get_xdata()
    assert (steps.min(), steps.max()) == (1 + 7, 8 + 0)


def test_unfinished_runs_are_counted_in_the_legend_and_on_the_axis() -> None:
    made = records()
    made[0] = replace(made[0], status=DIVERGED)
    figure = curves(made, "val_loss", FULL)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["he (7 of 8 runs)", "optimal (8 of 8 runs)"]
    rows = [summarize(made).find("val_loss", "optimal", "he", budget=FULL)]
    axes = paired_differences(rows, FULL).axes[0]
    assert axes.get_yticklabels()[0].get_text() == "optimal\n- he\n0 and 1 unfinished"


def test_paired_differences_are_dots_with_their_interval() -> None:
    row = summarize(records()).find("val_loss", "optimal", "he", budget=FULL)
    axes = paired_differences([row], FULL).axes[0]
    drawn = [line.get_xdata() for line in axes.lines]
    np.testing.assert_allclose(drawn[1], LEVELS[1] - LEVELS[0])
    interval = row.statistics.interval
    np.testing.assert_array_equal(drawn[2], [interval.lower, interval.upper])
    np.testing.assert_array_equal(drawn[3], [interval.mean])
    assert axes.get_xlabel() == "difference in final val_loss (lower is better)"


def test_a_report_draws_every_metric_and_budget() -> None:
    drawn = summarize(records()).figures()
    assert list(drawn) == [
        "curves_val_loss_equal",
        "differences_val_loss_equal",
        "curves_val_loss_full",
        "differences_val_loss_full",
    ]


def test_any_name_of_a_metric_makes_a_file(tmp_path: Path) -> None:
    made = [
        replace(r, final={"a/$loss": 1.0 + r.seed, "a $loss": 2.0}, curve=())
        for r in records()
        if r.scheme == "he"
    ]
    made += [replace(r, scheme="_$x$") for r in made]
    files = summarize(made, ReportSettings({"a/$loss": "min", "a $loss": "min"})).write(tmp_path)
    drawn = [path.name for path in files if path.suffix == ".png"]
    assert drawn == ["differences_a_loss.png", "differences_a_loss_.png"]
    assert all((tmp_path / name).exists() for name in drawn)


def test_without_matplotlib_figures_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install lightning_init\[compare\]"):
        curves(records(), "val_loss")
