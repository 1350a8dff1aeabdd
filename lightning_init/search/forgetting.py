"""A second probe from another scale: does V depend on where it started?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from lightning.pytorch import LightningModule, Trainer

from lightning_init.reporting.records import LayerReport
from lightning_init.search.probe_phase import ProbeResult, VarianceProbe
from lightning_init.search.redraw import BorrowedWeights
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.stationarity import Decision, ForgettingVerdict, ProbeEnd, compare_starts

# The second start has a quarter of the variance: a larger start could diverge at the run's
# learning rate, a smaller one cannot.
SCALE_OF_SECOND_START = 0.5


def probe_from_another_scale(
    trainer: Trainer,
    module: LightningModule,
    borrowed: BorrowedWeights,
    settings: OptimalVarianceSettings,
    first: ProbeResult,
) -> ProbeResult:
    """Probe again, for exactly as long and on the same batches, from halved weights.

    Equal length matters: V(n; start) = start e + V_inf (1 - e) with an e that depends on n.
    """
    borrowed.scale(SCALE_OF_SECOND_START)
    weights = first.monitor.weights
    probe = VarianceProbe(trainer, weights, settings, first.run.steps, "Probing from another start")
    return probe.run(module)


def with_forgetting(
    rows: Sequence[LayerReport],
    first: ProbeResult,
    second: ProbeResult,
    settings: OptimalVarianceSettings,
) -> tuple[LayerReport, ...]:
    """Add to each row what the two probes say about the memory of the start."""
    ends = zip(
        rows,
        first.initial,
        first.monitor.decisions(),
        second.initial,
        second.monitor.decisions(),
        strict=True,
    )
    return tuple(
        _with_forgetting(row, _end(start, decision), _end(other, other_decision), settings)
        for row, start, decision, other, other_decision in ends
    )


def _end(start: float, decision: Decision) -> ProbeEnd:
    return ProbeEnd(start, decision.estimate, decision.standard_error)


def _with_forgetting(
    row: LayerReport, first: ProbeEnd, second: ProbeEnd, settings: OptimalVarianceSettings
) -> LayerReport:
    found = compare_starts(first, second, settings.detector.tolerance, settings.detector.confidence)
    note = row.note
    if found.verdict is ForgettingVerdict.REMEMBERS:
        clause = (
            f"remembers {found.surviving_share:.0%} of its start: V is mostly what it was given"
        )
        if found.surviving_share < 0.5:
            clause = f"remembers {found.surviving_share:.0%} of its start"
        note = f"{note}; {clause}" if note else clause
    return replace(
        row,
        note=note,
        forgetting=found.verdict,
        surviving_share=found.surviving_share,
        implied_variance=found.fixed_point,
    )


def forgetting_sentence(rows: Sequence[LayerReport]) -> str:
    """How many layers forget, for the notes of the report."""
    counts = {v: sum(row.forgetting is v for row in rows) for v in ForgettingVerdict}
    shares = [row.surviving_share for row in rows if math.isfinite(row.surviving_share)]
    largest = f", largest surviving share {max(shares, key=abs):.2f}" if shares else ""
    return (
        f"Two probes from starts a factor of {SCALE_OF_SECOND_START**-2:g} in variance apart:"
        f" {counts[ForgettingVerdict.FORGOTTEN]} layers have forgotten their start,"
        f" {counts[ForgettingVerdict.REMEMBERS]} remember it,"
        f" {counts[ForgettingVerdict.INCONCLUSIVE]} inconclusive{largest}."
    )
