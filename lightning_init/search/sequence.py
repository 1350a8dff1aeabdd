"""The whole search for V: rounds of probes, the test of memory, the guard; then the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from lightning_init.inspection.weights import WeightInventory
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
    original_variances: tuple[float, ...]
    count: int
    earlier_steps: int
    earlier_seconds: float
    first_run: ProbeRun


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
    """
    with BorrowedWeights(module, inventory.weights, settings) as borrowed:
        rounds = _probe_in_rounds(trainer, module, borrowed, inventory, settings, seed)
        result, rows = rounds.result, rounds.rows
        reason = stop_reason(result, rows)
        if result.divergence:
            rank_zero_warn(divergence_warning(result))
        elif settings.on_unsettled == "raise" and not _settled(rows):
            open_row = next(row for row in rows if row.verdict is not Verdict.STATIONARY)
            raise LayersNotSettled(
                f"OptimalVarianceInit(on_unsettled='raise'): {reason} {open_row.name}:"
                f" {open_row.reason} on_unsettled='keep' trains on."
            )
        notes, other_steps = model_notes(trainer, result, settings), rounds.earlier_steps
        notes += (rounds.first_run.note,) if rounds.first_run.note else ()
        seconds = rounds.earlier_seconds + result.run.seconds
        if settings.forgetting and not result.divergence:
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
        guard_steps = _guard_steps(rows, rounds.original_variances, result.budget, settings)
        if guard_steps > 1:
            variances = _variances(rows)
            guard = guard_trial(trainer, module, borrowed, variances, settings, guard_steps, seed)
            notes += (guard_sentence(guard),)
            rows = _kept(rows, rounds.original_variances) if guard.worse else rows
            seconds += guard.seconds
        if guard is None or guard.pairs < 2:
            rows = _without_large_changes(rows, rounds.original_variances)
    monitor = result.monitor
    report = InitReport(
        layers=rows,
        left_out=inventory.left_out,
        stop_reason=reason,
        probe_steps=result.run.steps,
        horizon_steps=round(monitor.horizon),
        sample_interval=monitor.interval,
        converged=_settled(rows),
        wall_time=seconds,
        history=monitor.history(result.initial),
        settings=settings.pairs(),
        notes=notes,
        rounds=rounds.count,
        other_probe_steps=other_steps,
        guard=guard,
        planned_steps=result.run.planned_steps,
        losses=result.losses,
        divergence=result.divergence,
        weight_samples=_weight_samples(monitor, rows),
        restart=rounds.first_run.replay.sentence,
    )
    return report, rounds.first_run


def _guard_steps(
    rows: Rows, originals: Sequence[float], budget: int, settings: OptimalVarianceSettings
) -> int:
    """Optimizer steps of one guard trial; 0 for none."""
    if not any(row.action == "redrawn" for row in rows):
        return 0
    if settings.guard_steps or not any(map(_is_large, rows, originals)):
        return settings.guard_steps
    return min(USUAL_GUARD_STEPS, budget // GUARD_TRIALS)


def _is_large(row: LayerReport, original: float) -> bool:
    """Whether a redraw changes the variance by more than a factor of four."""
    if row.action != "redrawn" or not original > 0:
        return False
    return abs(math.log(row.sigma0**2 / original)) > math.log(UNGUARDED_FACTOR)


def _without_large_changes(rows: Rows, originals: Sequence[float]) -> Rows:
    """Keep what changes by more than a factor of four, where no guard has looked at it."""
    note = f"changes by more than a factor of {UNGUARDED_FACTOR:g}, and the guard could not compare"
    return tuple(
        replace(row, action="kept", sigma0=math.sqrt(original), note=note)
        if _is_large(row, original)
        else row
        for row, original in zip(rows, originals, strict=True)
    )


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
) -> _Rounds:
    """Probe from the weights, then from those that the probe before asks for, and so on."""
    drawn: list[float | None] = [None] * len(inventory.weights)
    originals: tuple[float, ...] = ()
    steps, seconds = 0, 0.0
    first_run: ProbeRun | None = None
    for count in range(1, settings.rounds + 1):
        name = "Probing weight variance" + (f" (round {count})" if settings.rounds > 1 else "")
        first = count == 1
        probe = VarianceProbe(trainer, inventory.weights, settings, None, name, verifies=first)
        result = probe.run(module)
        first_run = first_run or result.run
        originals = originals or result.initial
        if result.divergence:
            rows = _kept(layer_reports(result, settings), originals)
            break
        rows = layer_reports(result, settings, drawn)
        if count == settings.rounds or _at_fixed_point(rows):
            break
        steps, seconds = steps + result.run.steps, seconds + result.run.seconds
        drawn = _variances(rows)
        borrowed.draw(drawn, derived_seed(seed, f"round {count}"))
    assert first_run is not None
    return _Rounds(result, rows, originals, count, steps, seconds, first_run)


def _at_fixed_point(rows: Rows) -> bool:
    """Whether another round would begin where this one began: |log(sigma0^2 / before)| < 0.05."""
    return all(
        row.action != "redrawn"
        or abs(math.log(row.sigma0**2 / row.initial_variance)) < UNCHANGED_LOG_RATIO
        for row in rows
    )


def _variances(rows: Rows) -> list[float | None]:
    return [row.sigma0**2 if row.action == "redrawn" else None for row in rows]


def _kept(rows: Rows, variances: Sequence[float]) -> Rows:
    return tuple(
        replace(row, action="kept", sigma0=math.sqrt(variance))
        for row, variance in zip(rows, variances, strict=True)
    )


def _settled(rows: Rows) -> bool:
    return all(row.verdict is Verdict.STATIONARY for row in rows)
