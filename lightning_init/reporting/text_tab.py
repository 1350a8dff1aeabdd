"""Report and plan for TensorBoard's Text tab, whose tables break words with many columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_init.initialization.measurement import signal_cells
from lightning_init.initialization.plan import InitPlan
from lightning_init.initialization.planned_weight import law_words
from lightning_init.reporting.records import LayerReport
from lightning_init.reporting.rendering import cost, headline
from lightning_init.reporting.report import InitReport
from lightning_init.tables import markdown_table, number

HEADERS = ("layer", "V before", "V", "ratio", "drift", "verdict", "sigma0", "action")
PLAN_HEADERS = ("layer", "rule", "std before", "std", "std / Kaiming", "log-norm", "predicted")
MOST_LEFT_OUT = 20


def text_tab(report: InitReport, max_rows: int = 100) -> str:
    """Render a report as Markdown in eight narrow columns; notes stand below the table.

    Args:
        report: What a probe found.
        max_rows: Most layers to show; those that the rule changes most come first.
    """
    shown = sorted(report.layers, key=_by_change) if len(report.layers) > max_rows else None
    layers = report.layers if shown is None else tuple(shown[:max_rows])
    paragraphs = [
        _outcome(report),
        report.stop_reason,
        markdown_table(HEADERS, [_cells(layer) for layer in layers]),
    ]
    notes = [f"`{layer.name}`: {layer.note}" for layer in layers if layer.note]
    paragraphs += [_list([*report.notes, *notes])] if report.notes or notes else []
    paragraphs += _left_out(report)
    hidden = len(report.layers) - len(layers)
    more = f"{hidden} more layers change less. " if hidden else ""
    paragraphs.append(f"{more}`callback.report.markdown()` has every layer and every column.")
    return "\n\n".join(paragraphs)


def plan_tab(plan: InitPlan, max_rows: int = 100) -> str:
    """Render a closed-form plan as Markdown in seven narrow columns, in the model's order.

    Args:
        plan: What was drawn.
        max_rows: Most weights to show.
    """
    signals = {one.name: signal_cells(one) for one in plan.log_norms}
    cells = [
        (
            f"`{row.weight.name}`",
            law_words(row.activation) if row.treatment == "normal" else row.formula,
            number(row.before),
            number(row.std),
            number(row.ratio, 4),
            *signals.get(row.weight.name, ("-", "-")),
        )
        for row in plan.rows[:max_rows]
    ]
    hidden = len(plan.rows) - len(cells)
    more = [f"{hidden} more weights; `print(callback.plan)` has them."] if hidden else []
    return "\n\n".join([_list(plan.notes), markdown_table(PLAN_HEADERS, cells), *more])


def _outcome(report: InitReport) -> str:
    return (
        f"**{headline(report)}** over a horizon of {report.horizon_steps} optimizer steps."
        f" {cost(report)}."
    )


def _cells(layer: LayerReport) -> tuple[str, ...]:
    return (
        f"`{layer.name}`",
        number(layer.initial_variance),
        number(layer.variance),
        number(layer.ratio) + (" (unchanged)" if layer.unchanged else ""),
        _drift(layer),
        layer.verdict.value,
        number(layer.sigma0),
        layer.action,
    )


def _drift(layer: LayerReport) -> str:
    if math.isnan(layer.drift_index):
        return "-"
    limits = (layer.drift_index, layer.drift_lower, layer.drift_upper)
    index, lower, upper = (f"{x:.2f}" if x < 99 else ">99" for x in limits)
    # A band that rounds to one number is none.
    return index if lower == upper else f"{index} [{lower}, {upper}]"


def _left_out(report: InitReport) -> list[str]:
    if not report.left_out:
        return []
    lines = [f"`{left.name}`: {left.reason}" for left in report.left_out[:MOST_LEFT_OUT]]
    more = len(report.left_out) - len(lines)
    lines += [f"and {more} more"] if more else []
    return ["Left out:", _list(lines)]


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _by_change(layer: LayerReport) -> float:
    # A layer without a ratio is the one to look at first.
    return -math.inf if math.isnan(layer.log_ratio) else -abs(layer.log_ratio)
