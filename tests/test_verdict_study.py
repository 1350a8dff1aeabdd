"""The verdict study: one tiny training, and the arithmetic of its summary."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "study"))
import verdict_cases
import verdict_shares
import verdict_tables
import verdicts


def row(verdict: str, variance: float, final: float, **more: Any) -> dict[str, Any]:
    return {
        "case": "digits",
        "seed": 0,
        "name": "net.0",
        "verdict": verdict,
        "variance": variance,
        "final": final,
        "ratio": 1.5,
        "projected": 1.0,
        "projected_lower": 0.95,
        "projected_upper": 1.1,
        "surviving_share": 0.2,
        "forgetting": "remembers",
        "fired_at_step": None,
        "probe_steps": 100,
        "horizon": 400,
        **more,
    }


def test_the_summary_counts() -> None:
    rows = [
        row("stationary", 1.0, 1.1, fired_at_step=80),
        row("stationary", 1.0, 1.2),
        row("drifting", 1.0, 1.05),
        row("drifting", 1.0, 0.8),
        row("drifting", 1.0, 2.0),
    ]
    text = verdict_tables.summary(rows)
    assert "| `stationary` layers that moved by at most 12 % | 1 of 2 (50%) |" in text
    assert "| `drifting` layers that moved by more than 8 % | 2 of 3 (67%) |" in text
    assert "| V at the end inside the projection's 90 % interval | 2 of 5 (40%) |" in text
    assert "| median step at which a layer settled, share of the horizon | 20% |" in text
    assert "| 1.2 | +20% | 1 [0.95, 1.1] missed |" in verdict_tables.study_page(rows)


@pytest.mark.filterwarnings("ignore")
def test_one_case_gives_one_row_per_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verdict_cases.EPOCHS, "digits", 2)
    case = verdict_cases.Case("digits", "LSTM", "AdamW", 0.0, 0)
    rows = verdicts.judge(case, verdict_cases.dataset("digits"), 0.2)
    assert len(rows) == 9
    assert rows[0]["horizon"] == 56
    assert rows[0]["probe_steps"] == 11
    assert all(found["final"] > 0 for found in rows)


def test_shares_judge_the_beginning_of_each_series() -> None:
    time = np.arange(300) / 100
    series = np.stack([np.ones(300), 1 + time, 1 + np.exp(-20 * time)])
    verdicts_found = [d.verdict.value for d in verdict_shares.judge(series, 0.5)]
    assert verdicts_found == ["stationary", "drifting", "stationary"]
    assert verdict_shares.judge(series[:1], 0.5)[0].samples == 47  # stops when all have settled
    line = verdict_shares.line([series], 0.5)
    assert line[:4] == ("50%", "2 of 2 (100%)", "1 of 1 (100%)", "0 of 0")
