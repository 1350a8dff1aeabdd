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
    blank_figure,
    plain_text,
)
from lightning_init.tables import shorten_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_init.reporting.records import WeightSample


def weight_panels(samples: Sequence[WeightSample]) -> Figure:
    """Draw the weights of several layers before and after the probe, and the Gaussian drawn.

    Raises:
        ImportError: matplotlib is not installed.
    """
    columns = min(2, len(samples))
    rows = -(-len(samples) // columns)
    height = 1.05 * rows + 0.75
    figure = blank_figure(4.0, height, dpi=200)
    # By hand, in inches: a layout engine takes as long as all the rest of the drawing.
    bottom, top = 0.5 / height, 1 - 0.45 / height
    figure.subplots_adjust(0.03, bottom, 0.98, top, hspace=0.6, wspace=0.08)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(samples) :]:
        axes.axis("off")
    names = shorten_all([sample.name for sample in samples], 22)
    for axes, sample in zip(grid.flat, samples, strict=False):
        _draw_histogram(axes, sample.before, sample.after, sample.sigma0)
        axes.set_title(plain_text(names[sample.name], 22), fontsize=8, pad=3)
        # The height of a density says nothing, and ticks are what takes most of the drawing.
        axes.set_yticks([])
        axes.locator_params(axis="x", nbins=4)
        axes.tick_params(labelsize=7)
    figure.suptitle("Weights before and after the probe", fontsize=10)
    entries, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(entries, labels, loc="lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _draw_histogram(
    axes: Axes,
    before: NDArray[np.floating[Any]],
    after: NDArray[np.floating[Any]],
    std: float,
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
        axes.plot(x, gaussian, color=PALETTE[1], linewidth=1.8, label="N(0, σ₀²)")
