"""Figures of a probe, one per question; drawn without pyplot: no window, nothing left open.

matplotlib is optional and imported when a figure is drawn. Every figure is 800 pixels wide, so that
its text stays legible at the width at which TensorBoard shows images.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_init.figure_style import (
    COLOURS,
    GREY,
    MOST_POINTS_PER_CURVE,
    PALETTE,
    blank_axes,
    legend_below,
    plain_text,
    scale_figure,
)
from lightning_init.reporting.bands import BandPoint, confidence_bands
from lightning_init.reporting.weight_figures import weight_panels
from lightning_init.stationarity.decision import Verdict
from lightning_init.tables import shorten_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_init.reporting.records import ProbeRecord

# Points of a band: a fit to a window of samples each.
BAND_POINTS = 60
Array = NDArray[np.float64]


def report_images(report: ProbeRecord) -> dict[str, NDArray[np.uint8]]:
    """Draw what belongs to a report, numbered in the order in which to read it.

    Args:
        report: What a probe found.

    Returns:
        Images of shape (height, width, 3) by name; empty if matplotlib is not installed,
        or no step was taken.
    """
    if importlib.util.find_spec("matplotlib") is None or not report.total_steps:
        return {}
    drawn: dict[str, Figure] = {}
    if report.layers:
        drawn["1_first_weights"] = first_weights(report)
    if report.history.steps:
        drawn["2_variance"] = record_trajectories(report)
    if any(map(math.isfinite, chain.from_iterable(report.history.drifts))):
        drawn["3_drift"] = record_drifts(report)
    if report.weight_samples:
        drawn["4_weights"] = weight_panels(report.weight_samples)
    return {name: render(figure) for name, figure in drawn.items()}


def render(figure: Figure) -> NDArray[np.uint8]:
    """Rasterize a figure to an array of shape (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3]


def leading_layers(record: ProbeRecord) -> list[str]:
    """The layers to look at first: those that moved most and those that drift most, in turns."""
    series = {name: _over_first(record.history.variance(name)) for name in record.history.layers}
    moved = sorted(series, key=lambda name: -_movement(series[name]))
    drift = {layer.name: abs(layer.drift_index) for layer in record.layers}
    known = [name for name in series if math.isfinite(drift.get(name, math.nan))]
    known.sort(key=lambda name: -drift[name])
    turns = chain.from_iterable(zip(moved, known, strict=False))
    return list(dict.fromkeys((*turns, *moved)))[: len(PALETTE)]


def first_weights(record: ProbeRecord) -> Figure:
    """Draw what a probe makes of the first weights.

    Raises:
        ImportError: matplotlib is not installed.
    """
    layers = record.layers
    actions = Counter(layer.action for layer in layers)
    summary = ", ".join(f"{actions[action]} {action}" for action in COLOURS if actions[action])
    return scale_figure(
        [layer.name for layer in layers],
        [max(layer.initial_variance, 0.0) ** 0.5 for layer in layers],
        [layer.sigma0 for layer in layers],
        f"First weights: {summary}",
        [layer.action for layer in layers],
        [max(layer.variance, 0.0) ** 0.5 for layer in layers],
    )


def record_trajectories(record: ProbeRecord) -> Figure:
    """Draw the trajectory of every layer's variance, with the steps where it became stationary.

    Raises:
        ImportError: matplotlib is not installed.
    """
    fired = {layer.name: layer.fired_at_step for layer in record.layers}
    history = record.history
    series = dict(zip(history.layers, history.variances, strict=True))
    leading = leading_layers(record)
    figure = variance_trajectories(history.steps, series, fired, leading)
    (axes,) = figure.axes
    for name, points, colour in _bands(record, leading):
        limits = np.array([(p.fitted_lower, p.fitted_upper) for p in points]) / series[name][0]
        _fill(axes, points, limits, colour)
    settled = sum(layer.verdict is Verdict.STATIONARY for layer in record.layers)
    axes.set_title(
        f"Variance in training: {settled} of {len(record.layers)} settled (dot)", fontsize=10
    )
    return figure


