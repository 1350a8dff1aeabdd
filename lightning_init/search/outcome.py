"""From verdicts to the scale of each layer's redraw, as rows of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_init.inspection.weights import Weight
from lightning_init.reporting.records import LayerReport
from lightning_init.search.probe_phase import ProbeResult
from lightning_init.search.settings import Granularity, OnUnsettled, OptimalVarianceSettings
from lightning_init.stationarity import Decision, Verdict
from lightning_init.theory.variance_bound import (
    SteadyState,
    excess_kl_per_weight,
    kl_per_weight,
    optimal_initial_variances,
)

#: A projection is used only where the ends of its interval differ by less than this factor.
WIDEST_PROJECTION = 1.25
#: Below this share of V the squared mean of a layer is not worth a word.
LARGEST_MEAN_SHARE = 0.05


def layer_reports(
    result: ProbeResult,
    settings: OptimalVarianceSettings,
    drawn: Sequence[float | None] | None = None,
) -> tuple[LayerReport, ...]:
    """Decide what each layer gets: sigma0^2 = V (Horii & Has, arXiv 2508.12834).

    Args:
        result: The probe's samples and verdicts.
        settings: What to do with them.
        drawn: Variance that each layer was drawn with in an earlier round, None for a layer that
            still has its own first weights; None if there was no earlier round.
    """
    monitor, decisions = result.monitor, result.monitor.decisions()
    pairs = [
        _target(decision, start, settings.on_unsettled, settings.change_limit)
        for decision, start in zip(decisions, result.initial, strict=True)
    ]
    targets = _share(monitor.weights, [target for target, _ in pairs], settings.granularity)
    before = [None] * len(targets) if drawn is None else drawn
    return tuple(
        _row(result, index, decision, targets[index] or before[index], pairs[index][1])
        for index, decision in enumerate(decisions)
    )


def _target(
    decision: Decision, initial: float, on_unsettled: OnUnsettled, largest_change: float
) -> tuple[float | None, str]:
    """Variance of the redraw, or None to keep the present weights, and a note."""
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
    result: ProbeResult, index: int, decision: Decision, target: float | None, note: str
) -> LayerReport:
    weight, initial = result.monitor.weights[index], result.initial[index]
    mean, variance = result.means[index], decision.estimate
    known = 0 < variance < math.inf
    mean_share = mean**2 / variance if known else math.nan
    is_raw = result.monitor.moment == "raw"
    return LayerReport(
        name=weight.name,
        shape=weight.shape,
        fan_in=weight.fan_in,
        initial_variance=initial,
        variance=variance,
        drift_index=decision.drift_index,
        drift_lower=decision.lower,
        drift_upper=decision.upper,
        standard_error=decision.standard_error / variance if known else math.nan,
        verdict=decision.verdict,
        fired_at_step=result.monitor.fired_at_step(decision),
        projected=decision.projected,
        projected_lower=decision.projected_lower,
        projected_upper=decision.projected_upper,
        sigma0=math.sqrt(initial if target is None else target),
        action="kept" if target is None else "redrawn",
        note=_join(note, _mean_note(mean_share, is_raw)),
        mean_share=mean_share,
        kl_to_initial=_kl(variance - mean**2 if is_raw else variance, initial, mean),
        excess_kl=excess_kl_per_weight(initial, variance) if known and initial > 0 else math.nan,
        **result.monitor.layer_forces(index)._asdict(),
    )


def _kl(central: float, initial: float, mean: float) -> float:
    known = 0 < central < math.inf and 0 < initial < math.inf
    return kl_per_weight(central, initial, mean) if known else math.nan


def _mean_note(share: float, is_raw: bool) -> str:
    if not share > LARGEST_MEAN_SHARE:
        return ""
    counted = "is counted in V" if is_raw else "moment='raw' would count it"
    return f"the squared mean is {share:.0%} of V; {counted}"


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
