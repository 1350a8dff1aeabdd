"""Why a layer has its verdict, and what can be done about it in this run."""

from __future__ import annotations

import math

from lightning_init.probe import ProbeEnd
from lightning_init.search.probe_phase import ProbeResult
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.stationarity import (
    LARGEST_FACTOR,
    Decision,
    Ending,
    Verdict,
    fewest_samples,
)


def verdict_reason(
    result: ProbeResult, index: int, decision: Decision, settings: OptimalVarianceSettings
) -> str:
    """One sentence on the verdict and one on the next step; empty for `stationary`."""
    if decision.verdict is Verdict.STATIONARY:
        return ""
    if result.divergence:
        return f"The probe diverged: {result.divergence}. {divergence_advice(result)}"
    needed = needed_steps(result, settings)
    if not result.run.steps:
        found = (
            f"A probe of {result.budget} steps is too short for a verdict, which takes {needed}."
        )
        return f"{found} {_long_enough(result, needed, settings)}"
    if decision.verdict is Verdict.INVALID:
        return "V was zero, negative or not finite. Look for a layer whose weights collapsed."
    if result.rates.is_below_peak(index, settings.detector.tolerance):
        now, peak = result.rates.rate(index), result.rates.peak(index)
        found = f"V was measured at learning rate {now:.3g}, below"
        if result.rates.foreseen.is_held:
            longer = _longer(result, 2 * result.budget)
            return f"{found} {peak:.3g}, which its schedulers can reach. {longer}"
        return f"{found} the run's peak {peak:.3g}. Leave `probe_lr` at 'peak'."
    if result.endings[index] is Ending.UNCHANGED:
        return (
            "V and its projection stay within the tolerance of the variance that the weights have."
            " Nothing needs to be done."
        )
    if result.endings[index] is Ending.STAYS:
        return (
            "V stays so near the variance that the weights have that they would be kept whatever"
            f" the verdict. {_longer(result, 2 * result.budget)}"
        )
    will_not_settle = result.endings[index] is Ending.WILL_NOT_SETTLE
    if will_not_settle and decision.verdict is Verdict.INCONCLUSIVE:
        return (
            f"V moves so that it would not settle within the probe's {result.budget} steps."
            f" {_longer(result, 2 * result.budget)}"
        )
    if decision.samples < settings.detector.minimum_samples or needed > result.budget:
        counted = f"{decision.samples} samples are" if decision.samples != 1 else "1 sample is"
        found = f"{counted} too few: the earliest verdict comes after {needed} steps."
        return f"{found} {_long_enough(result, needed, settings)}"
    if decision.verdict is Verdict.DRIFTING:
        found = f"At its present rate log V would move by {decision.drift_index:.2g}"
        return (
            f"{found} over the horizon, and its projection confirms that it moves."
            f" {_longer(result, 2 * result.budget)}"
        )
    return (
        "The samples do not tell whether V has settled, or will without moving much."
        f" {_longer(result, 2 * result.budget)}"
    )


def needed_steps(result: ProbeResult, settings: OptimalVarianceSettings) -> int:
    """Steps of the shortest probe in which a layer can be stationary."""
    steps, least = 0, 1
    while steps < least:  # a longer one climbs for longer and looks less often
        steps = least
        climb = result.rates.climb_steps(settings.limits.learning_rate, steps)
        begun = max([climb, *result.monitor.resets[-1:]])
        interval = settings.interval(max(1, steps - climb))
        fewest = fewest_samples(settings.detector, (steps - begun) / interval)
        least = begun + fewest * interval
    return steps


def divergence_advice(result: ProbeResult) -> str:
    """What to do about a probe that diverged."""
    rates = [rate for rate in result.rates.rates if math.isfinite(rate)]
    at = f" It trained at learning rate {max(rates):.3g}." if rates else ""
    latest = zip(result.monitor.latest, result.initial, strict=False)
    if any(0 < value < start / LARGEST_FACTOR for value, start in latest):
        return f"Weight decay leaves nothing of a layer: lower it, or `exclude=` the layer.{at}"
    return f"Lower the learning rate, or set `probe_lr`.{at}"


def _long_enough(result: ProbeResult, needed: int, settings: OptimalVarianceSettings) -> str:
    """A probe, or a run, in which a verdict is possible."""
    share, planned = settings.limits.max_steps, result.run.planned_steps
    run = math.ceil(needed / share) if isinstance(share, float) else needed
    if needed > planned:
        return (
            f"No probe of a run of {round(planned)} steps can tell, one of {run} may; its variances"
            " can be drawn here, with `recipe=`."
        )
    if result.run.end is ProbeEnd.RUN_LIMIT:
        return _longer(result, needed)
    longer = f", or a run of {run} steps" if run > needed else ""
    return f"`max_probe_steps={needed}` may tell{longer}."


def _longer(result: ProbeResult, steps: int) -> str:
    """A longer probe where the run has room for it, else a wider tolerance."""
    planned = result.run.planned_steps
    at_limit = result.run.end is ProbeEnd.RUN_LIMIT or result.budget >= planned
    if at_limit or steps > planned:
        return "A larger `tolerance` or a shorter `horizon` may settle it in so short a run."
    return f"`max_probe_steps={steps}` may tell."
