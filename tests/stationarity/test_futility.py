"""When a probe can no longer change what a layer gets."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_init.stationarity import DetectorSettings, Ending, decide, ending, start, update
from lightning_init.stationarity.drift import FloatArray
from lightning_init.stationarity.futility import earliest_look
from lightning_init.stationarity.verdict import glance

SETTINGS = DetectorSettings()
BUDGET, NEAR = 80, 0.05
TIME = np.arange(BUDGET + 1) / BUDGET


def first_ending(
    log_values: FloatArray, horizon: float = 10 * BUDGET, near: float = NEAR
) -> tuple[int, Ending | None]:
    """Samples after which the layer is done, and why; all of them and None if it never is."""
    state = start(SETTINGS, horizon, BUDGET)
    for value in np.exp(log_values[1:]).tolist():
        state = update(state, value)
        found = ending(state, float(np.exp(log_values[0])), True, near)
        if found is not None:
            return state.series.length, found
    return state.series.length, None


GROWTHS = [np.log1p(TIME), np.log1p(20 * TIME), np.log1p(3 * TIME) / 2, 2 * TIME]


@pytest.mark.parametrize("growth", GROWTHS)
def test_growth_without_end_is_done_before_the_first_check(growth: FloatArray) -> None:
    samples, found = first_ending(growth)
    assert found is Ending.WILL_NOT_SETTLE
    assert samples < SETTINGS.minimum_samples


@pytest.mark.parametrize("growth", GROWTHS)
def test_before_the_first_check_nothing_ends_where_unsettled_layers_may_be_drawn(
    growth: FloatArray,
) -> None:
    assert first_ending(growth, near=0.0)[0] >= SETTINGS.minimum_samples


@pytest.mark.parametrize("rate", [15.0, 20.0, 30.0])
@pytest.mark.parametrize("size", [-0.5, 0.2, 1.0, 5.0])
@pytest.mark.parametrize("horizon", [1, 3, 10])
def test_a_relaxation_that_settles_is_waited_for(rate: float, size: float, horizon: int) -> None:
    generator = np.random.default_rng(0)
    noise = np.append(0.0, 1e-4 * generator.standard_normal(BUDGET))
    series = np.log1p(size * np.exp(-rate * TIME)) + noise
    assert first_ending(series, horizon * BUDGET)[1] is Ending.SETTLED


def test_what_hardly_moves_stays_as_it_is_and_what_stands_still_is_unchanged() -> None:
    samples, found = first_ending(0.02 * TIME)
    assert (samples, found) == (earliest_look(BUDGET), Ending.STAYS)
    samples, found = first_ending(1e-4 * TIME)
    assert (samples, found) == (earliest_look(BUDGET), Ending.UNCHANGED)


@pytest.mark.parametrize(("budget", "samples"), [(50, 12), (80, 12), (200, 30), (1000, 150)])
def test_no_look_before_a_trend_and_a_share_of_the_budget(budget: int, samples: int) -> None:
    assert earliest_look(budget) == samples


def test_a_turn_is_seen_and_what_came_before_it_forgotten() -> None:
    samples, found = first_ending(np.abs(TIME - 0.2) * np.sign(TIME - 0.2) * 0.3 + 0.2 * TIME**2)
    assert (found, samples < BUDGET) == (Ending.WILL_NOT_SETTLE, True)
    falls_then_rises = 0.5 * (TIME - 0.1) ** 2
    assert first_ending(falls_then_rises)[1] is Ending.WILL_NOT_SETTLE


def settles(log_values: FloatArray, horizon: float) -> bool:
    """Whether the whole probe would find the layer stationary, and redraw it or leave it."""
    state = start(SETTINGS, horizon, BUDGET)
    for value in np.exp(log_values[1:]).tolist():
        state = update(state, value)
        if glance(state)[1]:
            return abs(np.log(decide(state).estimate) - log_values[0]) >= NEAR
    return False


def test_few_of_the_series_that_would_settle_end_in_vain() -> None:
    """Relaxations and growths, with a drift or a second relaxation, quiet and noisy."""
    generator = np.random.default_rng(3)
    vain, settled = 0, 0
    for horizon in np.repeat([BUDGET, 3 * BUDGET, 10 * BUDGET], 80):
        rates = np.exp(generator.uniform(np.log(5), np.log(60), 2))
        sizes = generator.choice([-0.6, -0.3, 0.2, 0.5, 1, 3], 2) * (1, generator.choice([0, 0.1]))
        relaxing = np.log1p(np.exp(-np.outer(TIME, rates)) @ sizes)
        noise = generator.choice([3e-5, 3e-4, 1e-3]) * generator.standard_normal(len(TIME))
        series = relaxing + generator.uniform(-0.03, 0.03) * TIME + np.append(0.0, noise[1:])
        if settles(series, horizon):
            settled += 1
            vain += first_ending(series, horizon)[1] is Ending.WILL_NOT_SETTLE
    assert settled > 80
    assert vain <= 0.02 * settled
