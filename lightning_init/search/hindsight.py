"""The real run is over: were the verdicts and projections of its probe right?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lightning_init.reporting.records import LayerReport
from lightning_init.stationarity import Verdict
from lightning_init.stationarity.run_verdict import RunVerdict, was_right


def in_hindsight(
    rows: Sequence[LayerReport], variances: Mapping[str, float], tolerance: float
) -> tuple[LayerReport, ...]:
    """Add to each row V at the end of the real run, and whether the probe had foreseen it.

    Args:
        rows: What the probe found.
        variances: V at the end of the real run by layer name; a layer that is missing stays as is.
        tolerance: Of the probe's verdicts.
    """
    return tuple(
        _scored(row, variances[row.name], tolerance) if row.name in variances else row
        for row in rows
    )


def _scored(row: LayerReport, variance: float, tolerance: float) -> LayerReport:
    ends = row.projected_lower, row.projected_upper
    known = math.isfinite(variance) and not any(map(math.isnan, ends))
    return replace(
        row,
        run_variance=variance,
        projection_held=ends[0] <= variance <= ends[1] if known else None,
        verdict_held=was_right(row.verdict, row.variance, variance, tolerance),
    )


def score_sentence(rows: Sequence[LayerReport]) -> str:
    """How often the probe was right, in one sentence; empty if nothing could be scored.

    The counts are those of `LayerReport.verdict_held` and `LayerReport.projection_held`.
    """
    parts = [
        _count(rows, Verdict.STATIONARY, "stayed"),
        _count(rows, Verdict.DRIFTING, "moved on"),
    ]
    held = [row.projection_held for row in rows if row.projection_held is not None]
    if held:
        parts.append(f"the projection's interval held {sum(held)} of {len(held)}")
    said = [part for part in parts if part]
    return f"The probe in hindsight: {', '.join(said)}." if said else ""


def ending_sentence(verdicts: Mapping[str, RunVerdict]) -> str:
    """How a run ended, for the middle of a sentence: what stood still and what moved most.

    Args:
        verdicts: On each layer, from the last half of the run.
    """
    still = sum(found.verdict is Verdict.STATIONARY for found in verdicts.values())
    ended = f"ended, {still} of {len(verdicts)} layers stationary over its last half"
    moves = {
        layer: found.change
        for layer, found in verdicts.items()
        if found.verdict is not Verdict.STATIONARY and -1 < found.change < math.inf
    }
    if not moves:
        return ended
    most = max(moves, key=lambda layer: abs(math.log1p(moves[layer])))
    return f"{ended}, {most!r} moving most ({moves[most]:+.0%})"


def _count(rows: Sequence[LayerReport], verdict: Verdict, did: str) -> str:
    right = [r.verdict_held for r in rows if r.verdict is verdict and r.verdict_held is not None]
    return f"{sum(right)} of {len(right)} `{verdict.value}` layers {did}" if right else ""
