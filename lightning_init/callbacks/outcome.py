"""From verdicts to the scale of each layer's redraw, as rows of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from lightning_init.callbacks.variance_monitor import VarianceMonitor
from lightning_init.inspection.weights import Weight
from lightning_init.reporting.report import LayerReport
from lightning_init.stationarity import Decision, Verdict
from lightning_init.theory.variance_bound import SteadyState, optimal_initial_variances

OnUnsettled = Literal["use", "keep", "raise", "project"]
Granularity = Literal["layer", "global", "gain"]

#: A projection is used only where the ends of its interval differ by less than this factor.
WIDEST_PROJECTION = 1.25


def layer_reports(
    monitor: VarianceMonitor,
    initial: Sequence[float],
    on_unsettled: OnUnsettled,
    granularity: Granularity,
    largest_change: float | None,
) -> tuple[LayerReport, ...]:
    """Decide what each layer gets: sigma0^2 = V (Horii & Has, arXiv 2508.12834).

    Args:
        monitor: The probe's samples and verdicts.
        initial: Realised variance of each layer before the probe.
        on_unsettled: What happens to layers that are not stationary.
        granularity: One variance per layer, one for all, or one gain over the He variances 2 / m.
        largest_change: Largest factor by which a layer's variance may change, or None.
    """
    decisions = monitor.decisions()
    targets, notes = [], []
    for decision, start in zip(decisions, initial, strict=True):
        target, note = _target(decision, start, on_unsettled, largest_change or math.inf)
        targets.append(target)
        notes.append(note)
    shared = _share(monitor.weights, targets, granularity)
    return tuple(
        _row(monitor, weight, start, decision, target, note)
        for weight, start, decision, target, note in zip(
            monitor.weights, initial, decisions, shared, notes, strict=True
        )
    )


def _target(
    decision: Decision, initial: float, on_unsettled: OnUnsettled, largest_change: float
) -> tuple[float | None, str]:
    """Variance of the redraw, or None to keep the initial weights, and a note."""
    variance = decision.estimate
    if not (math.isfinite(variance) and variance > 0):
        return None, "no usable variance: initial weights kept"
    note = ""
    if decision.verdict is not Verdict.STATIONARY:
        if on_unsettled == "keep":
            return None, "not settled: initial weights kept"
        if on_unsettled == "project":
            variance, note = _projected(decision)
    bounded = min(max(variance, initial / largest_change), initial * largest_change)
    if bounded != variance:
        note = f"change of variance limited to a factor of {largest_change:g}"
    return bounded, note


def _projected(decision: Decision) -> tuple[float, str]:
    low, high = decision.projected_lower, decision.projected_upper
    if not (low > 0 and high / low < WIDEST_PROJECTION):
        return decision.estimate, "projection too wide: V at the end of the probe used"
    return decision.projected, "projected to the end of the horizon"


def _share(
    weights: Sequence[Weight], targets: Sequence[float | None], granularity: Granularity
) -> list[float | None]:
    if granularity == "layer":
        return list(targets)
    taken = [(w, v) for w, v in zip(weights, targets, strict=True) if v is not None]
    if not taken:
        return list(targets)
    states = [
        SteadyState(math.prod(weight.shape), variance, base_variance=2.0 / weight.fan_in)
        for weight, variance in taken
    ]
    optimum = iter(optimal_initial_variances(states, granularity).variances)
    return [None if target is None else next(optimum) for target in targets]


def _row(
    monitor: VarianceMonitor,
    weight: Weight,
    initial: float,
    decision: Decision,
    target: float | None,
    note: str,
) -> LayerReport:
    return LayerReport(
        name=weight.name,
        shape=weight.shape,
        fan_in=weight.fan_in,
        initial_variance=initial,
        variance=decision.estimate,
        drift_index=decision.drift_index,
        drift_lower=decision.lower,
        drift_upper=decision.upper,
        standard_error=decision.standard_error / decision.estimate,
        verdict=decision.verdict,
        fired_at_step=monitor.fired_at_step(decision),
        projected=decision.projected,
        projected_lower=decision.projected_lower,
        projected_upper=decision.projected_upper,
        sigma0=math.sqrt(initial if target is None else target),
        action="kept" if target is None else "redrawn",
        note=note,
    )
