"""Loss curves of the study: by how many steps a loss is reached earlier, and the paired curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from study_tables import table_row

from lightning_init.compare import RunRecord, summarize

SHARES = (0.5, 0.8)  # of the reference's run, after which its mean loss is the level
FEWEST_POINTS = 5
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999", "#000000")
COLORS += ("#882255", "#44AA99", "#999933", "#AA4499")
Curve = list[tuple[float, float]]


BY_STEP = "loss_by_step_"


def curve_of(record: RunRecord) -> Curve:
    """Training loss by step: the mean of every fiftieth of the run, else of every epoch."""
    marks = [
        (float(key.removeprefix(BY_STEP)), loss)
        for key, loss in record.final.items()
        if key.startswith(BY_STEP)
    ]
    return smoothed(sorted(marks)) if marks else record.curve_of("epoch_train_loss")


def smoothed(curve: Curve) -> Curve:
    """Mean of each point and its two neighbours, as one batch is easier than another."""
    means = [(a[1] + b[1] + c[1]) / 3 for a, b, c in zip(curve, curve[1:], curve[2:], strict=False)]
    return [(step, mean) for (step, _), mean in zip(curve[1:], means, strict=False)]


def steps_to(curve: Curve, level: float) -> float:
    """Steps until the curve first is at the level, linear between its points.

    >>> steps_to([(10, 2.0), (20, 1.0), (30, 0.5)], 1.5), steps_to([(10, 2.0)], 1.5)
    (15.0, inf)
    """
    if curve and curve[0][1] <= level:
        return float(curve[0][0])
    for (step, loss), (next_step, next_loss) in pairwise(curve):
        if next_loss <= level:
            return step + (next_step - step) * (loss - level) / (loss - next_loss)
    return math.inf


def with_curves(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Finished and uncharged runs with a curve, all of them by step or all by epoch.

    Runs from before steps were kept have epochs alone: the kind that more runs have is read.
    """
    runs = [one for one in records if (one.budget, one.status) == ("full", "finished")]
    by_step = [run for run in runs if any(key.startswith(BY_STEP) for key in run.final)]
    by_epoch = [
        replace(run, final={k: v for k, v in run.final.items() if not k.startswith(BY_STEP)})
        for run in runs
    ]
    kinds = (
        [run for run in kind if len(curve_of(run)) >= FEWEST_POINTS] for kind in (by_step, by_epoch)
    )
    return max(kinds, key=len)


def mean_curve(records: Sequence[RunRecord]) -> Curve:
    curves = [curve_of(record) for record in records]
    return [
        (points[0][0], math.fsum(y for _, y in points) / len(points))
        for points in zip(*curves, strict=False)
    ]


def steps_table(cells: Mapping[str, tuple[Sequence[RunRecord], str]]) -> list[str]:
    """By how many steps each scheme is earlier than the reference at a loss of the reference.

    Args:
        cells: Records and reference of each cell. Cells without curves have no rows.
    """
    heads = ["cell", "loss", "scheme", "reached, of runs", "steps against the reference", "verdict"]
    lines = [table_row(heads), "|" + " --- |" * len(heads)]
    for name, (records, reference) in cells.items():
        runs = with_curves(records)
        ours = [run for run in runs if run.scheme == reference]
        if len({run.scheme for run in runs}) < 2 or not ours:
            continue
        curve, steps = mean_curve(ours), ours[0].steps
        for share in SHARES:
            level = next(loss for step, loss in curve if step >= share * steps)
            lines += [table_row([name, *row]) for row in level_rows(runs, reference, level)]
    return lines if len(lines) > 2 else []


def level_rows(runs: Sequence[RunRecord], reference: str, level: float) -> list[list[str]]:
    counted = [
        replace(run, final={"steps": steps_to(curve_of(run), level)}, curve=()) for run in runs
    ]
    # A run that never reaches the level is later than every other.
    reached = {
        run.scheme: [r.final["steps"] for r in counted if r.scheme == run.scheme] for run in counted
    }
    own = np.mean([steps for steps in reached[reference] if math.isfinite(steps)])
    rows = []
    for row in summarize(counted, {"steps": "min"}, reference).table.itertuples():
        if row.quantity != "final":
            continue
        interval = f"{row.mean_difference:+.0f} [{row.lower:+.0f}, {row.upper:+.0f}]"
        there = reached[row.first]
        share = f"{sum(map(math.isfinite, there))} of {len(there)}"
        both = math.isfinite(sum(there) + sum(reached[reference]))
        median = f"median {row.median_difference:+.0f}"
        some = median if math.isfinite(row.median_difference) else "-"
        shown = f"{interval if both else some} of {own:.0f}"
        rows.append([f"{level:.4f}", row.first, share, shown, row.verdict])
    return rows


def paired_curves(records: Sequence[RunRecord], reference: str, title: str) -> Figure | None:
    """Mean paired difference of the training loss to the reference by step, with 95 % bands."""
    runs = with_curves(records)
    by_scheme: dict[str, dict[int, Curve]] = {}
    for run in runs:
        by_scheme.setdefault(run.scheme, {})[run.seed] = curve_of(run)
    ours = by_scheme.pop(reference, {})
    if not by_scheme or len(ours) < 3:
        return None
    figure = Figure(figsize=(6.4, 3.6), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0.0, color="black", linewidth=0.8, linestyle=":")
    for color, (scheme, curves) in zip(COLORS, by_scheme.items(), strict=False):
        seeds = sorted(ours.keys() & curves.keys())
        steps = [step for step, _ in ours[seeds[0]]]
        pairs = np.array([[y for _, y in curves[s]] for s in seeds])
        pairs = pairs - np.array([[y for _, y in ours[s]] for s in seeds])
        half = 1.96 * pairs.std(0, ddof=1) / math.sqrt(len(seeds))
        mean = pairs.mean(0)
        dashed = "--" if scheme.startswith(("pilot:", "transfer:")) else "-"
        axes.plot(steps, mean, dashed, color=color, linewidth=1.4, label=scheme)
        axes.fill_between(steps, mean - half, mean + half, color=color, alpha=0.15, linewidth=0)
    ends = np.abs([line.get_ydata()[-1] for line in axes.lines[1:]])
    top = 1.5 * max(ends.max(), 1e-9)
    axes.set_ylim(-top, top)  # the first steps may be far outside
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(f"training loss - {reference}'s")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=6, frameon=False, ncols=2)
    return figure
