from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from detector_scenarios import SCENARIOS, Noise, variances
from hypothesis import given, settings
from hypothesis import strategies as st
from whole_series import detect

from lightning_init.stationarity import Verdict

ORACLES = Path(__file__).parents[1] / "oracles"
SERIES = json.loads((ORACLES / "stationarity.json").read_text())["series"]
TRACES = json.loads((ORACLES / "training_traces.json").read_text())["series"]


@pytest.mark.parametrize("series", SERIES, ids=lambda series: f"{series['id']}")
def test_drift_index_rule_reproduces_the_reference(series: dict) -> None:
    expected = series["expected"]
    decision = detect(series["v"], series["horizon"], rule="drift-index")
    assert decision.fired_at == expected["fire_n"]
    assert decision.verdict.value == expected["verdict"]
    if expected["fires"]:
        assert decision.estimate == pytest.approx(expected["estimate"], rel=1e-12)
    final = expected["final_drift_index"]
    assert decision.drift_index == pytest.approx(final["D"], rel=1e-9)
    assert decision.upper == pytest.approx(final["up"], rel=1e-9)
    assert decision.lower == pytest.approx(final["low"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("series", SERIES, ids=lambda series: f"{series['id']}")
def test_default_rule_gives_the_reference_verdicts(series: dict) -> None:
    expected = series["expected"]
    decision = detect(series["v"], series["horizon"])
    assert decision.verdict.value == expected["verdict"]
    assert (decision.fired_at is not None) == expected["fires"]
    if decision.fired_at is not None:
        assert decision.fired_at >= expected["fire_n"]  # the rule only adds a condition
        if expected["v_inf"] is not None:
            assert decision.estimate == pytest.approx(expected["v_inf"], rel=0.01)


@pytest.mark.parametrize("rule", ["steady-end", "drift-index"])
@pytest.mark.parametrize(
    "trace", TRACES, ids=lambda trace: f"{trace['layer']}-{trace['weight_decay']}"
)
def test_training_traces(trace: dict, rule: str) -> None:
    decision = detect(trace["v"], trace["horizon"], rule=rule)
    assert decision.verdict.value == trace["expected"]["verdict"]
    assert decision.fired_at == trace["expected"]["fire_n"]


@pytest.mark.parametrize(
    ("series", "verdict"),
    [
        ([], Verdict.INCONCLUSIVE),
        ([1.0], Verdict.INCONCLUSIVE),
        ([1.0] * 39, Verdict.INCONCLUSIVE),
        ([math.nan] * 400, Verdict.INVALID),
        ([1.0] * 399 + [math.nan], Verdict.INVALID),
        ([-1.0] * 400, Verdict.INVALID),
        ([0.0], Verdict.INVALID),
        ([1.0, None], Verdict.INVALID),
        (np.ones(400, dtype=np.float32), Verdict.STATIONARY),
    ],
)
def test_bad_data_gives_a_verdict_not_an_error(series: object, verdict: Verdict) -> None:
    decision = detect(series)
    assert decision.verdict is verdict
    assert (decision.fired_at is not None) == (verdict is Verdict.STATIONARY)


def test_a_series_that_moves_after_it_fired_shows_it() -> None:
    series = np.r_[np.ones(200), np.exp(np.linspace(0, 2, 200))]
    decision = detect(series)
    assert decision.verdict is Verdict.STATIONARY
    assert decision.fired_at == 47
    assert decision.estimate == 1.0
    assert decision.lower > 0.10


def test_a_shorter_horizon_forgives_more() -> None:
    growth = np.exp(0.0005 * np.arange(400))
    assert detect(growth, horizon=100).verdict is Verdict.STATIONARY
    assert detect(growth, horizon=400).verdict is Verdict.DRIFTING


@given(
    seed=st.integers(0, 10_000),
    factor=st.floats(1e-8, 1e8),
    name=st.sampled_from(sorted(SCENARIOS)),
)
@settings(max_examples=25, deadline=None)
def test_units_do_not_matter(seed: int, factor: float, name: str) -> None:
    series = variances(SCENARIOS[name], 1, 200, Noise(0.003, 5), seed)[0]
    plain, scaled = detect(series), detect(series * factor)
    assert scaled.verdict is plain.verdict
    assert scaled.fired_at == plain.fired_at
    assert scaled.estimate == pytest.approx(factor * plain.estimate, rel=1e-9)
    assert scaled.standard_error == pytest.approx(factor * plain.standard_error, rel=1e-6)
    assert scaled.projected == pytest.approx(factor * plain.projected, rel=1e-6)


@pytest.mark.parametrize("rule", ["steady-end", "drift-index"])
@pytest.mark.parametrize("rate", [10, 15, 20, 30])
def test_sampling_half_as_often_changes_the_fire_time_little(rate: float, rule: str) -> None:
    series = 1 + np.exp(-rate * np.arange(2000) / 2000)
    full, half = detect(series, rule=rule), detect(series[::2], rule=rule)
    assert full.fired_at is not None
    assert half.fired_at is not None
    assert 2 * half.fired_at == pytest.approx(full.fired_at, rel=0.10)


@given(
    seed=st.integers(0, 10_000),
    stretch=st.floats(1, 100),
    name=st.sampled_from(sorted(SCENARIOS)),
)
@settings(max_examples=20, deadline=None)
def test_a_longer_horizon_asks_for_a_proportionally_smaller_drift(
    seed: int, stretch: float, name: str
) -> None:
    # Dividing log V by k and multiplying the horizon by k changes no fire, so what is measured at
    # horizon = length also says how the detector does on a short probe of a long run.
    series = variances(SCENARIOS[name], 1, 200, Noise(0.003, 5), seed)[0]
    plain, stretched = detect(series), detect(series ** (1 / stretch), horizon=200 * stretch)
    stationary = Verdict.STATIONARY
    assert (stretched.verdict is stationary) == (plain.verdict is stationary)
    assert stretched.fired_at == plain.fired_at
    assert stretched.upper == pytest.approx(plain.upper, rel=1e-6)
