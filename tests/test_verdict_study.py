"""The verdict study: one tiny training, and the arithmetic of its summaries."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "study"))
import verdict_schedules
import verdict_shares


def test_the_summary_counts_each_verdict_under_each_schedule() -> None:
    common = {"optimizer": "SGD", "schedule": "OneCycle", "V": 1.0, "at_peak": 1.1}
    rows = [
        {**common, "verdict": "stationary", "final": 1.1},
        {**common, "verdict": "stationary", "final": 1.2},
        {**common, "verdict": "drifting", "final": 1.05},
        {**common, "verdict": "drifting", "final": 0.8, "at_peak": 0.8},
        {**common, "verdict": "invalid", "final": 2.0},
    ]
    text = verdict_schedules.summary(rows)
    assert "| OneCycle | 4 | 3 | 25.0% | 1 of 2 (50%) | 1 of 2 (50%) | 0 of 0 |" in text
    assert "5 layers, 1 of them of invalid probes." in text


@pytest.mark.filterwarnings("ignore")
def test_one_case_gives_one_row_per_schedule_and_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict_schedules, "EPOCHS", 2)
    chosen = {name: verdict_schedules.SCHEDULES[name] for name in ("constant", "warm-up from 0")}
    monkeypatch.setattr(verdict_schedules, "SCHEDULES", chosen)
    rows = verdict_schedules.judge("MLP", "SGD", 0.0, set())
    assert [row["schedule"] for row in rows] == ["constant"] * 3 + ["warm-up from 0"] * 3
    assert {row["probe_steps"] for row in rows} == {18}
    assert all(row["final"] > 0 for row in rows)


def test_shares_judge_the_beginning_of_each_series() -> None:
    time = np.arange(300) / 100
    series = np.stack([np.ones(300), 1 + time, 1 + np.exp(-20 * time)])
    verdicts_found = [d.verdict.value for d in verdict_shares.judge(series, 0.5)]
    assert verdicts_found == ["stationary", "drifting", "stationary"]
    assert verdict_shares.judge(series[:1], 0.5)[0].samples == 47  # stops when all have settled
    line = verdict_shares.line([series], 0.5)
    assert line[:4] == ("50%", "2 of 2 (100%)", "1 of 1 (100%)", "0 of 0")
