"""Figures, drawn without pyplot: no global state, no window, nothing left open.

matplotlib is optional and imported when a figure is drawn. Every figure is 5 x 3.6 inches, so that
its text stays legible at the width at which TensorBoard shows images.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_init.figure_style import (
    GREY,
    MOST_POINTS_PER_CURVE,
    PALETTE,
    blank_axes,
    plain_text,
)
from lightning_init.reporting.weight_figures import weight_panels
from lightning_init.tables import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_init.reporting.records import ProbeRecord


def report_images(report: ProbeRecord) -> dict[str, NDArray[np.uint8]]:
    """Draw what belongs to a report.

    Args:
        report: What a probe found.

    Returns:
        Images of shape (height, width, 3) by name; empty if matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return {}
    images = {}
    if report.history.steps:
        images["trajectories"] = render(record_trajectories(report))
    changed = [layer for layer in report.layers if not math.isnan(layer.log_ratio)]
    if changed:
        layer = max(changed, key=lambda layer: abs(layer.log_ratio))
        bound = variance_bound(layer.variance, layer.initial_variance, layer.name)
        images["bound"] = render(bound)
    if report.weight_samples:
        images["weights"] = render(weight_panels(report.weight_samples))
    return images


def record_trajectories(record: ProbeRecord) -> Figure:
    """Draw the trajectory of every layer's variance, with the steps where it became stationary.

    Raises:
        ImportError: matplotlib is not installed.
    """
    fired = {layer.name: layer.fired_at_step for layer in record.layers}
    series = dict(zip(record.history.layers, record.history.variances, strict=True))
    return variance_trajectories(record.history.steps, series, fired)


def render(figure: Figure) -> NDArray[np.uint8]:
    """Rasterize a figure to an array of shape (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3]


def variance_trajectories(
    steps: Sequence[int],
    series: Mapping[str, Sequence[float]],
    fired: Mapping[str, int | None],
) -> Figure:
    """Draw V over its first value, per layer, against probe steps.

    The six layers that moved most are named, the others are grey; a dot marks the step at which a
    layer's verdict became stationary.

    Args:
        steps: Probe step of each sample.
        series: Per layer, V at each of `steps`.
        fired: Per layer, the probe step at which it became stationary, or None.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = blank_axes("probe step", "V / V before the probe")
    x = np.asarray(steps, dtype=np.float64)
    ratios = {name: _over_first(values) for name, values in series.items()}
    order = sorted(ratios, key=lambda name: _movement(ratios[name]), reverse=True)
    named, rest = order[: len(PALETTE)], order[len(PALETTE) :]
    if rest:
        label = f"{len(rest)} more layers"
        _draw_layers(axes, x, [ratios[name] for name in rest], GREY, 0.5, label)
        _mark_fired(axes, x, {name: ratios[name] for name in rest}, fired, GREY)
    for name, colour in reversed(list(zip(named, PALETTE, strict=False))):
        _draw_layers(axes, x, [ratios[name]], colour, 1.6, plain_text(name, 24))
        _mark_fired(axes, x, {name: ratios[name]}, fired, colour)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":", zorder=1)
    axes.set_title("Variance of the weights (dot: stationary)")
    if order:
        lines, labels = _legend_entries(axes)
        figure.subplots_adjust(bottom=0.15 + 0.065 * math.ceil(len(lines) / 2))
        figure.legend(lines, labels, loc="lower center", ncols=2, frameon=False)
    return figure


