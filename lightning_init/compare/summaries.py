"""Every scheme by itself: what its runs reached, and what they cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from lightning_init.compare.quantities import Quantity, Runs
from lightning_init.compare.records import DIVERGED, FAILED, FINISHED


@dataclass(frozen=True)
class SummaryRow:
    """One scheme by itself; mean and standard error are over the runs that finished.

    The median is over all runs, those that did not finish being worse than any number. For the
    steps to a level, a mean is given only if every run reached it.
    """

    metric: str
    quantity: str
    budget: str
    scheme: str
    runs: int
    finished: int
    diverged: int
    failed: int
    mean: float
    standard_error: float
    median: float


@dataclass(frozen=True)
class CostRow:
    """Steps and wall time of one scheme's runs: means over the runs, and the probe's share.

    The steps of a pilot are shared by all runs of the scheme: they stand undivided and divided.
    """

    scheme: str
    budget: str
    runs: int
    steps: float
    probe_steps: float
    probe_share_of_steps: float
    seconds: float
    probe_seconds: float
    probe_share_of_seconds: float
    pilot_steps: int
    pilot_steps_per_run: float


def summary_rows(runs: Runs, quantities: Sequence[Quantity], equal_first: bool) -> list[SummaryRow]:
    """Summarize every scheme under every budget that it has runs of."""
    return [
        _summarize(runs, quantity, budget, scheme)
        for quantity in quantities
        for scheme in runs.schemes
        for budget in runs.budgets(scheme, equal_first=equal_first)
    ]


def cost_rows(runs: Runs) -> list[CostRow]:
    """Average what the runs of every scheme cost; wall times differ from one machine to another."""
    rows = []
    for scheme in runs.schemes:
        for budget in runs.budgets(scheme):
            records = runs.of(scheme, budget)
            steps = fmean(r.steps for r in records)
            probe_steps = fmean(r.probe_steps for r in records)
            seconds = fmean(r.seconds for r in records)
            probe_seconds = fmean(r.probe_seconds for r in records)
            rows.append(
                CostRow(
                    scheme,
                    budget,
                    len(records),
                    steps,
                    probe_steps,
                    _share(probe_steps, steps + probe_steps),
                    seconds,
                    probe_seconds,
                    _share(probe_seconds, seconds),
                    records[0].pilot_steps,
                    records[0].pilot_steps / len(records),
                )
            )
    return rows


def _summarize(runs: Runs, quantity: Quantity, budget: str, scheme: str) -> SummaryRow:
    records = runs.of(scheme, budget)
    values = runs.values(scheme, budget, quantity)
    finite = [value for value in values.values() if math.isfinite(value)]
    if quantity.level is not None and len(finite) < len(values):
        finite = []
    count = Counter(record.status for record in records)
    return SummaryRow(
        metric=quantity.metric,
        quantity=quantity.name,
        budget=budget,
        scheme=scheme,
        runs=len(records),
        finished=count[FINISHED],
        diverged=count[DIVERGED],
        failed=count[FAILED],
        mean=fmean(finite) if finite else math.nan,
        standard_error=stdev(finite) / math.sqrt(len(finite)) if len(finite) > 1 else math.nan,
        median=median(values.values()) if values else math.nan,
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
