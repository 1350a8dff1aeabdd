"""Every comparison in one plain sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning_init.compare import tables
from lightning_init.compare.quantities import BOTH, Runs
from lightning_init.compare.rank_tests import CONFIDENCE, LEVEL, least_seeds
from lightning_init.compare.records import FINISHED, RunRecord
from lightning_init.tables import number

MOST_SEEDS_SHOWN = 10_000


def sentence(row: Any) -> str:
    """Say what one line of the table of comparisons shows, and which runs did not finish."""
    budget = "" if row.budget == BOTH else f", {row.budget} budget"
    said = _finding(row)
    if row.first_unfinished or row.second_unfinished:
        better = row.first_unfinished > row.second_unfinished and row.verdict == tables.BETTER
        worse = row.second_unfinished > row.first_unfinished and row.verdict == tables.WORSE
        said += (
            f"{', although' if better or worse else ';'} {row.first_unfinished} of"
            f" {row.first_runs} runs of {row.first} did not finish, {row.second_unfinished} of"
            f" {row.second_runs} of {row.second} (the mean is over the"
            f" {row.pairs_in_interval} pairs that did)"
        )
    if row.missing_seeds:
        plural = "s" if row.missing_seeds != 1 else ""
        said += f"; {row.missing_seeds} seed{plural} without a pair left out"
    return f"{row.first} against {row.second}, {row.quantity} {row.metric}{budget}: {said}."


def p_text(p: float) -> str:
    """Write a p-value.

    >>> p_text(0.0312), p_text(1.2e-5), p_text(1.0)
    ('0.031', '<0.001', '1')
    """
    return "<0.001" if p < 0.001 else number(p, 2)


def notes(runs: Runs, rows: Sequence[Any], undecided: Sequence[str]) -> list[str]:
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


def _method(rows: Sequence[Any]) -> str:
    """Say how the numbers were made, and what the number of seeds rules out."""
    text = (
        "Differences are the first scheme's value minus the second's, seed by seed. Intervals of "
        f"their mean are {100 * CONFIDENCE:g} %, by a studentized bootstrap over the pairs that"
        " finished. p-values are two-sided and Holm-corrected over all comparisons of one quantity"
        " of one metric, both budgets; in them a run that diverged or failed is worse than any"
        f' number. "Better" and "worse" take an interval without zero and a corrected Wilcoxon p'
        f" below {LEVEL:.2g}. Seeds needed is for seeing an effect as large as the observed one"
        " with a probability of 80 % at the corrected level; it is as uncertain as that effect."
    )
    beyond = [row for row in rows if 0 < row.pairs < least_seeds(row.comparisons)]
    if beyond:
        pairs = max(row.pairs for row in beyond)
        text += f" {out_of_reach(pairs, max(row.comparisons for row in beyond))}"
    return text


def out_of_reach(pairs: int, comparisons: int) -> str:
    """Say that no corrected test of so few pairs can show a thing; nothing, where one can.

    >>> out_of_reach(5, 4)
    'With 5 pairs and 4 comparisons no corrected p can fall below 0.05: 8 seeds, or fewer \
comparisons by a `reference`, are needed.'
    >>> out_of_reach(8, 4)
    ''
    """
    least = least_seeds(comparisons)
    if comparisons == 0 or pairs >= least:
        return ""
    fewer = ", or fewer comparisons by a `reference`," if comparisons > 1 else ""
    return (
        f"With {pairs} pair{'s' * (pairs != 1)} and {comparisons} comparison"
        f"{'s' * (comparisons != 1)} no corrected p can fall below {LEVEL:.2g}: {least} seeds"
        f"{fewer} are needed."
    )


def _finding(row: Any) -> str:
    seeds = f"{row.pairs} seed{'s' if row.pairs != 1 else ''}"
    if row.verdict == tables.TOO_FEW:
        return f"{seeds}, at least 2 are needed to compare"
    if row.verdict == tables.IDENTICAL:
        return f"identical in all {seeds}"
    correction = f", Holm-corrected over {row.comparisons}" if row.comparisons > 1 else ""
    p_values = f"Wilcoxon p {p_text(row.wilcoxon_p_holm)}, sign p {p_text(row.sign_p_holm)}"
    tests = f"({p_values}{correction})"
    if row.verdict in (tables.RANKED_BETTER, tables.RANKED_WORSE):
        favoured = row.first if row.verdict == tables.RANKED_BETTER else row.second
        return f"{_mean(row)} over {seeds}; the ranks favour {favoured} {tests}"
    if row.verdict == tables.NO_DIFFERENCE:
        return f"no difference shown: {_mean(row)} over {seeds} {tests}{_needed(row.seeds_needed)}"
    low, high = sorted((abs(row.lower), abs(row.upper)))
    way = "lower" if row.mean_difference < 0 else "higher"
    size = f"{number(abs(row.mean_difference))} [{number(low)}, {number(high)}]"
    doubt = ", the interval excludes zero but the test does not" if "may" in row.verdict else ""
    return f"{way} by {size} over {seeds} {tests}: {row.verdict}{doubt}"


def _needed(seeds: float) -> str:
    if math.isnan(seeds):
        return ""
    about = f"about {float(f'{seeds:.2g}'):.0f}" if seeds <= MOST_SEEDS_SHOWN else "more than 10000"
    return f"; {about} seeds would be needed to see an effect of the observed size"


def _mean(row: Any) -> str:
    if math.isnan(row.lower):
        medians = row.first_median, row.second_median
        shown = (number(m) if math.isfinite(m) else "unfinished" for m in medians)
        return f"median {' against '.join(shown)}"
    return f"{number(row.mean_difference)} [{number(row.lower)}, {number(row.upper)}]"
