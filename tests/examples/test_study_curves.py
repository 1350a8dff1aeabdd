"""Steps until a loss is reached are counted in pairs, and the curves that they come from drawn."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))
import study_curves
import study_models

from lightning_init.compare import RunRecord

SEEDS = 8
STEPS = 100


def run(scheme: str, seed: int, lead: float) -> RunRecord:
    """A loss that falls by 1 in 100 steps, so many steps ahead; seeds differ by a thousandth."""
    losses = [2 + seed / 1000 - (step + lead) / STEPS for step in range(STEPS)]
    final = {name: loss.item() for name, loss in study_models.loss_by_step(losses).items()}
    return RunRecord(scheme, seed, "full", "finished", "", STEPS, 0, 1.0, 0.0, (), final)


@pytest.fixture
def records() -> list[RunRecord]:
    leads = {"he": 0.0, "early": 10.0, "late": -60.0}
    return [run(scheme, seed, lead) for scheme, lead in leads.items() for seed in range(SEEDS)]


def test_a_scheme_that_is_ten_steps_ahead_is_shown_so(records: list[RunRecord]) -> None:
    lines = study_curves.steps_table({"cell": (records, "he")})
    early = [line for line in lines if "| early |" in line]
    assert len(early) == len(study_curves.SHARES)
    assert all("| 8 of 8 | -10 [-10, -10] of " in line and "| better |" in line for line in early)
    # After half of the run its loss is the reference's of a tenth before; at .8 never.
    late = [line for line in lines if "| late |" in line]
    assert "| 0 of 8 | - of 80 |" in late[1]


def test_epochs_serve_where_no_steps_are_kept(records: list[RunRecord]) -> None:
    curve = tuple((step, {"epoch_train_loss": 1 / step}) for step in range(1, 7))
    old = [RunRecord(r.scheme, r.seed, "full", "finished", "", 6, curve=curve) for r in records]
    assert study_curves.curve_of(old[0]) == [(step, 1 / step) for step in range(1, 7)]
    few = [RunRecord(r.scheme, r.seed, "full", "finished", "", 6, curve=curve[:2]) for r in records]
    assert study_curves.steps_table({"old": (few, "he")}) == []
    assert study_curves.paired_curves(few, "he", "old") is None


def test_runs_with_steps_are_read_by_epoch_beside_runs_without(records: list[RunRecord]) -> None:
    curve = tuple((step, {"epoch_train_loss": 1 / step}) for step in range(1, 8))
    runs = [replace(r, curve=curve, final={} if r.scheme == "he" else r.final) for r in records]
    assert {len(study_curves.curve_of(run)) for run in study_curves.with_curves(runs)} == {7}


def test_runs_with_steps_count_where_others_have_no_curve(records: list[RunRecord]) -> None:
    runs = [replace(run, final={}) if run.seed < 2 else run for run in records]
    assert {run.seed for run in study_curves.with_curves(runs)} == set(range(2, SEEDS))


def test_paired_curves_show_the_lead(records: list[RunRecord]) -> None:
    (axes,) = study_curves.paired_curves(records, "he", "cell").axes
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert lines["early"] == pytest.approx([-0.1] * len(lines["early"]), abs=1e-5)
    assert lines["late"] == pytest.approx([0.6] * len(lines["late"]), abs=1e-5)
