from __future__ import annotations

import math

import pytest
from probe_series import SETTINGS, followed, report_of, series

from lightning_init.reporting.bands import BandPoint, confidence_bands
from lightning_init.reporting.report import InitReport


def bands(report: InitReport) -> tuple[BandPoint, ...]:
    return confidence_bands(report, "a", report.history.steps)


def test_limits_of_the_drift_are_those_of_the_detector(report: InitReport) -> None:
    values = series(seed=1)
    points = {p.step: p for p in bands(report_of(report, {"a": values}))}
    _, checks = followed(values)
    assert len(checks) > 10
    assert min(points) == min(checks)
    for step, decision in checks.items():
        point = points[step]
        assert point.drift_lower == pytest.approx(decision.lower, rel=1e-9)
        assert point.drift_upper == pytest.approx(decision.upper, rel=1e-9)


def test_between_checks_the_last_limits_stand_and_the_fit_goes_on(report: InitReport) -> None:
    values = series(seed=2)
    points = bands(report_of(report, {"a": values}))
    _, checks = followed(values)
    assert len(points) > 2 * len(checks)
    pairs = list(zip(points, points[1:], strict=False))
    between = [(now, then) for then, now in pairs if now.step not in checks]
    assert all(now.drift_upper == then.drift_upper for now, then in between)
    assert all(now.fitted_lower != then.fitted_lower for now, then in pairs)


def test_the_band_holds_the_true_level_as_often_as_it_says(report: InitReport) -> None:
    """One-sided limits at 0.95: both hold in 90 % of 400 flat series; its s.e. is 1.5 %."""
    held = 0
    for seed in range(400):
        values = series(seed, samples=80, relaxation=1e-9)
        point = bands(report_of(report, {"a": values}))[-1]
        held += point.fitted_lower < 0.03 < point.fitted_upper
    # The allowance for autocorrelation makes the band of independent noise somewhat too wide.
    assert 0.90 - 3 * 0.015 < held / 400 < 0.99
    assert SETTINGS.confidence == 0.95


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 0.0, -1.0])
def test_there_is_no_band_where_v_was_not_valid(report: InitReport, wrong: float) -> None:
    values = series(seed=3)
    values[150] = wrong
    assert bands(report_of(report, {"a": values})) == ()


def test_there_is_no_band_where_the_series_began_again(report: InitReport) -> None:
    values = series(seed=4)
    assert bands(report_of(report, {"a": values}, reset_at=60)) == ()
    assert bands(report_of(report, {"a": values}))


def test_there_is_no_band_before_the_first_check(report: InitReport) -> None:
    values = series(seed=5)[: SETTINGS.minimum_samples - 1]
    assert bands(report_of(report, {"a": values})) == ()


def test_points_at_some_steps_are_those_of_all_steps(report: InitReport) -> None:
    of_all = bands(report_of(report, {"a": series(seed=6)}))
    some = [point.step for point in of_all[::7]]
    assert confidence_bands(report_of(report, {"a": series(seed=6)}), "a", some) == of_all[::7]
