"""How a report reads: its page, its headline, and plain containers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any

from lightning_init.pages import Page, columns_of
from lightning_init.stationarity.decision import Verdict
from lightning_init.tables import banded, grouped, left_out_lines, number, shape_text

if TYPE_CHECKING:
    from lightning_init.reporting.records import LayerReport, ProbeRecord

# Reasons below a short table; the full one has every layer's.
MOST_REASONS = 6
#: Header, cell, and when the column goes where it is narrow (see `Column`).
_SHORT: tuple[tuple[str, Callable[[LayerReport], str], int], ...] = (
    ("layer", lambda layer: layer.name, 0),
    ("shape", lambda layer: shape_text(layer.shape), 5),
    ("V", lambda layer: number(layer.variance), 4),
    ("V/V before", lambda layer: number(layer.ratio), 0),
    ("drift", lambda layer: _drift(layer), 3),
    ("verdict", lambda layer: layer.verdict.value, 0),
    ("sigma0", lambda layer: number(layer.sigma0), 2),
    ("action", lambda layer: layer.action, 0),
)
_MORE: tuple[tuple[str, Callable[[LayerReport], str], int], ...] = (
    ("fan_in", lambda layer: str(layer.fan_in), 6),
    ("V before", lambda layer: number(layer.initial_variance, 4), 7),
    ("rel. s.e.", lambda layer: number(layer.standard_error, 2), 8),
    ("cost of V before (nat)", lambda layer: number(layer.excess_kl, 2), 9),
    ("fired at", lambda layer: str(layer.fired_at_step or "-"), 10),
    ("V at horizon", lambda layer: _projection(layer), 11),
    ("relaxation (steps)", lambda layer: number(layer.relaxation_steps), 12),
    ("drive", lambda layer: number(layer.drive, 2), 13),
    ("decay", lambda layer: number(layer.decay, 2), 14),
    ("steady state", lambda layer: number(layer.steady_state), 15),
    ("of noise alone", lambda layer: number(layer.noise_steady_state), 16),
    ("implied V", lambda layer: number(layer.implied_variance), 17),
    ("forgotten by decay", lambda layer: number(layer.forgotten_share, 2), 18),
    ("learning rate", lambda layer: number(layer.learning_rate), 19),
    ("of start left", lambda layer: _forgetting(layer), 20),
)


def report_page(report: ProbeRecord, max_rows: int | None) -> Page:
    """The page of a report: at most so many layers, those that change most first; None for all."""
    every = max_rows is None
    layers = report.layers if every else tuple(sorted(report.layers, key=_by_change)[:max_rows])
    hidden = len(report.layers) - len(layers)
    if not (every or report.total_steps):
        layers = ()  # there is nothing to say of one layer that does not hold for all
    more = f"... and {hidden} more layers that change less: `print(report.full())`."
    left_out = [(left.name, left.reason) for left in report.left_out]
    return Page(
        lead=f"OptimalVarianceInit: {headline(report)}.",
        columns=columns_of(layers, _SHORT + _MORE if every else _SHORT),
        facts=tuple(_facts(report)),
        remarks=(
            *([more] if hidden else []),
            *_reasons(report, every),
            *[f"note: {names}: {note}" for names, note in _notes(layers, every)],
            *[f"note: {note}" for note in report.notes],
            *left_out_lines(left_out, every),
        ),
        folds=every,
    )


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


def headline(report: ProbeRecord) -> str:
    """What matters, in a clause: what was changed, or that there is nothing to change."""
    total = len(report.layers)
    if report.interrupted:
        return f"interrupted after {_spaced(report.total_steps)} probe steps; weights are untouched"
    if report.divergence:
        return f"the probe diverged, all {total} layers keep their weights"
    if not total:
        return "no layer took part"
    if not report.total_steps:
        return f"no probe was made, all {total} layers keep their weights"
    redrawn, unchanged, kept = (
        [layer for layer in report.layers if layer.action == action]
        for action in ("redrawn", "unchanged", "kept")
    )
    largest = max((abs(layer.ratio - 1) for layer in unchanged), default=0.0)
    within = f"within {percent(largest)}"
    if len(unchanged) == total:
        return f"nothing to change: {total} of {total} layers {within}"
    done = f"{len(redrawn)} of {total} layers redrawn" if redrawn else "nothing was changed"
    parts = [done]
    parts += [f"{len(unchanged)} unchanged ({within} of V)"] if unchanged else []
    parts += [f"{len(kept)} kept ({_why_kept(kept)})"] if kept else []
    settled = sum(layer.verdict is Verdict.STATIONARY for layer in report.layers)
    return f"{', '.join(parts)}; {settled} of {total} layers stationary"


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


def _why_kept(kept: Sequence[LayerReport]) -> str:
    """Not settled, or the note of a layer that is kept for another reason."""
    reasons = {layer.note.partition(":")[0].partition(";")[0] or "kept" for layer in kept}
    return " or ".join(sorted(reasons)) if len(reasons) < 3 else "each with its reason below"


def _facts(report: ProbeRecord) -> list[str]:
    first, last = report.losses
    known = math.isfinite(first) and math.isfinite(last)
    losses = f"; its training loss went from {first:.3g} to {last:.3g}" if known else ""
    together = f"{report.total_steps} optimizer steps in all probes and trials together."
    rounds = f"The last of {report.rounds} rounds; " if report.rounds > 1 else ""
    same, compared = report.same_batches, report.compared_batches
    batches = (
        f"; {same} of {compared} compared batches of the run are the probe's,"
        f" which read {report.probe_batches}"
    )
    restart = report.restart + (batches if compared else "")
    if not report.total_steps:
        return [f"{cost(report)}.", report.stop_reason]
    return [
        f"{cost(report)}, {report.wall_time:.1f} s{losses}.",
        *([rounds + together] if report.total_steps != report.probe_steps else []),
        report.stop_reason,
        f"Judged over a horizon of {report.horizon_steps} optimizer steps, "
        f"one sample every {report.sample_interval}.",
        *([f"{restart}."] if restart else []),
    ]


def _spaced(steps: int) -> str:
    return f"{steps:,}".replace(",", " ")


def _reasons(report: ProbeRecord, every: bool) -> list[str]:
    """The reason of every verdict, once, with the layers that it holds for."""
    pairs = [(layer.name, layer.reason) for layer in report.layers if layer.reason]
    settled = [one for one in report.layers if one.verdict is Verdict.STATIONARY and not one.reason]
    most = None if every else 1
    found = [f"why: {names}: {reason}" for names, reason in grouped(pairs, most)]
    hidden = len(found) - MOST_REASONS
    if hidden > 0 and not every:
        found = [*found[:MOST_REASONS], f"why: {hidden} more reasons: `print(report.full())`."]
    if settled:
        known = [one.drift_upper for one in settled if math.isfinite(one.drift_upper)]
        moves = f"V moves by at most {max(known):.0%} over the horizon" if known else "V stays"
        ((names, _),) = grouped([(one.name, "") for one in settled], most)
        found.append(f"why: {names}: stationary, because {moves}{_tolerance(report)}.")
    return found


def _tolerance(report: ProbeRecord) -> str:
    tolerance = dict(report.settings).get("tolerance")
    return "" if tolerance is None else f", within the tolerance of {tolerance:.0%}"


def _notes(layers: Sequence[LayerReport], every: bool) -> list[tuple[str, str]]:
    """Notes on layers, each once; why a layer is kept stands in the headline of a short page."""
    pairs = [(layer.name, layer.note) for layer in layers if layer.note]
    pairs = [pair for pair in pairs if every or not pair[1].endswith(": initial weights kept")]
    return grouped(pairs, None if every else 4)


def _by_change(layer: LayerReport) -> float:
    # A layer without a ratio is the one to look at first.
    return -math.inf if math.isnan(layer.log_ratio) else -abs(layer.log_ratio)


def _drift(layer: LayerReport) -> str:
    return banded(layer.drift_index, layer.drift_lower, layer.drift_upper, ".2f")


def _projection(layer: LayerReport) -> str:
    return banded(layer.projected, layer.projected_lower, layer.projected_upper)


def _forgetting(layer: LayerReport) -> str:
    if layer.forgetting is None:
        return "-"
    return f"{number(layer.surviving_share, 2)} {layer.forgetting.value}"
