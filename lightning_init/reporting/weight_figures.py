"""Histograms of the weights of layers before and after a probe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_init.figure_style import (
    GREY,
    PALETTE,
    blank_axes,
    blank_figure,
    plain_text,
)
from lightning_init.tables import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_init.reporting.records import WeightSample


def weight_histograms(
    before: NDArray[np.floating[Any]], after: NDArray[np.floating[Any]], std: float, layer: str
) -> Figure:
    """Draw the weights of one layer before and after the probe, and the Gaussian that is drawn.

    Args:
        before: Weights before the probe, any shape.
        after: Weights at its end, any shape.
        std: Standard deviation of the Gaussian.
        layer: Name for the title.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = blank_axes("weight", "density")
    _draw_histogram(axes, before, after, std, layer)
    axes.legend(frameon=False, loc="upper right")
    return figure


def weight_panels(samples: Sequence[WeightSample]) -> Figure:
    """Draw `weight_histograms` of several layers side by side.

    Raises:
        ImportError: matplotlib is not installed.
    """
    columns = min(3, len(samples))
    rows = -(-len(samples) // columns)
    # Three columns are as wide as the other figures.
    height = 2.2 * rows + 0.3
    width = 8.0 / 3 * columns
    figure = blank_figure(width, height, dpi=100)
    # By hand, in inches: a layout engine takes as long as all the rest of the drawing.
    figure.subplots_adjust(
        left=0.15 / width,
        right=0.985,
        top=1 - 0.27 / height,
        bottom=0.6 / height,
        hspace=0.32,
        wspace=0.08,
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(samples) :]:
        axes.axis("off")
    for axes, sample in zip(grid.flat, samples, strict=False):
        _draw_histogram(axes, sample.before, sample.after, sample.sigma0, sample.name)
        axes.set_title(plain_text(sample.name, 24), fontsize=9)
        # The height of a density says nothing, and ticks are what takes most of the drawing.
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(labelsize=7)
    entries, labels = grid.flat[0].get_legend_handles_labels()
    labels[-1] = "N(0, σ₀²)"
    figure.legend(entries, labels, loc="lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _draw_histogram(
    axes: Axes,
    before: NDArray[np.floating[Any]],
    after: NDArray[np.floating[Any]],
    std: float,
    layer: str,
) -> None:
    both = np.concatenate([np.ravel(before), np.ravel(after)])
    low, high = np.quantile(both, [0.0005, 0.9995])
    if low == high:
        low, high = low - 0.5, high + 0.5
    bins = np.linspace(low, high, 61)
    for values, colour, name in ((before, GREY, "before"), (after, PALETTE[0], "after the probe")):
        heights, _ = np.histogram(values, bins=bins)
        density = heights / (max(1, np.size(values)) * np.diff(bins))
        axes.stairs(density, bins, color=colour, fill=True, alpha=0.35, label=name)
        axes.stairs(density, bins, color=colour, linewidth=1.0)
    if std > 0:
        x = np.linspace(low, high, 400)
        gaussian = np.exp(-0.5 * (x / std) ** 2) / (std * math.sqrt(2 * math.pi))
        axes.plot(x, gaussian, color=PALETTE[1], linewidth=1.8, label=f"N(0, {number(std)}²)")
    axes.set_title(f"Weights: {plain_text(layer, 36)}")
