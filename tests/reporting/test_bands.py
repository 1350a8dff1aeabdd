from __future__ import annotations

import math

import pytest
from probe_series import SETTINGS, followed, report_of, series

from lightning_init.reporting.bands import confidence_bands
from lightning_init.reporting.report import InitReport


def test_limits_of_the_drift_are_those_of_the_detector(report: InitReport) -> None:
    values = series(seed=1)
    points = {p.step: p for p in confidence_bands(report_of(report, {"a": values}), "a")}
    _, checks = followed(values)
    assert len(checks) > 10
    assert min(points) == min(checks)
    for step, decision in checks.items():
        point = points[step]
        assert point.drift == decision.drift_index
        assert point.drift_lower == pytest.approx(decision.lower, rel=1e-9)
        assert point.drift_upper == pytest.approx(decision.upper, rel=1e-9)


def test_between_checks_the_last_limits_stand_and_the_fit_goes_on(report: InitReport) -> None:
    values = series(seed=2)
    points = confidence_bands(report_of(report, {"a": values}), "a")
    _, checks = followed(values)
    assert len(points) > 2 * len(checks)
    pairs = list(zip(points, points[1:], strict=False))
    between = [(now, then) for then, now in pairs if now.step not in checks]
    assert all(now.drift_upper == then.drift_upper for now, then in between)
    assert all(now.fitted != then.fitted for now, then in pairs)


def test_the_band_holds_the_true_level_as_often_as_it_says(report: InitReport) -> None:
    """One-sided limits at 0.9: both hold in 80 % of 400 flat series; its s.e. is 2 %."""
    held = 0
    for seed in range(400):
        values = series(seed, samples=80, relaxation=1e-9)
        point = confidence_bands(report_of(report, {"a": values}), "a")[-1]
        assert point.fitted_lower < point.fitted < point.fitted_upper
        held += point.fitted_lower < 0.03 < point.fitted_upper
    # The allowance for autocorrelation makes the band of independent noise somewhat too wide.
    assert 0.80 - 3 * 0.02 < held / 400 < 0.97
    assert SETTINGS.confidence == 0.9


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 0.0, -1.0])
def test_there_is_no_band_where_v_was_not_valid(report: InitReport, wrong: float) -> None:
    values = series(seed=3)
    values[150] = wrong
    assert confidence_bands(report_of(report, {"a": values}), "a") == ()


def test_there_is_no_band_where_the_series_began_again(report: InitReport) -> None:
    values = series(seed=4)
    assert confidence_bands(report_of(report, {"a": values}, reset_at=60), "a") == ()
    assert confidence_bands(report_of(report, {"a": values}), "a")


def test_there_is_no_band_before_the_first_check(report: InitReport) -> None:
    values = series(seed=5)[: SETTINGS.minimum_samples - 1]
    assert confidence_bands(report_of(report, {"a": values}), "a") == ()


def test_points_at_some_steps_are_those_of_all_steps(report: InitReport) -> None:
    of_all = confidence_bands(report_of(report, {"a": series(seed=6)}), "a")
    some = [point.step for point in of_all[::7]]
    assert confidence_bands(report_of(report, {"a": series(seed=6)}), "a", some) == of_all[::7]
