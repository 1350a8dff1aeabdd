"""How a plan reads: what it means in a sentence, then what changes most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lightning_init.initialization.measurement import LayerLogNorm, signal_cells
from lightning_init.initialization.planned_weight import PlannedWeight, law_words
from lightning_init.initialization.prediction import SMALL, predict
from lightning_init.initialization.settings import FractionalMomentSettings
from lightning_init.inspection.weights import LeftOut
from lightning_init.pages import Column, Page, columns_of
from lightning_init.tables import grouped, left_out_lines, number, shape_text

LIKELY = 0.5  # chance of a small output that no plan should have
FAR = 3.0  # standard deviations


def plan_page(
    rows: Sequence[PlannedWeight],
    left_out: Sequence[LeftOut],
    settings: FractionalMomentSettings,
    closing: Sequence[str],
    log_norms: Sequence[LayerLogNorm],
    max_rows: int | None,
) -> Page:
    """The page of a plan.

    Args:
        rows: What each weight gets.
        left_out: Every other parameter, with its reason.
        settings: What was asked for.
        closing: Lines that end it.
        log_norms: What a batch measured.
        max_rows: Most weights to show, of those that are drawn, the largest changes first; None
            for all of them, in the order of the model.
    """
    every = max_rows is None
    drawn = [row for row in rows if row.treatment != "keep"]
    shown = list(rows) if every else sorted(drawn, key=_by_change)[:max_rows]
    hidden = 0 if every else len(drawn) - len(shown)
    more = f"... and {hidden} more weights that change less: `print(plan.full())`."
    kept = [(row.weight.name, row.formula) for row in rows if row.treatment == "keep"]
    return Page(
        lead=f"Plan: {headline(rows, settings)}.",
        columns=_columns(shown, settings, log_norms),
        remarks=(
            *([more] if hidden else []),
            *[f"{formula}: {names}" for names, formula in grouped(kept, None if every else 2)],
            *_notes(shown, every),
            *left_out_lines([(one.name, one.reason) for one in left_out], every),
            *closing,
        ),
        folds=every,
    )


def headline(rows: Sequence[PlannedWeight], settings: FractionalMomentSettings) -> str:
    """What a plan means, in a sentence."""
    drawn = [row for row in rows if row.treatment != "keep"]
    if not drawn:
        return f"nothing to change: {len(rows)} of {len(rows)} weights stay as they were made"
    said = f"redraw {len(drawn)} of {len(rows)} weights"
    changes = sorted(row.change for row in drawn if math.isfinite(row.change))
    if changes:
        said += f", typically at {changes[len(changes) // 2]:.3g} times their size"
    if not any(row.treatment == "normal" for row in drawn):
        return said
    found = predict(rows, settings.order)
    if not found.depth:
        return f"{said}; behind each of them a norm or a recurrence sets the scale"
    if not found.material:
        return f"{said}; no material difference to Kaiming's scales"
    times = math.exp(max(-300.0, min(found.shift, 300.0)))
    return f"{said}; behind {found.depth} in a row the signal is {times:.3g} times Kaiming's"


def _columns(
    rows: Sequence[PlannedWeight],
    settings: FractionalMomentSettings,
    log_norms: Sequence[LayerLogNorm],
) -> tuple[Column, ...]:
    signals = {one.name: signal_cells(one) for one in log_norms}
    cells: tuple[tuple[str, Callable[[PlannedWeight], str], int], ...] = (
        ("layer", lambda row: row.weight.name, 0),
        ("shape", lambda row: shape_text(row.weight.shape), 6),
        (f"law at order {settings.order:g}", _law, 0),
        ("fan_in", lambda row: str(row.weight.fan_in), 8),
        ("was", lambda row: number(row.before), 4),
        ("std", lambda row: number(row.std, 4), 0),
        ("change", _change, 0),
        ("/ Kaiming", lambda row: number(row.ratio, 5), 1),
        ("log-norm", lambda row: signals.get(row.weight.name, ("-", "-"))[0], 2),
        ("predicted", lambda row: signals.get(row.weight.name, ("-", "-"))[1], 3),
        ("behind", lambda row: ", ".join(row.activation.marks), 7),
    )
    return columns_of(rows, cells)


def _law(row: PlannedWeight) -> str:
    drawn = row.treatment == "normal"
    return f"{law_words(row.activation)} ({row.activation.source})" if drawn else row.formula


def _change(row: PlannedWeight) -> str:
    if math.isnan(row.change):
        return "-" if row.treatment == "orthogonal" else "kept"
    return f"x{row.change:.3g}"


def _by_change(row: PlannedWeight) -> float:
    """The largest change first; changes about as large stay in the model's order."""
    known = 0 < row.change < math.inf
    if not known:
        return -math.inf if row.change == math.inf else 0.0
    return -round(abs(math.log(row.change)), 1)


def _notes(rows: Sequence[PlannedWeight], every: bool) -> list[str]:
    """Remarks on rows, each once."""
    pairs = [(row.weight.name, note) for row in rows for note in (row.note, _assumed(row)) if note]
    return [f"note: {names}: {note}" for names, note in grouped(pairs, None if every else 4)]


def _assumed(row: PlannedWeight) -> str:
    note, rule = row.activation.note, row.activation.nonlinearity
    if rule == "linear":
        return note
    return note.replace("linear rule used", f"rule of {rule} used")  # a note of one use of several


def health_problems(
    rows: Sequence[PlannedWeight],
    settings: FractionalMomentSettings,
    log_norms: Sequence[LayerLogNorm],
) -> tuple[str, ...]:
    """What a plan foresees or a batch showed that no training should begin with."""
    problems = []
    if any(row.treatment == "normal" for row in rows):
        found = predict(rows, settings.order)
        chance = found.law.probability_below(SMALL)
        if found.depth and chance >= LIKELY:
            problems.append(
                f"behind {found.depth} weights in a row the norm falls below a tenth with chance"
                f" {chance:.0%}; lower `order`, widen the layers, or add norms."
            )
    outside = [one.name for one in log_norms if not one.is_near(FAR)]
    if outside:
        problems.append(
            f"the measured log-norm is not as predicted in {len(outside)} of {len(log_norms)}"
            f" layers ({', '.join(outside[:8])}); look at what stands in front of the first,"
            " or name it (`nonlinearity=`)."
        )
    return tuple(problems)
