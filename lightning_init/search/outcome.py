"""From verdicts to the scale of each layer's redraw, as rows of the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from lightning_init.inspection.weights import Weight
from lightning_init.reporting.records import UNCHANGED_LOG_RATIO, LayerReport
from lightning_init.search.probe_phase import ProbeResult
from lightning_init.search.reasons import verdict_reason
from lightning_init.search.settings import Granularity, OnUnsettled, OptimalVarianceSettings
from lightning_init.stationarity import Decision, Ending, Verdict
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
    originals: Sequence[float] | None = None,
) -> tuple[LayerReport, ...]:
    """Decide what each layer gets: sigma0^2 = V (Horii & Has, arXiv 2508.12834).

    Args:
        result: The probe's samples and verdicts.
        settings: What to do with them.
        drawn: Variance that each layer was drawn with in an earlier round, None for a layer that
            still has its own first weights; None if there was no earlier round.
        originals: Variance of each layer before the first round: what its row compares with; None
            for that of this probe.
    """
    monitor = result.monitor
    decisions = [
        _judged(decision, result, index, settings.detector.tolerance)
        for index, decision in enumerate(monitor.decisions())
    ]
    pairs = [
        _target(decision, found, settings.on_unsettled)
        for decision, found in zip(decisions, result.endings, strict=True)
    ]
    targets = _share(monitor.weights, [target for target, _ in pairs], settings.granularity)
    before = [None] * len(targets) if drawn is None else drawn
    return tuple(
        _row(
            result,
            index,
            decision,
            targets[index] or before[index],
            pairs[index][1],
            settings,
            result.initial[index] if originals is None else originals[index],
            owned=before[index] is None,
        )
        for index, decision in enumerate(decisions)
    )


def _judged(decision: Decision, result: ProbeResult, index: int, tolerance: float) -> Decision:
    """The verdict on a layer: not of a probe that diverged, nor below the run's peak rate."""
    if result.divergence:
        return replace(decision, verdict=Verdict.INVALID)
    stationary = decision.verdict is Verdict.STATIONARY
    if stationary and result.rates.is_below_peak(index, tolerance):
        return replace(decision, verdict=Verdict.INCONCLUSIVE)
    return decision


def _target(
    decision: Decision, found: Ending | None, on_unsettled: OnUnsettled
) -> tuple[float | None, str]:
    """Variance of the redraw, or None to keep the present weights, and a note."""
    variance = decision.estimate
    if decision.verdict is Verdict.INVALID:
        return None, ""
    if not (math.isfinite(variance) and variance > 0):
        return None, "no usable variance: initial weights kept"
    if decision.verdict is Verdict.STATIONARY or found is Ending.UNCHANGED:
        return variance, ""
    if on_unsettled == "project":
        return _projected(decision)
    if on_unsettled == "use":
        return variance, ""
    return None, "not settled: initial weights kept"


def _projected(decision: Decision) -> tuple[float | None, str]:
    low, high = decision.projected_lower, decision.projected_upper
    if not (low > 0 and high / low < WIDEST_PROJECTION):
        return None, "projection too wide: initial weights kept"
    return decision.projected, "projected to the end of the horizon"


def _share(
    weights: Sequence[Weight], targets: Sequence[float | None], granularity: Granularity
) -> list[float | None]:
    if granularity == "layer":
        return list(targets)
    # Without a fan-in there is no He variance to share a gain over.
    shares = [w.knows_fan_in or granularity != "gain" for w in weights]
    taken = [
        (weight, target)
        for weight, target, share in zip(weights, targets, shares, strict=True)
        if target is not None and share
    ]
    if not taken:
        return list(targets)
    states = [
        SteadyState(math.prod(weight.shape), variance, base_variance=2.0 / max(1, weight.fan_in))
        for weight, variance in taken
    ]
    optimum = iter(optimal_initial_variances(states, granularity))
    return [
        target if target is None or not share else next(optimum)
        for target, share in zip(targets, shares, strict=True)
    ]


def _action(target: float | None, initial: float, found: Ending | None) -> str:
    """What happens to a layer: weights that would be drawn at their own scale stay as they are."""
    if target is None:
        return "kept"
    if found is Ending.UNCHANGED:
        return "unchanged"
    is_near = initial > 0 and abs(math.log(target / initial)) < UNCHANGED_LOG_RATIO
    return "unchanged" if is_near else "redrawn"


def _row(
    result: ProbeResult,
    index: int,
    decision: Decision,
    target: float | None,
    note: str,
    settings: OptimalVarianceSettings,
    initial: float,
    owned: bool,
) -> LayerReport:
    weight = result.monitor.weights[index]
    mean, variance = result.means[index], decision.estimate
    known = 0 < variance < math.inf
    mean_share = mean**2 / variance if known and not result.divergence else math.nan
    is_raw = result.monitor.moment == "raw"
    # Where the probe began from another round's draw, that this is unchanged says nothing.
    action = _action(target, initial, result.endings[index] if owned else None)
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
        sigma0=math.sqrt(target if action == "redrawn" and target else initial),
        action=action,
        note=_join(note, _gain_note(weight, settings), _mean_note(mean_share, is_raw)),
        mean_share=mean_share,
        kl_to_initial=_kl(variance - mean**2 if is_raw else variance, initial, mean),
        excess_kl=excess_kl_per_weight(initial, variance) if known and initial > 0 else math.nan,
        reason=verdict_reason(result, index, decision, settings),
        learning_rate=result.rates.rate(index) if result.run.steps else math.nan,
        peak_learning_rate=result.rates.peak(index),
        forgotten_share=result.rates.forgotten_share(index),
        **result.monitor.layer_forces(index),
    )


def _kl(central: float, initial: float, mean: float) -> float:
    known = 0 < central < math.inf and 0 < initial < math.inf
    return kl_per_weight(central, initial, mean) if known else math.nan


def _gain_note(weight: Weight, settings: OptimalVarianceSettings) -> str:
    is_served = settings.granularity != "gain" or weight.knows_fan_in
    return "" if is_served else "no fan-in: a variance of its own, not the gain"


def _mean_note(share: float, is_raw: bool) -> str:
    if not share > LARGEST_MEAN_SHARE:
        return ""
    counted = "is counted in V" if is_raw else "moment='raw' would count it"
    return f"the squared mean is {share:.0%} of V; {counted}"


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
