"""Tables of a comparison, as pandas frames: pairs of schemes, schemes by themselves, the cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_init.compare.quantities import MIN, Quantity, Runs
from lightning_init.compare.rank_tests import LEVEL, holm, optional
from lightning_init.compare.records import FINISHED, FULL, STATUSES
from lightning_init.compare.statistics import median, paired_statistics

if TYPE_CHECKING:
    import pandas as pd

BETTER = "better"
WORSE = "worse"
MAYBE_BETTER = "may be better"
MAYBE_WORSE = "may be worse"
RANKED_BETTER = "ranks favour the first"
RANKED_WORSE = "ranks favour the second"
NO_DIFFERENCE = "no difference shown"
IDENTICAL = "identical"
TOO_FEW = "too few seeds"


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


def comparison_table(
    runs: Runs, quantities: Sequence[Quantity], pairs: Sequence[tuple[str, str]]
) -> pd.DataFrame:
    """Compare all pairs; p-values are corrected over all lines of one quantity of one metric.

    Differences are the first scheme's value minus the second's, and the verdict is on the first.
    """
    lines: list[dict[str, Any]] = []
    for quantity in quantities:
        names = [(*pair, budget) for pair in pairs for budget in runs.budgets(*pair)]
        # What pays for its probe comes first, under all pairs.
        names.sort(key=lambda name: name[2] == FULL)
        found = [runs.differences(*name, quantity) for name in names]
        size = sum(map(bool, found))
        family = [
            _compare(runs, quantity, *name, one.keys()) | paired_statistics(one.values(), size)
            for name, one in zip(names, found, strict=True)
        ]
        for test in ("wilcoxon_p", "sign_p"):
            for line, p in zip(family, holm([line[test] for line in family]), strict=True):
                line[f"{test}_holm"] = p
        for line in family:
            line["verdict"] = decide(line, quantity.direction == MIN, line["wilcoxon_p_holm"])
        lines += family
    return optional("pandas").DataFrame(lines)


def decide(found: Mapping[str, Any], lower_is_better: bool, wilcoxon: float) -> str:
    """Judge the first scheme of a pair, by a corrected p of Wilcoxon's test.

    `better` and `worse` need an interval of the mean that excludes zero and a p below the level on
    the same side. Where that p stands alone, because of runs that did not finish or because of a
    skew, the ranks are said to favour a scheme.

    Args:
        found: What `paired_statistics` returns.
        lower_is_better: Whether smaller values of the metric are.
        wilcoxon: The corrected p.
    """
    if found["pairs"] < 2:
        return TOO_FEW
    if found["pairs"] == found["pairs_in_interval"] and found["lower"] == found["upper"] == 0:
        return IDENTICAL
    # Neither, where the interval is not known.
    side = int(found["lower"] > 0) - int(found["upper"] < 0)
    ranked = found["rank_direction"] if wilcoxon < LEVEL else 0
    better_side = -1 if lower_is_better else 1
    if ranked not in (0, side):
        return RANKED_BETTER if ranked == better_side else RANKED_WORSE
    if side == 0:
        return NO_DIFFERENCE
    if ranked:
        return BETTER if side == better_side else WORSE
    return MAYBE_BETTER if side == better_side else MAYBE_WORSE


def _compare(
    runs: Runs, quantity: Quantity, first: str, second: str, budget: str, paired: Collection[int]
) -> dict[str, Any]:
    """Name a comparison, and count its runs beside those that are paired."""
    line: dict[str, Any] = {
        "metric": quantity.metric,
        "quantity": quantity.name,
        "budget": budget,
        "first": first,
        "second": second,
        "better_is": "lower" if quantity.direction == MIN else "higher",
    }
    for name, scheme in (("first", first), ("second", second)):
        records = runs.of(scheme, budget)
        line[f"{name}_runs"] = len(records)
        line[f"{name}_unfinished"] = sum(record.status != FINISHED for record in records)
        line[f"{name}_median"] = median(runs.values(scheme, budget, quantity).values())
    seeds = {record.seed for scheme in (first, second) for record in runs.of(scheme, budget)}
    return {**line, "missing_seeds": len(seeds) - len(paired)}


def summary_table(runs: Runs, quantities: Sequence[Quantity]) -> pd.DataFrame:
    """Summarize every scheme under every budget that it has runs of.

    Mean and standard error are over the runs that finished. The median is over all runs, those that
    did not finish being worse than any number.
    """
    pandas = optional("pandas")
    lines = []
    for quantity, (scheme, budget) in product(quantities, runs.groups()):
        values = pandas.Series(runs.values(scheme, budget, quantity), dtype=np.float64)
        finite = values[np.isfinite(values)]
        records = runs.of(scheme, budget)
        lines.append(
            {
                "metric": quantity.metric,
                "quantity": quantity.name,
                "budget": budget,
                "scheme": scheme,
                "runs": len(records),
                **dict.fromkeys(STATUSES, 0),
                **Counter(record.status for record in records),
                "mean": finite.mean(),
                "standard_error": finite.sem(),
                "median": median(values),
            }
        )
    return pandas.DataFrame(lines)


def cost_table(runs: Runs) -> pd.DataFrame:
    """Average the steps and wall times of every scheme's runs, and give the probe's share.

    The steps of a pilot, which all runs of a scheme share, stand undivided and divided.
    """
    names = ["steps", "probe_steps", "seconds", "probe_seconds", "pilot_steps"]
    lines = [
        {"scheme": scheme, "budget": budget, **{name: getattr(record, name) for name in names}}
        for scheme, budget in runs.groups()
        for record in runs.of(scheme, budget)
    ]
    groups = optional("pandas").DataFrame(lines).groupby(["scheme", "budget"], sort=False)
    cost = groups[names[:-1]].mean()
    cost.insert(0, "runs", groups.size())
    steps = cost["steps"] + cost["probe_steps"]
    cost.insert(3, "probe_share_of_steps", (cost["probe_steps"] / steps).fillna(0.0))
    shares = (cost["probe_seconds"] / cost["seconds"]).fillna(0.0)
    cost = cost.assign(probe_share_of_seconds=shares, pilot_steps=groups["pilot_steps"].max())
    return cost.assign(pilot_steps_per_run=cost["pilot_steps"] / cost["runs"]).reset_index()


def verdict_table(table: pd.DataFrame) -> pd.DataFrame:
    """One line per pair and budget, one column per quantity: the verdicts on the first scheme."""
    names = table["quantity"] + " " + table["metric"]
    pairs = table["first"] + " against " + table["second"]
    long = table.assign(name=names, pair=pairs)[["pair", "budget", "name", "verdict"]]
    wide = long.set_index(["pair", "budget", "name"])["verdict"].unstack(sort=False)
    return wide.fillna("-").rename_axis(columns=None).reset_index()
