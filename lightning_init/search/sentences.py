"""What a probe has to say in words: why it stopped, what to keep in mind, what was warned of."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning.pytorch import Trainer

from lightning_init.probe import ProbeEnd
from lightning_init.probe.limits import SHARE_OF_MAX_TIME
from lightning_init.reporting.records import GuardOutcome, LayerReport
from lightning_init.reporting.report import InitReport
from lightning_init.search.outcome import LARGEST_MEAN_SHARE
from lightning_init.search.probe_phase import ProbeResult
from lightning_init.search.reasons import divergence_advice
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.stationarity import Ending, Verdict
from lightning_init.user_line import warn_user


def stop_reason(result: ProbeResult, rows: Sequence[LayerReport]) -> str:
    """Why the probe ended, as a full sentence, and how many steps that saved."""
    settled = sum(row.verdict is Verdict.STATIONARY for row in rows)
    layers = f"{settled} of {len(rows)} layers settled"
    horizon = f"a horizon of {round(result.monitor.horizon)} steps"
    saved = result.budget - result.run.steps
    steps = f"{result.run.steps} optimizer step{'s' if result.run.steps != 1 else ''}"
    if result.divergence:
        return f"The probe stopped after {steps}, because {result.divergence}."
    if not result.run.steps:
        return (
            f"The probe took no step, because none of its {result.budget} could change what a layer"
            f" gets ({_counted(result)})."
        )
    if result.run.end is ProbeEnd.STOPPED and settled == len(rows):
        return (
            f"The probe stopped after {steps}, because all {len(rows)} layers had settled over"
            f" {horizon}; this saved {saved} steps."
        )
    if result.run.end is ProbeEnd.STOPPED:
        return (
            f"The probe stopped after {steps}, because no further step could change what a layer"
            f" gets ({_counted(result)}); this saved {saved} steps."
        )
    if result.run.end is ProbeEnd.BUDGET:
        where = f"at its budget of {steps}"
    elif result.run.end is ProbeEnd.TIME_LIMIT:
        spent = f"{SHARE_OF_MAX_TIME:.0%} of Trainer(max_time=...) was spent"
        where = f"after {steps}, because {spent}"
    else:
        where = f"after {steps} at the run's own limit"
    return f"The probe stopped {where}, with {layers} over {horizon}."


def _counted(result: ProbeResult) -> str:
    counts = {one: sum(found is one for found in result.endings) for one in Ending}
    total = len(result.endings)
    return "; ".join(f"{n} of {total} layers: {one.value}" for one, n in counts.items() if n)


def model_notes(
    trainer: Trainer, result: ProbeResult, settings: OptimalVarianceSettings
) -> tuple[str, ...]:
    """What concerns every layer; nothing of a probe whose reason says it all."""
    if result.divergence or not result.run.steps:
        return ()
    notes = [_rate_note(result, settings)]
    kinds = {type(optimizer).__name__ for optimizer in trainer.optimizers}
    if kinds - {"SGD"}:
        named = ", ".join(sorted(kinds))
        notes.append(f"The rule is derived for SGD; with {named} it is a heuristic.")
    resets = result.monitor.resets
    if resets:
        notes.append(
            "The learning rate changed during the probe: verdicts rest on the samples after step"
            f" {resets[-1]}, where the series began again (restarts: {len(resets)})."
        )
    return (*notes, *_forgetting_note(result))


def _rate_note(result: ProbeResult, settings: OptimalVarianceSettings) -> str:
    rates, wanted = result.rates, settings.limits.learning_rate
    shown = _numbers(sorted(set(rates.rates)))
    climbed = result.budget - result.monitor.budget
    if rates.foreseen.is_held:
        how = f"where the module's own schedulers had come, because {rates.foreseen.unforeseen}"
    elif isinstance(wanted, (int, float)):
        how = "as `probe_lr` says"
    elif rates.foreseen.unforeseen:
        how = f"held from the start, because {rates.foreseen.unforeseen}"
    elif wanted == "schedule":
        how = "where the schedule had come"
    else:
        how = "the run's peak" + (f", reached after {climbed} steps" if climbed else "")
    note = f"V was measured at learning rate {shown}: {how}."
    looked = math.inf if rates.foreseen.is_held else rates.foreseen.looked_steps
    if looked < result.run.planned_steps < math.inf:
        note += f" The schedule was foreseen for {looked:.0f} steps only."
    return note


def _forgetting_note(result: ProbeResult) -> list[str]:
    shares = [result.rates.forgotten_share(i) for i in range(len(result.endings))]
    known = sorted({round(share, 3) for share in shares if math.isfinite(share)})
    if not known:
        return []
    shown = f"{known[0]:.1%}" + (f" to {known[-1]:.1%}" if len(known) > 1 else "")
    return [f"By the end of the planned run decay will have forgotten {shown} of the start's V."]


def guard_sentence(guard: GuardOutcome) -> str:
    """What the guard found and did, as a full sentence."""
    done = "the original weights were kept" if guard.worse else "the redraw was kept"
    if guard.pairs < 2:
        found = "a redraw's loss was not finite" if guard.worse else "no loss could be compared"
        return f"Guard, {guard.steps} optimizer steps: {found}, so {done}."
    return (
        f"Guard, {guard.pairs} paired trials, {guard.steps} optimizer steps: training loss of the"
        f" redraw minus the original's {guard.difference:+.3g} [{guard.lower:+.3g},"
        f" {guard.upper:+.3g}], each limit at confidence {guard.confidence:g}, so {done}."
    )


def divergence_warning(result: ProbeResult) -> str:
    """One line for a probe that says nothing."""
    return (
        f"OptimalVarianceInit: {result.divergence}, so the probe says nothing and no weight was"
        f" changed. {divergence_advice(result)}"
    )


def difference_of_batches(batch: int, trainer: Trainer) -> str:
    """That the real run drew another batch than the probe, and what may be behind it."""
    rank = f" of rank {trainer.global_rank}" if trainer.world_size > 1 else ""
    # Before the first batch no step was taken, so that the new weights cannot be behind it.
    model = "" if batch == 1 else "; or the model's random draws depend on its weights: no error"
    return (
        f"OptimalVarianceInit: batch {batch}{rank} of the run holds other data than in the probe,"
        " though everything was put back: the sanity check, another callback or the data's own"
        f" state drew or changed something in between{model}. Where nothing but the probe can have"
        " done that, pass `isolate_dataset=True` or `probe_dataloaders=`."
    )


def warn_of_outcome(report: InitReport, settings: OptimalVarianceSettings) -> None:
    """Warn of layers whose variance had not settled, and of those whose mean is not small."""
    if not report.total_steps:
        warn_user(
            f"OptimalVarianceInit: no probe. {report.layers[0].reason} The weights are what they"
            " were and the training goes on."
        )
        return
    if unsettled := report.unsettled:
        warn_user(
            f"OptimalVarianceInit: {len(unsettled)} of {len(report.layers)} layers had not"
            f" settled after {report.probe_steps} probe steps"
            f" ({_shown([row.name for row in unsettled])});"
            f" on_unsettled={settings.on_unsettled!r} decides what they get."
            f" {unsettled[0].name}: {unsettled[0].reason}"
        )
    off_centre = [row.name for row in report.layers if row.mean_share > LARGEST_MEAN_SHARE]
    if off_centre and settings.moment == "central":
        warn_user(
            f"OptimalVarianceInit: the squared mean is above {LARGEST_MEAN_SHARE:.0%} of V in"
            f" {len(off_centre)} of {len(report.layers)} layers ({_shown(off_centre)}); the bound"
            " is stated for the moment about 0: consider moment='raw'."
        )


def _numbers(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "".join(f"{value:.3g}" for value in values) or "unknown"
    return f"{values[0]:.3g} to {values[-1]:.3g}"


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
