"""What a probe has to say in words: why it stopped, what to keep in mind, what was warned of."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_init.probe import ProbeEnd
from lightning_init.probe.limits import SHARE_OF_MAX_TIME
from lightning_init.probe.observer import learning_rates
from lightning_init.reporting.records import GuardOutcome, LayerReport
from lightning_init.reporting.report import InitReport
from lightning_init.search.outcome import LARGEST_MEAN_SHARE
from lightning_init.search.probe_phase import ProbeResult
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.stationarity import Verdict


def stop_reason(result: ProbeResult, rows: Sequence[LayerReport]) -> str:
    """Why the probe ended, as a full sentence."""
    settled = sum(row.verdict is Verdict.STATIONARY for row in rows)
    layers = f"{settled} of {len(rows)} layers settled"
    horizon = f"a horizon of {round(result.monitor.horizon)} steps"
    steps = result.run.steps
    if result.run.end is ProbeEnd.SETTLED:
        return (
            f"The probe stopped after {steps} optimizer steps, because all {len(rows)} layers had"
            f" settled over {horizon}."
        )
    if result.run.end is ProbeEnd.BUDGET:
        return (
            f"The probe stopped at its budget of {steps} optimizer steps, with {layers} over"
            f" {horizon}."
        )
    if result.run.end is ProbeEnd.TIME_LIMIT:
        return (
            f"The probe stopped after {steps} optimizer steps, because {SHARE_OF_MAX_TIME:.0%} of"
            f" Trainer(max_time=...) was spent, with {layers} over {horizon}."
        )
    return (
        f"The probe stopped after {steps} optimizer steps at the run's own limit, with {layers}"
        f" over {horizon}."
    )


def model_notes(trainer: Trainer, result: ProbeResult) -> tuple[str, ...]:
    """What concerns every layer."""
    notes = []
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
    return tuple(notes)


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


def difference_of_batches(batch: int, trainer: Trainer) -> str:
    """That the real run drew another batch than the probe, and what may be behind it."""
    rank = f" of rank {trainer.global_rank}" if trainer.world_size > 1 else ""
    return (
        f"OptimalVarianceInit: batch {batch}{rank} of the run holds other data than in the probe,"
        " though everything was put back: the sanity check, another callback or the data's own"
        " state drew or changed something in between. Where nothing but the probe can have done"
        " that, pass `isolate_dataset=True` or `probe_dataloaders=`."
    )


def warn_of_zero_learning_rate(trainer: Trainer) -> None:
    """Warn before a probe that cannot move."""
    if any(rate == 0 for rate in learning_rates(trainer)):
        rank_zero_warn(
            "OptimalVarianceInit: the schedule starts at learning rate 0, at which the probe"
            " cannot move; set `probe_lr` or `keep_schedule=True`."
        )


def warn_of_outcome(report: InitReport, settings: OptimalVarianceSettings) -> None:
    """Warn of layers whose variance had not settled, and of those whose mean is not small."""
    unsettled = [row.name for row in report.layers if row.verdict is not Verdict.STATIONARY]
    if unsettled:
        rank_zero_warn(
            f"OptimalVarianceInit: {len(unsettled)} of {len(report.layers)} layers had not"
            f" settled after {report.probe_steps} probe steps ({_shown(unsettled)});"
            f" on_unsettled={settings.on_unsettled!r} decides what they get. Raise"
            " `max_probe_steps` to probe for longer."
        )
    off_centre = [row.name for row in report.layers if row.mean_share > LARGEST_MEAN_SHARE]
    if off_centre and settings.moment == "central":
        rank_zero_warn(
            f"OptimalVarianceInit: the squared mean is above {LARGEST_MEAN_SHARE:.0%} of V in"
            f" {len(off_centre)} of {len(report.layers)} layers ({_shown(off_centre)}); the bound"
            " is stated for the moment about 0: consider moment='raw'."
        )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
