"""The rows of the report: every comparison of a pair of schemes, and the verdict on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from lightning_init.compare.quantities import Quantity, Runs
from lightning_init.compare.rank_tests import holm
from lightning_init.compare.records import FINISHED, FULL
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

    Attributes:
        quantity: What is compared; differences are the first scheme's value minus the second's.
        budget: `equal`, `full`, or `both` if neither scheme has a probe.
        first: The scheme that the verdict is about.
        second: The scheme that it is compared with.
        paired: The differences by seed.
        statistics: Of these.
        missing: Seeds that only one of the schemes has a value of.
        unfinished: Runs that did not finish, of the first and the second scheme.
        runs: Runs in all, of the first and the second scheme.
        medians: Of the first and the second scheme, over all their runs.
        reached: Runs with a finite value, of the first and the second scheme.
        family: Comparisons that the p-values are corrected for.
        wilcoxon: Holm-corrected p of the signed-rank test.
        sign: Holm-corrected p of the sign test.
        verdict: On the first scheme, one of the words of this module.
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
        rows += _corrected(family)
    return rows


def decide(
    statistics: PairedStatistics, lower_is_better: bool, wilcoxon: float, level: float = LEVEL
) -> str:
    """Judge the first scheme of a pair.

    `better` and `worse` need an interval of the mean that excludes zero and a corrected Wilcoxon p
    below the level on the same side. Where that p stands alone, because of runs that did not
    finish or because of a skew, the ranks are said to favour a scheme.

    Args:
        statistics: Of the differences first - second.
        lower_is_better: Whether smaller numbers are better.
        wilcoxon: Corrected p.
        level: Largest p that counts.
    """
    if statistics.pairs < 2:
        return TOO_FEW
    if statistics.identical:
        return IDENTICAL
    interval = statistics.interval
    side = 0 if interval.holds_zero else int(math.copysign(1, interval.mean))
    better_side = -1 if lower_is_better else 1
    significant = wilcoxon < level and statistics.rank_direction != 0
    if significant and statistics.rank_direction != side:
        return RANKED_BETTER if statistics.rank_direction == better_side else RANKED_WORSE
    if side == 0:
        return NO_DIFFERENCE
    if significant:
        return BETTER if side == better_side else WORSE
    return MAYBE_BETTER if side == better_side else MAYBE_WORSE


def _compare(runs: Runs, quantity: Quantity, budget: str, first: str, second: str) -> ComparisonRow:
    both = first, second
    values = [runs.values(scheme, budget, quantity) for scheme in both]
    records = [runs.of(scheme, budget) for scheme in both]
    paired = paired_differences(*values)
    statistics = paired_statistics(paired)
    if quantity.level is not None and statistics.finite < statistics.pairs:
        # A mean over the runs that reached the level would favour the scheme that seldom does.
        statistics = statistics.without_mean()
    seeds = {record.seed for of_scheme in records for record in of_scheme}
    return ComparisonRow(
        quantity=quantity,
        budget=budget,
        first=first,
        second=second,
        paired=paired,
        statistics=statistics,
        missing=len(seeds - set(paired.seeds)),
        unfinished=tuple(sum(r.status != FINISHED for r in of_scheme) for of_scheme in records),
        runs=tuple(map(len, records)),
        medians=tuple(median(numbers.values()) for numbers in values),
        reached=tuple(sum(map(math.isfinite, numbers.values())) for numbers in values),
    )


def _corrected(family: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    wilcoxon = holm([row.statistics.wilcoxon for row in family])
    sign = holm([row.statistics.sign for row in family])
    size = sum(not math.isnan(p) for p in wilcoxon)
    return [
        replace(
            row,
            family=size,
            wilcoxon=w,
            sign=s,
            verdict=decide(row.statistics, row.quantity.lower_is_better, w),
        )
        for row, w, s in zip(family, wilcoxon, sign, strict=True)
    ]