def variance_bound(variance: float, initial_variance: float, layer: str) -> Figure:
    """Draw the excess KL divergence per weight against sigma0^2, with V and the variance before.

    The curve is (log r + 1/r - 1) / 2 with r = sigma0^2 / V, zero at sigma0^2 = V: what the bound
    of Horii & Has (arXiv 2508.12834) loses per weight when the first weights have another variance.

    Args:
        variance: V at the end of the probe.
        initial_variance: Realised variance before the probe.
        layer: Name for the title.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = blank_axes("σ₀²", "excess KL per weight (nat)")
    from matplotlib.ticker import LogLocator, NullLocator

    reach = max(1.5, 1.3 * abs(math.log(initial_variance / variance)))
    ratio = np.exp(np.linspace(-reach, reach, 400))
    axes.plot(variance * ratio, _excess(ratio), color=PALETTE[0], linewidth=1.8)
    before = initial_variance / variance
    marks = ((1.0, PALETTE[2], "o", "V"), (before, PALETTE[1], "s", "before the probe"))
    for r, colour, marker, name in marks:
        axes.plot(
            [variance * r],
            _excess(np.array([r])),
            color=colour,
            marker=marker,
            markersize=8,
            linestyle="none",
            label=f"{name}: {number(variance * r)}",
        )
    axes.set_xscale("log")
    # Plain numbers: powers of ten are formulas, whose layout takes half of the drawing.
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if reach < 4 else (1.0,)))
    axes.xaxis.set_major_formatter(lambda value, _: number(value))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(f"Bound in σ₀²: {plain_text(layer, 32)}")
    axes.legend(frameon=False, loc="upper center")
    return figure


def log_norm_fan(
    drift: Sequence[float], variance: Sequence[float], measured: Sequence[float] | None = None
) -> Figure:
    """Draw the predicted log-norm through depth as a fan, and the measured one over it.

    After k layers, log(||x_k|| / ||x_0||) has mean sum of `drift` and variance sum of `variance`
    over the first k layers (Gurbuzbalaban & Hu 2021, arXiv 2005.11878); the bands are one and two
    standard deviations.

    Args:
        drift: Predicted mean change of log ||x|| per layer, shape (depth,).
        variance: Predicted variance of that change per layer, shape (depth,).
        measured: log(||x_k|| / ||x_0||) for k = 1 .. depth, or None.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = blank_axes("depth (layers)", r"$\log\,\|x_k\| / \|x_0\|$")
    depth = np.arange(len(drift) + 1)
    mean = np.concatenate([[0.0], np.cumsum(drift)])
    deviation = np.sqrt(np.concatenate([[0.0], np.cumsum(variance)]))
    for width, alpha in ((2, 0.18), (1, 0.32)):
        axes.fill_between(
            depth,
            mean - width * deviation,
            mean + width * deviation,
            color=PALETTE[0],
            alpha=alpha,
            linewidth=0,
            label=f"predicted, {width} s.d.",
        )
    axes.plot(depth, mean, color=PALETTE[0], linewidth=1.6, label="predicted mean")
    if measured is not None:
        axes.plot(depth, [0.0, *measured], color=PALETTE[1], linewidth=1.6, label="measured")
    axes.axhline(0.0, color="black", linewidth=0.8, linestyle=":")
    axes.set_title("Log-norm of the signal")
    axes.legend(frameon=False, loc="best")
    return figure


def _excess(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * (np.log(ratio) + 1 / ratio - 1)


def _over_first(values: Sequence[float]) -> NDArray[np.float64]:
    series = np.asarray(values, dtype=np.float64)
    first = series[0] if series.size and 0 < series[0] < math.inf else math.nan
    return series / first


def _movement(ratio: NDArray[np.float64]) -> float:
    known = ratio[np.isfinite(ratio) & (ratio > 0)]
    return float(np.max(np.abs(np.log(known)))) if known.size else -1.0


def _draw_layers(
    axes: Axes,
    steps: NDArray[np.float64],
    ratios: Sequence[NDArray[np.float64]],
    colour: str,
    width: float,
    label: str,
) -> None:
    """Draw many curves as one line with gaps: a line of its own each takes milliseconds."""
    stride = max(1, len(steps) // MOST_POINTS_PER_CURVE)
    x = np.concatenate([np.append(steps[::stride], math.nan) for _ in ratios])
    y = np.concatenate([np.append(ratio[::stride], math.nan) for ratio in ratios])
    (line,) = axes.plot(x, y, color=colour, linewidth=width)
    line.set_gid(label)


def _mark_fired(
    axes: Axes,
    steps: NDArray[np.float64],
    ratios: Mapping[str, NDArray[np.float64]],
    fired: Mapping[str, int | None],
    colour: str,
) -> None:
    at = [(step, name) for name in ratios if (step := fired.get(name)) is not None]
    heights = [float(np.interp(step, steps, ratios[name])) for step, name in at]
    axes.plot([step for step, _ in at], heights, "o", markersize=5, color=colour)


def _legend_entries(axes: Axes) -> tuple[list[Any], list[str]]:
    # Not by labels: matplotlib hides those that begin with an underscore, as a layer's name may.
    lines = [line for line in reversed(axes.lines) if line.get_gid() is not None]
    return lines, [str(line.get_gid()) for line in lines]
