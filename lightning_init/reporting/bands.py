"""Confidence limits of V and of the drift index along a probe, from a report's history."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from lightning_init.reporting.records import ProbeRecord
from lightning_init.stationarity import DetectorSettings
from lightning_init.stationarity.drift import (
    DriftIndex,
    FloatArray,
    drift_index,
    fit_trend,
    window_length,
)
from lightning_init.stationarity.student import student_t_quantile

#: `horizon_steps` of a report is rounded, so that a drift index comes out this near to itself only.
LARGEST_DIFFERENCE = 0.01


class BandPoint(NamedTuple):
    """One layer at one probe step.

    Attributes:
        step: Probe step.
        fitted_lower: Lower confidence limit of V by the fit to the window that ends here.
        fitted_upper: Upper confidence limit of the same.
        drift_lower: Lower confidence limit of the drift index at the last check.
        drift_upper: Upper confidence limit of the same.
    """

    step: int
    fitted_lower: float
    fitted_upper: float
    drift_lower: float
    drift_upper: float


def confidence_bands(
    report: ProbeRecord, layer: str, steps: Collection[int]
) -> tuple[BandPoint, ...]:
    """Fit again what the detector fitted, and keep the limits that a history does not hold.

    Every limit is one-sided at the detector's confidence.

    Args:
        report: What a probe found.
        layer: Name of one of its layers.
        steps: Probe steps to give points for.

    Returns:
        One point per sample at these steps, from the first check on. None at all if the history
        does not tell: V was not finite and positive throughout, or the series began again on the
        way (a learning rate changed), so that the drift indices do not come out as recorded.
    """
    settings = DetectorSettings()
    steps_taken, values, drifts = _detected(report, layer)
    if not (np.isfinite(values).all() and (values > 0).all()):
        return ()
    points: list[BandPoint] = []
    index: DriftIndex | None = None
    wanted = set(steps)
    for i, drift in enumerate(drifts):
        if not math.isfinite(drift) or i + 1 < settings.minimum_samples:
            continue
        step, checked = steps_taken[i], index is None or drift != drifts[i - 1]
        if not (checked or step in wanted):
            continue
        now = _index(np.log(values[: i + 1]), report, settings)
        if index is None or checked:
            # Between checks the result of the last one stands.
            index = now
            if not math.isclose(drift, now.drift_index, rel_tol=LARGEST_DIFFERENCE, abs_tol=1e-6):
                return ()
        if step in wanted:
            points.append(_point(step, index, now, settings.confidence))
    return tuple(points)


def _detected(report: ProbeRecord, layer: str) -> tuple[list[int], FloatArray, list[float]]:
    """Steps, variances and drift indices of the samples that the detector saw."""
    history = report.history
    rows = zip(history.steps, history.variance(layer), history.drift(layer), strict=True)
    seen = [row for row in list(rows)[1:] if row[0] % report.sample_interval == 0]
    return [row[0] for row in seen], np.array([row[1] for row in seen]), [row[2] for row in seen]


def _index(log_values: FloatArray, report: ProbeRecord, settings: DetectorSettings) -> DriftIndex:
    window = window_length(len(log_values), settings.window_fraction, settings.batches)
    fit = fit_trend(log_values[-window:], settings.batches)
    return drift_index(fit, report.horizon_steps / report.sample_interval, settings.confidence)


def _point(step: int, checked: DriftIndex, now: DriftIndex, confidence: float) -> BandPoint:
    quantile = student_t_quantile(confidence, now.fit.degrees_of_freedom)
    margin = quantile * now.fit.end_level_standard_error
    return BandPoint(
        step=step,
        fitted_lower=math.exp(now.fit.end_level - margin),
        fitted_upper=math.exp(now.fit.end_level + margin),
        drift_lower=checked.lower,
        drift_upper=checked.upper,
    )
