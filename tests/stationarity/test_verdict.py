from __future__ import annotations

import math
import pickle
import re
import time
import warnings

import numpy as np
import pytest
from detector_scenarios import SCENARIOS, Noise, variances

from lightning_init.stationarity import (
    DetectorSettings,
    DetectorState,
    Verdict,
    decide,
    reset,
    start,
    update,
)

QUIET = Noise(0.002, 5)


def run(values: object, state: DetectorState) -> DetectorState:
    for value in np.asarray(values).tolist():
        state = update(state, value)
    return state


def fresh(horizon: float = 400, budget: float | None = None, **changes: object) -> DetectorState:
    return start(DetectorSettings(**changes), horizon, budget)


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_says_what_to_do_next(verdict: Verdict) -> None:
    assert re.fullmatch(r"The [^.;]+; [^.;]+\.", verdict.sentence)


def test_update_leaves_the_old_state_alone() -> None:
    before = run(np.ones(50), fresh())
    decision = decide(before)
    run(np.geomspace(1, 100, 50), before)
    assert decide(before) == decision
    assert run(np.ones(50), before).fired_at == run(np.ones(100), fresh()).fired_at


def test_constant_series_is_stationary_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decision = decide(run(np.full(100, 0.02), fresh(horizon=100)))
    assert decision.verdict is Verdict.STATIONARY
    assert (decision.fired_at, decision.samples) == (47, 100)
    assert decision.estimate == pytest.approx(0.02, rel=1e-14)
    assert decision.standard_error == pytest.approx(0.0, abs=1e-15)
    assert decision.projected == pytest.approx(0.02, rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 0.0, -1e-9])
@pytest.mark.parametrize("position", [0, 10, 99])
def test_a_value_that_is_no_variance_makes_the_series_invalid(bad: float, position: int) -> None:
    values = np.ones(400)
    values[position] = bad
    decision = decide(run(values, fresh()))
    assert decision.verdict is Verdict.INVALID
    assert decision.fired_at is None
    assert math.isnan(decision.estimate)
    assert math.isnan(decision.upper)


def test_nothing_is_said_before_the_first_check() -> None:
    decision = decide(run(np.ones(39), fresh()))
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert math.isnan(decision.drift_index)
    assert decision.estimate == 1.0


@pytest.mark.parametrize(
    ("horizon", "budget", "first_possible"),
    [(100, None, 47), (4000, None, 464), (4000, 500, 58), (10**6, 100, 47), (100, 4000, 464)],
)
def test_first_fire_is_the_fourth_check(
    horizon: float, budget: float | None, first_possible: int
) -> None:
    # 40 or a tenth of the samples to come, then 5% more each: 1.05^3 = 1.158.
    state = run(np.ones(600), fresh(horizon, budget))
    assert state.fired_at == first_possible


def test_a_fired_series_that_moves_again_is_drifting() -> None:
    state = run(np.ones(100), fresh(horizon=200))
    assert decide(state).verdict is Verdict.STATIONARY
    state = run(np.exp(np.linspace(0, 1, 100)), state)
    decision = decide(state)
    assert decision.verdict is Verdict.DRIFTING
    assert decision.fired_at == 47


def test_estimate_is_the_mean_of_the_last_quarter_of_the_window() -> None:
    values = np.exp(np.random.default_rng(0).standard_normal(240))
    decision = decide(run(values, fresh()))
    assert decision.estimate == pytest.approx(values[-30:].mean(), rel=1e-14)


def test_standard_error_is_that_of_the_estimate() -> None:
    series = variances(SCENARIOS["stationary"], 300, 160, Noise(0.01, 1), seed=2)
    decisions = [decide(run(row, fresh())) for row in series]
    spread = np.std([decision.estimate for decision in decisions])
    claimed = np.sqrt(np.mean([decision.standard_error**2 for decision in decisions]))
    assert 0.9 < claimed / spread < 1.7  # wide rather than narrow


def test_reset_forgets_the_samples_before_a_learning_rate_change() -> None:
    # V steps from 1 to 1/2 where the learning rate is halved.
    levels = np.r_[np.ones(200), np.full(200, 0.5)]
    series = levels * variances(SCENARIOS["stationary"], 1, 400, QUIET, seed=3)[0]
    straddling = run(series[:300], fresh(persistence=30))
    assert decide(straddling).verdict is Verdict.DRIFTING
    state = reset(run(series[:200], fresh()))
    assert (state.fired_at, decide(state).samples, state.budget) == (None, 0, 200)
    decision = decide(run(series[200:], state))
    assert decision.verdict is Verdict.STATIONARY
    assert decision.samples == 200
    assert decision.fired_at is not None
    assert decision.fired_at >= 47
    assert decision.estimate == pytest.approx(0.5, rel=0.01)