def variance_trajectories(
    steps: Sequence[int],
    series: Mapping[str, Sequence[float]],
    fired: Mapping[str, int | None],
    leading: Sequence[str] | None = None,
) -> Figure:
    """Draw V over its first value, per layer, against probe steps.

    The leading layers are named, the others are grey; a dot marks the step at which a layer's
    verdict became stationary.

    Args:
        steps: Probe step of each sample.
        series: Per layer, V at each of `steps`.
        fired: Per layer, the probe step at which it became stationary, or None.
        leading: Layers to name; by default the six that moved most.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = blank_axes("probe step", "V / V before the probe")
    x = np.asarray(steps, dtype=np.float64)
    ratios = {name: _over_first(values) for name, values in series.items()}
    if leading is None:
        leading = sorted(ratios, key=lambda name: -_movement(ratios[name]))[: len(PALETTE)]
    _draw_layers(axes, x, ratios, leading)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":", zorder=1)
    rest = [name for name in ratios if name not in leading]
    for names, colour in [
        (rest, GREY),
        *(([n], c) for n, c in zip(leading, PALETTE, strict=False)),
    ]:
        marks = [(step, name) for name in names if (step := fired.get(name)) is not None]
        heights = [float(np.interp(step, x, ratios[name])) for step, name in marks]
        if names:
            axes.plot([step for step, _ in marks], heights, "o", markersize=5, color=colour)
    axes.set_title("Variance in training (dot: settled)", fontsize=10)
    legend_below(figure, axes)
    return figure


def record_drifts(record: ProbeRecord) -> Figure:
    """Draw the drift of every layer against the tolerance, with confidence bands.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = blank_axes("probe step", "drift over the run")
    history, leading = record.history, leading_layers(record)
    drifts = {
        name: np.abs(np.asarray(values, dtype=np.float64))
        for name, values in zip(history.layers, history.drifts, strict=True)
    }
    tolerance = dict(record.settings).get("tolerance")
    _percent_axis(axes, tolerance, drifts.values())
    for _, points, colour in _bands(record, leading):
        limits = np.abs([(p.drift_lower, p.drift_upper) for p in points])
        _fill(axes, points, limits, colour)
    x = np.asarray(history.steps, dtype=np.float64)
    _draw_layers(axes, x, drifts, leading)
    below = sum(abs(layer.drift_index) <= (tolerance or 0) for layer in record.layers)
    axes.set_title(f"Drift: {below} of {len(record.layers)} end below the line", fontsize=10)
    known = x[np.isfinite(np.array(list(drifts.values()))).any(axis=0)]
    axes.set_xlim(known[0] - 0.02 * (x[-1] - known[0] + 1), x[-1] + 0.02 * (x[-1] - known[0] + 1))
    legend_below(figure, axes)
    return figure


def _percent_axis(axes: Axes, tolerance: float | None, drifts: Iterable[Array]) -> None:
    """A logarithmic axis that always shows the tolerance, however large the drifts are."""
    from matplotlib.ticker import LogLocator, NullLocator

    values = np.concatenate(list(drifts))
    values = values[np.isfinite(values) & (values > 0)]
    line = tolerance or 0.1
    low = min(line / 5, max(line / 100, float(np.min(values, initial=line))))
    high = max(line * 5, float(np.max(values, initial=line)))
    axes.set_yscale("log")
    axes.set_ylim(low / 1.3, high * 1.3)
    # Plain numbers: powers of ten are formulas, whose layout takes half of the drawing.
    subs = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.yaxis.set_minor_locator(NullLocator())
    if tolerance is not None:
        axes.axhspan(low / 1.3, tolerance, color=PALETTE[2], alpha=0.1, linewidth=0)
        line_drawn = axes.axhline(tolerance, color="black", linewidth=1.6, linestyle="--")
        line_drawn.set_gid(f"tolerance {100 * tolerance:g} %")


def _bands(
    record: ProbeRecord, leading: Sequence[str]
) -> list[tuple[str, tuple[BandPoint, ...], str]]:
    steps = record.history.steps
    some = steps[:: max(1, len(steps) // BAND_POINTS)]
    found = [(name, confidence_bands(record, name, some)) for name in leading]
    coloured = zip(found, PALETTE, strict=False)
    return [(name, points, colour) for (name, points), colour in coloured if points]


def _fill(axes: Axes, points: Sequence[BandPoint], limits: Array, colour: str) -> None:
    steps = [point.step for point in points]
    axes.fill_between(steps, limits[:, 0], limits[:, 1], color=colour, alpha=0.22, linewidth=0)


def _over_first(values: Sequence[float]) -> Array:
    series = np.asarray(values, dtype=np.float64)
    first = series[0] if series.size and 0 < series[0] < math.inf else math.nan
    return series / first


def _movement(ratio: Array) -> float:
    known = ratio[np.isfinite(ratio) & (ratio > 0)]
    return float(np.max(np.abs(np.log(known)))) if known.size else -1.0


def _draw_layers(
    axes: Axes, steps: Array, series: Mapping[str, Array], leading: Sequence[str]
) -> None:
    """Draw the leading layers each in its colour, and all others in grey."""
    rest = [values for name, values in series.items() if name not in leading]
    names = shorten_all(leading, 24)
    for name, colour in reversed(list(zip(leading, PALETTE, strict=False))):
        _draw_line(axes, steps, [series[name]], colour, 1.6, plain_text(names[name], 24))
    if rest:
        _draw_line(axes, steps, rest, GREY, 0.5, f"{len(rest)} more layers")


def _draw_line(
    axes: Axes, steps: Array, series: Sequence[Array], colour: str, width: float, label: str
) -> None:
    """Draw many curves as one line with gaps: a line of its own each takes milliseconds."""
    stride = max(1, len(steps) // MOST_POINTS_PER_CURVE)
    x = np.concatenate([np.append(steps[::stride], math.nan) for _ in series])
    y = np.concatenate([np.append(values[::stride], math.nan) for values in series])
    grey = 1.5 if colour == GREY else 2.0
    (line,) = axes.plot(x, y, color=colour, linewidth=width, zorder=grey)
    line.set_gid(label)
