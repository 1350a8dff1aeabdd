"""Every comparison of a pair of schemes with the verdict on it, and every scheme by itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from statistics import fmean, stdev
from typing import Any

from lightning_init.compare.quantities import Quantity, Runs
from lightning_init.compare.rank_tests import holm
from lightning_init.compare.records import FINISHED, FULL, STATUSES
from lightning_init.compare.statistics import (
    CONFIDENCE,
    Paired,
    PairedStatistics,
    median,
    paired_differences,
    paired_statistics,
)

LEVEL = 1 - CONFIDENCE

BETTER = "better"
WORSE = "worse"
MAYBE_BETTER = "may be better"
MAYBE_WORSE = "may be worse"
RANKED_BETTER = "ranks favour the first"
RANKED_WORSE = "ranks favour the second"
NO_DIFFERENCE = "no difference shown"
IDENTICAL = "identical"
TOO_FEW = "too few seeds"


@dataclass(frozen=True)
class ComparisonRow:
    """One scheme against another: one metric, one quantity, one budget.

    Differences are the first scheme's value minus the second's, and the verdict is on the first.
    The tuples hold a number of the first scheme and one of the second; all their runs are counted.

    Attributes:
        missing: Seeds that only one of the schemes has a value of.
        reached: Runs with a finite value.
        family: Comparisons that the p-values are corrected for.
        wilcoxon: Holm-corrected p of the signed-rank test.
        sign: Holm-corrected p of the sign test.
    """

    quantity: Quantity
    budget: str
    first: str
    second: str
    paired: Paired
    statistics: PairedStatistics
    missing: int
    unfinished: tuple[int, ...]
    runs: tuple[int, ...]
    medians: tuple[float, ...]
    reached: tuple[int, ...]
    family: int = 1
    wilcoxon: float = math.nan
    sign: float = math.nan
    verdict: str = TOO_FEW

    def columns(self) -> dict[str, object]:
        """As a row of the table of differences."""
        s = self.statistics
        return {
            "metric": self.quantity.metric,
            "quantity": self.quantity.name,
            "budget": self.budget,
            "first": self.first,
            "second": self.second,
            "better_is": "lower" if self.quantity.lower_is_better else "higher",
            "pairs": s.pairs,
            "missing_seeds": self.missing,
            "first_unfinished": self.unfinished[0],
            "second_unfinished": self.unfinished[1],
            "pairs_in_interval": s.finite,
            "mean_difference": s.interval.mean,
            "lower": s.interval.lower,
            "upper": s.interval.upper,
            "median_difference": s.median,
            "wilcoxon_p": s.wilcoxon,
            "wilcoxon_p_holm": self.wilcoxon,
            "sign_p": s.sign,
            "sign_p_holm": self.sign,
            "comparisons": self.family,
            "seeds_needed": s.seeds_needed,
            "verdict": self.verdict,
        }


def scheme_pairs(schemes: Sequence[str], reference: str | None) -> list[tuple[str, str]]:
    """Pairs to compare: each scheme against the reference, or against all that are before it.

    Raises:
        ValueError: The reference is not one of the schemes.
    """
    if reference is None:
        return [(later, earlier) for earlier, later in combinations(schemes, 2)]
    if reference not in schemes:
        raise ValueError(f"`reference` must be one of {', '.join(schemes)}, got {reference!r}.")
    return [(scheme, reference) for scheme in schemes if scheme != reference]


def comparison_rows(
    runs: Runs, quantities: Sequence[Quantity], pairs: Sequence[tuple[str, str]]
) -> list[ComparisonRow]:
    """Compare all pairs; p-values are corrected over all rows of one quantity of one metric."""
    rows: list[ComparisonRow] = []
    for quantity in quantities:
        family = [
            _compare(runs, quantity, budget, first, second)
            for first, second in pairs
            for budget in runs.budgets(first, second)
        ]
        # What pays for its probe comes first, under all pairs.
        family.sort(key=lambda row: row.budget == FULL)
        wilcoxon = holm([row.statistics.wilcoxon for row in family])
        sign = holm([row.statistics.sign for row in family])
        size = sum(not math.isnan(p) for p in wilcoxon)
        for row, w, s in zip(family, wilcoxon, sign, strict=True):
            verdict = decide(row.statistics, quantity.lower_is_better, w)
            rows.append(replace(row, family=size, wilcoxon=w, sign=s, verdict=verdict))
    return rows


def decide(
    statistics: PairedStatistics, lower_is_better: bool, wilcoxon: float, level: float = LEVEL
) -> str:
    """Judge the first scheme of a pair, by a corrected p of Wilcoxon's test.

    `better` and `worse` need an interval of the mean that excludes zero and a p below the level on
    the same side. Where that p stands alone, because of runs that did not finish or because of a
    skew, the ranks are said to favour a scheme.
    """
    if statistics.pairs < 2:
        return TOO_FEW
    if statistics.identical:
        return IDENTICAL
    interval = statistics.interval
    side = 0 if interval.holds_zero else int(math.copysign(1, interval.mean))
    ranked = statistics.rank_direction if wilcoxon < level else 0
    better_side = -1 if lower_is_better else 1
    if ranked not in (0, side):
        return RANKED_BETTER if ranked == better_side else RANKED_WORSE
    if side == 0:
        return NO_DIFFERENCE
    if ranked:
        return BETTER if side == better_side else WORSE
    return MAYBE_BETTER if side == better_side else MAYBE_WORSE


def _compare(runs: Runs, quantity: Quantity, budget: str, first: str, second: str) -> ComparisonRow:
    both = first, second
    values = [runs.values(scheme, budget, quantity) for scheme in both]
    records = [runs.of(scheme, budget) for scheme in both]
    paired = paired_differences(*values)
    seeds = {record.seed for of_scheme in records for record in of_scheme}
    return ComparisonRow(
        quantity=quantity,
        budget=budget,
        first=first,
        second=second,
        paired=paired,
        # A mean over the runs that reached a level would favour the scheme that seldom does.
        statistics=paired_statistics(paired, mean_of_some=quantity.level is None),
        missing=len(seeds - set(paired.seeds)),
        unfinished=tuple(sum(r.status != FINISHED for r in of_scheme) for of_scheme in records),
        runs=tuple(map(len, records)),
        medians=tuple(median(numbers.values()) for numbers in values),
        reached=tuple(sum(map(math.isfinite, numbers.values())) for numbers in values),
    )


def summary_rows(runs: Runs, quantities: Sequence[Quantity]) -> list[dict[str, Any]]:
    """Summarize every scheme under every budget that it has runs of.

    Mean and standard error are over the runs that finished. The median is over all runs, those that
    did not finish being worse than any number. For the steps to a level, a mean is given only if
    every run reached it.
    """
    rows = []
    for quantity, (scheme, budget) in product(quantities, runs.groups()):
        values = runs.values(scheme, budget, quantity)
        finite = [value for value in values.values() if math.isfinite(value)]
        if quantity.level is not None and len(finite) < len(values):
            finite = []
        records = runs.of(scheme, budget)
        count = Counter(record.status for record in records)
        rows.append(
            {
                "metric": quantity.metric,
                "quantity": quantity.name,
                "budget": budget,
                "scheme": scheme,
                "runs": len(records),
                **{status: count[status] for status in STATUSES},
                "mean": fmean(finite) if finite else math.nan,
                "standard_error": stdev(finite) / len(finite) ** 0.5 if finite[1:] else math.nan,
                "median": median(values.values()),
            }
        )
    return rows


def cost_rows(runs: Runs) -> list[dict[str, Any]]:
    """Average the steps and wall times of every scheme's runs, and give the probe's share.

    The steps of a pilot, which all runs of a scheme share, stand undivided and divided.
    """
    rows = []
    for scheme, budget in runs.groups():
        records = runs.of(scheme, budget)
        steps, probe_steps, seconds, probe_seconds = (
            fmean(getattr(record, name) for record in records)
            for name in ("steps", "probe_steps", "seconds", "probe_seconds")
        )
        rows.append(
            {
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
        )
    return rows
