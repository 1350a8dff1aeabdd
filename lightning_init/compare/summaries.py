"""Every scheme by itself: what its runs reached, and what they cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from lightning_init.compare.quantities import Quantity, Runs
from lightning_init.compare.records import DIVERGED, FAILED, FINISHED
from lightning_init.compare.statistics import median


def summary_rows(runs: Runs, quantities: Sequence[Quantity]) -> list[dict[str, Any]]:
    """Summarize every scheme under every budget that it has runs of.

    Mean and standard error are over the runs that finished. The median is over all runs, those that
    did not finish being worse than any number. For the steps to a level, a mean is given only if
    every run reached it.
    """
    return [
        _summarize(runs, quantity, budget, scheme)
        for quantity in quantities
        for scheme in runs.schemes
        for budget in runs.budgets(scheme)
    ]


def cost_rows(runs: Runs) -> list[dict[str, Any]]:
    """Average the steps and wall times of every scheme's runs, and give the probe's share.

    The steps of a pilot, which all runs of a scheme share, stand undivided and divided.
    """
    return [
        _cost(runs, scheme, budget) for scheme in runs.schemes for budget in runs.budgets(scheme)
    ]


def _summarize(runs: Runs, quantity: Quantity, budget: str, scheme: str) -> dict[str, Any]:
    records = runs.of(scheme, budget)
    values = runs.values(scheme, budget, quantity)
    finite = [value for value in values.values() if math.isfinite(value)]
    if quantity.level is not None and len(finite) < len(values):
        finite = []
    count = Counter(record.status for record in records)
    return {
        "metric": quantity.metric,
        "quantity": quantity.name,
        "budget": budget,
        "scheme": scheme,
        "runs": len(records),
        "finished": count[FINISHED],
        "diverged": count[DIVERGED],
        "failed": count[FAILED],
        "mean": fmean(finite) if finite else math.nan,
        "standard_error": stdev(finite) / len(finite) ** 0.5 if len(finite) > 1 else math.nan,
        "median": median(values.values()),
    }


def _cost(runs: Runs, scheme: str, budget: str) -> dict[str, Any]:
    records = runs.of(scheme, budget)
    steps, probe_steps, seconds, probe_seconds = (
        fmean(getattr(record, name) for record in records)
        for name in ("steps", "probe_steps", "seconds", "probe_seconds")
    )
    return {
        "scheme": scheme,
        "budget": budget,
        "runs": len(records),
        "steps": steps,
        "probe_steps": probe_steps,
        "probe_share_of_steps": probe_steps / ((steps + probe_steps) or 1.0),
        "seconds": seconds,
        "probe_seconds": probe_seconds,
        "probe_share_of_seconds": probe_seconds / (seconds or 1.0),
        "pilot_steps": records[0].pilot_steps,
        "pilot_steps_per_run": records[0].pilot_steps / len(records),
    }
