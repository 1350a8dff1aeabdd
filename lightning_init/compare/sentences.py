"""Every comparison in one plain sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_init.compare import tables
from lightning_init.compare.quantities import BOTH, Runs
from lightning_init.compare.records import FINISHED, RunRecord
from lightning_init.compare.statistics import CONFIDENCE
from lightning_init.compare.tables import ComparisonRow
from lightning_init.tables import number

MOST_SEEDS_SHOWN = 10_000


def sentence(row: ComparisonRow) -> str:
    """Say what one comparison shows, with its numbers and the runs that did not finish."""
    budget = "" if row.budget == BOTH else f", {row.budget} budget"
    first, second = row.unfinished
    spoiled = first > second if row.verdict == tables.BETTER else second > first
    spoiled = spoiled and row.verdict in (tables.BETTER, tables.WORSE)
    said = _finding(row)
    if unfinished := _unfinished(row):
        said += f"{', although' if spoiled else ';'} {unfinished}"
    if row.missing:
        said += f"; {row.missing} seed{'s' if row.missing != 1 else ''} without a pair left out"
    return f"{row.first} against {row.second}, {row.quantity.title}{budget}: {said}."


def seeds_text(seeds: float) -> str:
    """Write the seeds needed, which are an estimate.

    >>> seeds_text(41.0), seeds_text(25_000.0), seeds_text(float("inf")), seeds_text(float("nan"))
    ('41', '>10000', '>10000', '-')
    """
    if math.isnan(seeds):
        return "-"
    return f">{MOST_SEEDS_SHOWN}" if seeds > MOST_SEEDS_SHOWN else f"{seeds:.0f}"


def p_text(p: float) -> str:
    """Write a p-value.

    >>> p_text(0.0312), p_text(1.2e-5), p_text(1.0)
    ('0.031', '<0.001', '1')
    """
    return "<0.001" if p < 0.001 else number(p, 2)


def notes(runs: Runs, rows: Sequence[ComparisonRow], undecided: Sequence[str]) -> list[str]:
    """Say what did not finish, what was not compared, and how the numbers were made."""
    said = [text for group in runs.groups() if (text := _reasons(*group, runs.of(*group)))]
    if undecided:
        said.append(
            "Not compared, because the name does not tell which values are better: "
            f"{', '.join(undecided)}. Name them"
            ' with "min" or "max" in `metrics` to have them too.'
        )
    return [*said, _method(rows)] if rows else said


def _reasons(scheme: str, budget: str, records: Sequence[RunRecord]) -> str:
    """Name the runs that did not finish, each with its reason."""
    reasons = [
        f"seed {r.seed} {r.status}" + (f" ({r.reason})" if r.reason else "")
        for r in records
        if r.status != FINISHED
    ]
    name = scheme if budget == BOTH else f"{scheme}, {budget} budget"
    count = f"{len(reasons)} of {len(records)} runs did not finish"
    return f"{name}: {count}: {', '.join(reasons)}." if reasons else ""


def _method(rows: Sequence[ComparisonRow]) -> str:
    """Say how the numbers were made, and what the number of seeds rules out."""
    text = (
        "Differences are the first scheme's value minus the second's, seed by seed. Intervals of "
        f"their mean are {100 * CONFIDENCE:g} %, by a studentized bootstrap over the pairs that"
        " finished. p-values are two-sided and Holm-corrected over all comparisons of one quantity"
        " of one metric, both budgets; in them a run that diverged or failed, or did not reach a"
        " level, is worse than any number."
        f' "Better" and "worse" take an interval without zero and a corrected Wilcoxon p below '
        f"{tables.LEVEL:.2g}. Seeds needed is for seeing an effect as large as the observed one"
        " with a probability of 80 %, uncorrected; it is as uncertain as that effect."
    )
    beyond = [row for row in rows if row.statistics.pairs and _out_of_reach(row)]
    if beyond:
        pairs = max(row.statistics.pairs for row in beyond)
        family = max(row.family for row in beyond)
        text += (
            f" With {pairs} pairs and {family} comparison{'s' if family > 1 else ''} no corrected p"
            f" can fall below {tables.LEVEL:.2g}: more seeds, or a `reference`, are needed."
        )
    return text


def _finding(row: ComparisonRow) -> str:
    interval, verdict = row.statistics.interval, row.verdict
    seeds = f"{row.statistics.pairs} seed{'s' if row.statistics.pairs != 1 else ''}"
    if verdict == tables.TOO_FEW:
        return f"{seeds}, at least 2 are needed to compare"
    if verdict == tables.IDENTICAL:
        return f"identical in all {seeds}"
    correction = f", Holm-corrected over {row.family}" if row.family > 1 else ""
    tests = f"(Wilcoxon p {p_text(row.wilcoxon)}, sign p {p_text(row.sign)}{correction})"
    if verdict in (tables.RANKED_BETTER, tables.RANKED_WORSE):
        favoured = row.first if verdict == tables.RANKED_BETTER else row.second
        return f"{_mean(row)} over {seeds}; the ranks favour {favoured} {tests}"
    if verdict == tables.NO_DIFFERENCE:
        needed = _needed(row.statistics.seeds_needed)
        return f"no difference shown: {_mean(row)} over {seeds} {tests}{needed}"
    low, high = sorted((abs(interval.lower), abs(interval.upper)))
    way = "lower" if interval.mean < 0 else "higher"
    said = f"{way} by {number(abs(interval.mean))} [{number(low)}, {number(high)}] over {seeds}"
    doubt = ", the interval excludes zero but the test does not" if "may" in verdict else ""
    return f"{said} {tests}: {verdict}{doubt}"


def _needed(seeds: float) -> str:
    if math.isnan(seeds):
        return ""
    about = f"about {float(f'{seeds:.2g}'):.0f}" if seeds <= MOST_SEEDS_SHOWN else "more than 10000"
    return f"; {about} seeds would be needed to see an effect of the observed size"


def _mean(row: ComparisonRow) -> str:
    interval = row.statistics.interval
    if math.isnan(interval.lower):
        never = "never" if row.quantity.level is not None else "unfinished"
        medians = (number(m) if math.isfinite(m) else never for m in row.medians)
        return f"median {' against '.join(medians)}"
    return f"{number(interval.mean)} [{number(interval.lower)}, {number(interval.upper)}]"


def _unfinished(row: ComparisonRow) -> str:
    (first, second), (of_first, of_second) = row.unfinished, row.runs
    said = []
    if row.quantity.level is not None and row.reached != row.runs:
        reached = f"{row.reached[0]} of {of_first} runs against {row.reached[1]} of {of_second}"
        said.append(f"reached in {reached}")
    if first or second:
        mean = f" (the mean is over the {row.statistics.finite} pairs that did)"
        said.append(
            f"{first} of {of_first} runs of {row.first} did not finish, {second} of {of_second} of"
            f" {row.second}{mean if row.quantity.level is None else ''}"
        )
    return "; ".join(said)


def _out_of_reach(row: ComparisonRow) -> bool:
    return row.family * 2.0 ** (1 - row.statistics.pairs) >= tables.LEVEL
