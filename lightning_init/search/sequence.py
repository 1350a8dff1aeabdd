"""The whole search for V: rounds of probes, the test of memory, the guard; then the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_init.inspection.weights import WeightInventory
from lightning_init.monitoring.run_series import VarianceHistory
from lightning_init.monitoring.variance_monitor import VarianceMonitor
from lightning_init.probe import ProbeRun
from lightning_init.reporting.records import (
    SHOWN_HISTOGRAMS,
    UNCHANGED_LOG_RATIO,
    GuardOutcome,
    LayerReport,
    WeightSample,
)
from lightning_init.reporting.report import InitReport
from lightning_init.search.failures import LayersNotSettled
from lightning_init.search.forgetting import (
    forgetting_sentence,
    probe_from_another_scale,
    with_forgetting,
)
from lightning_init.search.guard import guard_trial
from lightning_init.search.outcome import layer_reports
from lightning_init.search.probe_phase import ProbeResult, VarianceProbe
from lightning_init.search.redraw import BorrowedWeights, derived_seed
from lightning_init.search.sentences import (
    divergence_warning,
    guard_sentence,
    model_notes,
    stop_reason,
)
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.stationarity import Verdict
from lightning_init.user_line import warn_user

Rows = tuple[LayerReport, ...]

# A layer's variance changes by more than this factor only if the guard does not say worse. Its
# trials then take as many steps as the guard's example, and together no more than the probe.
UNGUARDED_FACTOR = 4.0
USUAL_GUARD_STEPS = 50
GUARD_TRIALS = 10


@dataclass(frozen=True)
class _Rounds:
    """The last of several rounds, and what the ones before it took."""

    result: ProbeResult
    rows: Rows
    count: int
    earlier_steps: int
    earlier_seconds: float
    first: ProbeResult


class SearchInterrupted(KeyboardInterrupt):
    """The user pressed Ctrl-C while a probe or trial ran; every weight is what it was.

    Args:
        report: What was known by then, or None before the first sample.
        pressed: The interrupt itself, which is Lightning's to handle.
    """

    def __init__(self, report: InitReport | None, pressed: KeyboardInterrupt) -> None:
        known = "is on `callback.report`" if report is not None else "is nothing yet"
        super().__init__(
            f"interrupted in a probe. Every weight is what it was; what is known {known}."
        )
        self.report = report
        self.pressed = pressed


def search(
    trainer: Trainer,
    module: LightningModule,
    inventory: WeightInventory,
    settings: OptimalVarianceSettings,
    seed: int,
) -> tuple[InitReport, ProbeRun]:
    """Find the variance of every layer; the module is as it was when this returns or raises.

    Returns:
        What was found, and how the first probe went: the one from the module's own weights.

    Raises:
        EndlessRun: If the budget is a share and the run plans no end.
        LayersNotSettled: If layers did not settle that had to.
        MisconfigurationException: If the probe failed.
        SearchInterrupted: If the user interrupted it.
    """
    probes: list[VarianceProbe] = []
    try:
        return _search(trainer, module, inventory, settings, seed, probes)
    except KeyboardInterrupt as interrupt:
        report: InitReport | None = None
        with suppress(Exception):  # what cannot be told must not take the interrupt's place
            report = _known_so_far(probes, inventory, settings)
        raise SearchInterrupted(report, interrupt) from None


def _known_so_far(
    probes: Sequence[VarianceProbe], inventory: WeightInventory, settings: OptimalVarianceSettings
) -> InitReport | None:
    """The report of a search that the user ended: no layer gets anything."""
    found = [result for probe in probes if (result := probe.so_far()) is not None]
    if not found:
        return None
    result, steps = found[-1], sum(one.run.steps for one in found)
    rows = _kept(layer_reports(result, settings, None, found[0].initial), note="")
    reason = "The user interrupted the probe; rows say what was known by then."
    report = _report(result, rows, inventory, settings, reason)
    return replace(
        report,
        converged=False,
        rounds=len(found),
        other_probe_steps=steps - result.run.steps,
        interrupted=True,
    )


def _search(
    trainer: Trainer,
    module: LightningModule,
    inventory: WeightInventory,
    settings: OptimalVarianceSettings,
    seed: int,
    probes: list[VarianceProbe],
) -> tuple[InitReport, ProbeRun]:
    with BorrowedWeights(module, inventory.weights, settings) as borrowed:
        rounds = _probe_in_rounds(trainer, module, borrowed, inventory, settings, seed, probes)
        first_run = rounds.first.run
        result, rows = rounds.result, rounds.rows
        reason = stop_reason(result, rows)
        if result.divergence:
            warn_user(divergence_warning(result))
        elif settings.on_unsettled == "raise" and not _settled(rows):
            open_row = next(row for row in rows if row.verdict is not Verdict.STATIONARY)
            raise LayersNotSettled(
                f"OptimalVarianceInit(on_unsettled='raise'): {reason} {open_row.name}:"
                f" {open_row.reason} on_unsettled='keep' trains on."
            )
        notes, other_steps = model_notes(trainer, result, settings), rounds.earlier_steps
        notes += (first_run.note,) if first_run.note else ()
        seconds = rounds.earlier_seconds + result.run.seconds
        if settings.forgetting and result.run.steps and not result.divergence:
            second = probe_from_another_scale(trainer, module, borrowed, settings, result)
            if second.divergence:
                notes += (f"The probe from another start diverged: {second.divergence}.",)
            else:
                rows = with_forgetting(rows, result, second, settings)
                notes += (forgetting_sentence(rows),)
            other_steps += second.run.steps
            seconds += second.run.seconds
        rows = trainer.strategy.broadcast(rows)
        guard: GuardOutcome | None = None
        guard_steps = _guard_steps(rows, result.budget, settings)
        if guard_steps > 1:
            variances = _variances(rows)
            guard = guard_trial(trainer, module, borrowed, variances, settings, guard_steps, seed)
            notes += (guard_sentence(guard),)
            rows = _kept(rows) if guard.worse else rows
            seconds += guard.seconds
        if guard is None or guard.pairs < 2:
            rows = _without_large_changes(rows)
    report = replace(
        _report(result, rows, inventory, settings, reason),
        wall_time=seconds,
        notes=notes,
        rounds=rounds.count,
        other_probe_steps=other_steps,
        guard=guard,
        losses=(rounds.first.losses[0], result.losses[1]),
        restart=first_run.replay.sentence,
    )
    return report, first_run


def _report(
    result: ProbeResult,
    rows: Rows,
    inventory: WeightInventory,
    settings: OptimalVarianceSettings,
    reason: str,
) -> InitReport:
    """The report of one probe."""
    monitor = result.monitor
    return InitReport(
        layers=rows,
        left_out=inventory.left_out,
        stop_reason=reason,
        probe_steps=result.run.steps,
        horizon_steps=round(monitor.horizon),
        sample_interval=monitor.interval,
        converged=_settled(rows),
        wall_time=result.run.seconds,
        history=monitor.history(result.initial) if result.run.steps else VarianceHistory(),
        settings=settings.pairs(),
        planned_steps=result.run.planned_steps,
        losses=result.losses,
        divergence=result.divergence,
        weight_samples=_weight_samples(monitor, rows),
    )


def _guard_steps(rows: Rows, budget: int, settings: OptimalVarianceSettings) -> int:
    """Optimizer steps of one guard trial; 0 for none."""
    if not any(row.action == "redrawn" for row in rows):
        return 0
    if settings.guard_steps or not any(map(_is_large, rows)):
        return settings.guard_steps
    return min(USUAL_GUARD_STEPS, budget // GUARD_TRIALS)


def _is_large(row: LayerReport) -> bool:
    """Whether a redraw changes the variance by more than a factor of four."""
    if row.action != "redrawn" or not row.initial_variance > 0:
        return False
    return abs(math.log(row.sigma0**2 / row.initial_variance)) > math.log(UNGUARDED_FACTOR)


def _without_large_changes(rows: Rows) -> Rows:
    """Keep what changes by more than a factor of four, where no guard has looked at it."""
    note = f"changes by more than a factor of {UNGUARDED_FACTOR:g}, and the guard could not compare"
    return tuple(_kept((row,), note)[0] if _is_large(row) else row for row in rows)


def _weight_samples(monitor: VarianceMonitor, rows: Rows) -> tuple[WeightSample, ...]:
    """Entries of the layers that drift most, before the probe and at its end."""
    entries = zip(rows, monitor.entries_before, monitor.entries_after, strict=False)
    samples = [
        (-abs(row.drift_index), WeightSample(row.name, row.sigma0, before.numpy(), after.numpy()))
        for row, before, after in entries
        if before.numel() and bool(torch.isfinite(after).all())
    ]
    samples.sort(key=lambda pair: pair[0] if pair[0] == pair[0] else 0.0)
    return tuple(sample for _, sample in samples[:SHOWN_HISTOGRAMS])


def _probe_in_rounds(
    trainer: Trainer,
    module: LightningModule,
    borrowed: BorrowedWeights,
    inventory: WeightInventory,
    settings: OptimalVarianceSettings,
    seed: int,
    probes: list[VarianceProbe],
) -> _Rounds:
    """Probe from the weights, then from those that the probe before asks for, and so on."""
    drawn: list[float | None] = [None] * len(inventory.weights)
    steps, seconds = 0, 0.0
    first: ProbeResult | None = None
    for count in range(1, settings.rounds + 1):
        name = "Probing weight variance" + (f" (round {count})" if settings.rounds > 1 else "")
        verifies = count == 1
        probe = VarianceProbe(trainer, inventory.weights, settings, None, name, verifies=verifies)
        probes.append(probe)
        result = probe.run(module)
        first = first or result
        if result.divergence:
            rows = _kept(layer_reports(result, settings, None, first.initial))
            break
        rows = layer_reports(result, settings, drawn, first.initial)
        if count == settings.rounds or _at_fixed_point(rows, result.initial):
            break
        steps, seconds = steps + result.run.steps, seconds + result.run.seconds
        drawn = _variances(rows)
        borrowed.draw(drawn, derived_seed(seed, f"round {count}"))
    assert first is not None
    return _Rounds(result, rows, count, steps, seconds, first)


def _at_fixed_point(rows: Rows, began: Sequence[float]) -> bool:
    """Whether another round would begin where this one began: |log(sigma0^2 / before)| < 0.05."""
    return all(
        abs(math.log(row.sigma0**2 / before)) < UNCHANGED_LOG_RATIO
        for row, before in zip(rows, began, strict=True)
        if row.action == "redrawn"
    )


def _variances(rows: Rows) -> list[float | None]:
    return [row.sigma0**2 if row.action == "redrawn" else None for row in rows]


def _kept(rows: Rows, note: str | None = None) -> Rows:
    """The rows with every layer left as it was before the first probe."""
    return tuple(
        replace(
            row,
            action="kept",
            sigma0=math.sqrt(row.initial_variance),
            note=row.note if note is None else note,
        )
        for row in rows
    )


def _settled(rows: Rows) -> bool:
    return all(row.verdict is Verdict.STATIONARY for row in rows)
