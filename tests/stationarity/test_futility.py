"""When a probe can no longer change what a layer gets."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_init.stationarity import DetectorSettings, Ending, ending, start, update
from lightning_init.stationarity.drift import FloatArray
from lightning_init.stationarity.futility import EARLIEST, earliest_look

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
    assert (samples, found) == (earliest_look(SETTINGS, BUDGET), Ending.STAYS)
    samples, found = first_ending(1e-4 * TIME)
    assert (samples, found) == (earliest_look(SETTINGS, BUDGET), Ending.UNCHANGED)


@pytest.mark.parametrize("budget", [50, 80, 200, 1000])
def test_no_look_before_a_trend_and_a_share_of_the_budget(budget: int) -> None:
    assert earliest_look(SETTINGS, budget) == max(20, int(np.ceil(EARLIEST * budget)))