def test_reset_after_an_invalid_value_begins_cleanly() -> None:
    state = reset(run([1.0, math.nan], fresh()))
    assert decide(run(np.ones(100), state)).verdict is Verdict.STATIONARY


def test_reset_again_and_again_never_fires() -> None:
    state = fresh()
    for _ in range(20):
        state = reset(run(np.ones(30), state))
    assert decide(state).verdict is Verdict.INCONCLUSIVE


def test_a_horizon_below_the_budget_is_raised_to_it() -> None:
    assert fresh(horizon=10, budget=400).horizon == 400


@pytest.mark.parametrize("noise", [Noise(0.005, 5), Noise(0.0005, 5), Noise(0.005, 20)])
def test_noise_over_a_far_horizon_is_inconclusive(noise: Noise) -> None:
    series = variances(SCENARIOS["stationary"], 60, 400, noise, seed=4)
    decisions = [decide(run(row, fresh(horizon=40_000, budget=400))) for row in series]
    assert all(decision.fired_at is None for decision in decisions)
    inconclusive = [decision.verdict is Verdict.INCONCLUSIVE for decision in decisions]
    assert np.mean(inconclusive) >= 0.85  # .94 and more over 300 replicates


def test_growth_over_a_far_horizon_is_drifting() -> None:
    series = variances(SCENARIOS["linear growth"], 20, 400, Noise(0.005, 5), seed=5)
    verdicts = [decide(run(row, fresh(horizon=40_000, budget=400))).verdict for row in series]
    assert set(verdicts) == {Verdict.DRIFTING}


def test_a_hundred_thousand_samples_are_cheap() -> None:
    began = time.process_time()
    state = run(np.ones(100_000), fresh(horizon=100_000))
    assert time.process_time() - began < 5.0
    began = time.process_time()
    decide(state)
    assert time.process_time() - began < 0.1


def test_state_survives_a_pickle() -> None:
    state = run(np.ones(70), fresh())
    copy = pickle.loads(pickle.dumps(state))
    assert decide(run(np.ones(30), copy)) == decide(run(np.ones(30), state))


def relaxing(samples: int, left: float, seed: int) -> np.ndarray:
    """V = 1 + left exp(-(t - samples) / tau): so much is left to relax at the end of the probe."""
    time = np.arange(samples)
    return (1 + left * np.exp(3 - 3 * time / samples)) * np.exp(
        0.0002 * np.random.default_rng(seed).standard_normal(samples)
    )


def probe(values: np.ndarray, horizon: float, **changes: object) -> Verdict:
    return decide(run(values, fresh(horizon, len(values), **changes))).verdict


@pytest.mark.parametrize("seed", range(3))
def test_drifting_is_about_what_is_to_come_not_about_the_rate(seed: int) -> None:
    # The rate times the horizon is 3 * 3 * left = .27 and 2.7; what is left is .03 and .3.
    assert probe(relaxing(200, 0.03, seed), 600) is Verdict.INCONCLUSIVE
    assert probe(relaxing(200, 0.03, seed), 600, rule="drift-index") is Verdict.DRIFTING
    assert probe(relaxing(200, 0.3, seed), 600) is Verdict.DRIFTING


@pytest.mark.parametrize("name", ["linear growth", "square-root growth", "exponential growth"])
@pytest.mark.parametrize("stretch", [1.6, 3, 100])
def test_growth_is_drifting_at_any_share_of_the_horizon(name: str, stretch: float) -> None:
    series = variances(SCENARIOS[name], 20, 200, Noise(0.001, 5), seed=6)
    found = [probe(row, 200 * stretch) for row in series]
    assert np.mean([verdict is Verdict.DRIFTING for verdict in found]) >= 0.9


def test_the_rate_stands_where_less_than_a_window_is_left() -> None:
    values = relaxing(200, 0.03, seed=0)
    assert probe(values, 301) is Verdict.INCONCLUSIVE
    assert probe(values, 299) is Verdict.DRIFTING
