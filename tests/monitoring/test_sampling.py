from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import Regression, fit

from lightning_init import OptimalVarianceInit
from lightning_init.monitoring.variance_monitor import sample_steps


@given(st.integers(1, 3000), st.integers(1, 50))
def test_steps_hold_every_interval_and_are_denser_in_the_first_tenth_only(
    budget: int, interval: int
) -> None:
    steps = sample_steps(budget, interval)
    assert list(steps) == sorted(set(steps))
    assert {*range(interval, budget + 1, interval)} <= set(steps)
    assert all(0 < step <= budget for step in steps)
    assert not [step for step in steps if step > budget / 10 and step % interval]
    # At most three samples for one (every step for every third) in a tenth of the steps.
    assert len(steps) <= 1.2 * budget / interval + 1


@pytest.mark.filterwarnings("ignore:.*had not settled")
@pytest.mark.parametrize("options", [{}, {"sample_every_n_steps": 4}])
def test_the_history_has_all_samples_and_the_detector_the_even_ones(
    options: dict[str, Any],
) -> None:
    callback = OptimalVarianceInit(
        480, horizon="probe", tolerance=1e-6, verbose=False, on_unsettled="use", **options
    )
    fit(Regression(), callback, max_epochs=60)
    report = callback.report
    assert report is not None
    interval = report.sample_interval
    steps = list(report.history.steps[1:])
    expected = range(4, 481, 4) if options else sample_steps(480, interval)
    assert steps == list(expected)
    # A check changes the drift, so that it never changes between two even samples.
    for drifts in report.history.drifts:
        pairs = zip(steps, drifts[:-1], drifts[1:], strict=True)
        moved = [step for step, before, now in pairs if now > before or now < before]
        assert moved
        assert all(step % interval == 0 for step in moved)
