"""How a report reads: rows and headings as text, Markdown, HTML and plain containers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from lightning_init.stationarity.decision import Verdict
from lightning_init.tables import (
    html_table,
    markdown_table,
    number,
    shape_text,
    shorten,
    text_table,
)

if TYPE_CHECKING:
    from lightning_init.reporting.records import LayerReport, ProbeRecord

# Reasons below a table; the Markdown has every layer's.
MOST_REASONS = 6
TEXT_HEADERS = ("layer", "shape", "V", "V/V before", "drift", "verdict", "sigma0", "action")
FULL_HEADERS = (
    "layer",
    "shape",
    "fan_in",
    "V before",
    "V",
    "V/V before",
    "rel. s.e.",
    "cost of V before (nat)",
    "drift",
    "verdict",
    "fired at",
    "V at horizon",
    "relaxation (steps)",
    "drive",
    "decay",
    "steady state",
    "of noise alone",
    "of start left",
    "forgotten by decay",
    "learning rate",
    "implied V",
    "sigma0",
    "action",
    "note",
)


def text(report: ProbeRecord, max_rows: int) -> str:
    """Render as plain text, at most `max_rows` layers and as many rows of what was left out."""
    shown = _largest_changes(report.layers, max_rows)
    rows: list[Sequence[str]] = [_text_cells(layer) for layer in shown]
    rows += [
        (shorten(left.name, 24), shorten(shape_text(left.shape), 13), f"left out: {left.reason}")
        for left in report.left_out[:max_rows]
    ]
    remarks = [f"note: {layer.name}: {layer.note}" for layer in shown if layer.note]
    remarks += [f"note: {note}" for note in report.notes]
    remarks += _reasons(report.layers)
    table = text_table(TEXT_HEADERS, rows)
    return "\n".join([*_heading(report), table, *_hidden(report, max_rows), *remarks])


def markdown(report: ProbeRecord, max_rows: int) -> str:
    """Render as Markdown with every column."""
    rows: list[Sequence[str]] = list(_full_rows(report, max_rows))
    rows += [
        (
            left.name,
            shape_text(left.shape),
            *[""] * (len(FULL_HEADERS) - 4),
            "left out",
            left.reason,
        )
        for left in report.left_out[:max_rows]
    ]
    paragraphs = ["  \n".join(_heading(report)), markdown_table(FULL_HEADERS, rows)]
    paragraphs += _hidden(report, max_rows)
    paragraphs += ["\n".join(f"- {note}" for note in report.notes)] if report.notes else []
    return "\n\n".join(paragraphs)


def html(report: ProbeRecord, max_rows: int) -> str:
    """Render as two HTML tables: the layers, and what holds for all of them."""
    rows: list[Sequence[str]] = list(_full_rows(report, max_rows))
    rows += [
        (left.name, shape_text(left.shape), f"left out: {left.reason}")
        for left in report.left_out[:max_rows]
    ]
    remarks = [(line,) for line in (*_heading(report), *_hidden(report, max_rows), *report.notes)]
    return html_table(("probe",), remarks) + html_table(FULL_HEADERS, rows)


def plain(value: Any) -> Any:
    """Turn dataclasses and enums into containers that `json.dumps` accepts; nan becomes None.

    >>> plain({"V": float("nan"), "shape": (2, 3)})
    {'V': None, 'shape': [2, 3]}
    """
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (int, str)) else str(value)


def _heading(report: ProbeRecord) -> list[str]:
    return [
        f"OptimalVarianceInit: {headline(report)}.",
        f"{cost(report)}, {report.wall_time:.1f} s{_losses(report)}.",
        *_rounds(report),
        report.stop_reason,
        f"Judged over a horizon of {report.horizon_steps} optimizer steps, "
        f"one sample every {report.sample_interval}.",
        *_restart(report),
    ]


def headline(report: ProbeRecord) -> str:
    """What matters, in a clause: what was changed, or that there is nothing to change."""
    total = len(report.layers)
    if report.divergence:
        return f"the probe diverged, all {total} layers keep their weights"
    if not total:
        return "no layer took part"
    counts = {
        action: sum(layer.action == action for layer in report.layers)
        for action in ("redrawn", "unchanged", "kept")
    }
    settled = sum(layer.verdict is Verdict.STATIONARY for layer in report.layers)
    if counts["unchanged"] == total:
        largest = max((abs(layer.ratio - 1) for layer in report.layers), default=0.0)
        return f"nothing to change: {total} of {total} layers within {percent(largest)}"
    parts = [f"{count} {action}" for action, count in counts.items() if count]
    left = [f"{len(report.left_out)} left out"] if report.left_out else []
    return f"{', '.join([*parts, *left])}; {settled} of {total} layers stationary"


def cost(report: ProbeRecord) -> str:
    """What the probe took, as a share of the run."""
    steps, planned = _spaced(report.total_steps), report.planned_steps
    if not math.isfinite(planned):
        return f"Probe: {steps} steps"
    share = report.total_steps / max(planned, 1)
    of = f"{steps} of {_spaced(round(planned))} steps"
    return f"Probe: {of}, {percent(share)} of the run"


def percent(share: float) -> str:
    """A share in per cent, rounded up to what is worth saying.

    >>> percent(0.0973), percent(0.0004)
    ('10 %', '0.1 %')
    """
    value = 100 * share
    rounded = math.ceil(value - 1e-9) if value > 1 else math.ceil(10 * value - 1e-9) / 10
    return f"{rounded:g} %"


def _losses(report: ProbeRecord) -> str:
    first, last = report.losses
    known = math.isfinite(first) and math.isfinite(last)
    return f"; its training loss went from {first:.3g} to {last:.3g}" if known else ""


def _spaced(steps: int) -> str:
    return f"{steps:,}".replace(",", " ")


def _restart(report: ProbeRecord) -> list[str]:
    if not report.compared_batches:
        return [f"{report.restart}."] if report.restart else []
    same, compared = report.same_batches, report.compared_batches
    return [
        f"{report.restart}; {same} of {compared} compared batches of the run are the probe's,"
        f" which read {report.probe_batches}."
    ]


def _rounds(report: ProbeRecord) -> list[str]:
    if report.total_steps == report.probe_steps:
        return []
    return [
        f"The last of {report.rounds} rounds; {report.total_steps} optimizer steps in all probes"
        " and trials together."
        if report.rounds > 1
        else f"{report.total_steps} optimizer steps in all probes and trials together."
    ]


def _reasons(layers: Sequence[LayerReport]) -> list[str]:
    """Each reason once, with the layers that it holds for."""
    names: dict[str, list[str]] = {}
    for layer in layers:
        if layer.reason:
            names.setdefault(layer.reason, []).append(layer.name)
    few = list(names.items())[:MOST_REASONS]
    return [f"why: {_named(found)}: {reason}" for reason, found in few]


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _hidden(report: ProbeRecord, max_rows: int) -> list[str]:
    layers, left_out = len(report.layers) - max_rows, len(report.left_out) - max_rows
    lines = [f"... and {layers} more layers that change less"] if layers > 0 else []
    lines += [f"... and {left_out} more left out"] if left_out > 0 else []
    return [line + "; `to_dict()` has all of them." for line in lines]


def _largest_changes(layers: tuple[LayerReport, ...], limit: int) -> tuple[LayerReport, ...]:
    return layers if len(layers) <= limit else tuple(sorted(layers, key=_by_change)[:limit])


def _by_change(layer: LayerReport) -> float:
    # A layer without a ratio is the one to look at first.
    return -math.inf if math.isnan(layer.log_ratio) else -abs(layer.log_ratio)


def _full_rows(report: ProbeRecord, max_rows: int) -> list[tuple[str, ...]]:
    return [_full_cells(layer) for layer in _largest_changes(report.layers, max_rows)]


def _text_cells(layer: LayerReport) -> tuple[str, ...]:
    return (
        shorten(layer.name, 24),
        shorten(shape_text(layer.shape), 13),
        number(layer.variance),
        _ratio_text(layer),
        _drift_text(layer),
        layer.verdict.value,
        number(layer.sigma0),
        layer.action,
    )


def _full_cells(layer: LayerReport) -> tuple[str, ...]:
    return (
        layer.name,
        shape_text(layer.shape),
        str(layer.fan_in),
        number(layer.initial_variance, 4),
        number(layer.variance, 4),
        _ratio_text(layer),
        number(layer.standard_error, 2),
        number(layer.excess_kl, 2),
        _drift_text(layer),
        layer.verdict.value,
        "-" if layer.fired_at_step is None else str(layer.fired_at_step),
        _projection_text(layer),
        number(layer.relaxation_steps),
        number(layer.drive, 2),
        number(layer.decay, 2),
        number(layer.steady_state),
        number(layer.noise_steady_state),
        _forgetting_text(layer),
        number(layer.implied_variance),
        number(layer.forgotten_share, 2),
        number(layer.learning_rate),
        number(layer.sigma0, 4),
        layer.action,
        " ".join(part for part in (layer.note, layer.reason) if part),
    )


def _ratio_text(layer: LayerReport) -> str:
    return number(layer.ratio) + (" unchanged" if layer.unchanged else "")


def _drift_text(layer: LayerReport) -> str:
    if math.isnan(layer.drift_index):
        return "-"
    index, lower, upper = (
        f"{value:.2f}" if value < 99 else ">99"
        for value in (layer.drift_index, layer.drift_lower, layer.drift_upper)
    )
    return f"{index} [{lower},{upper}]"


def _projection_text(layer: LayerReport) -> str:
    if math.isnan(layer.projected):
        return "-"
    band = f"[{number(layer.projected_lower)},{number(layer.projected_upper)}]"
    return f"{number(layer.projected)} {band}"


def _forgetting_text(layer: LayerReport) -> str:
    if layer.forgetting is None:
        return "-"
    return f"{number(layer.surviving_share, 2)} {layer.forgetting.value}"
