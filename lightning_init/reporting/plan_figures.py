"""The figures of a closed-form plan: what the weights become, and what the signal does."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_init.figure_style import PALETTE, blank_axes
from lightning_init.initialization.measurement import fan_increments
from lightning_init.initialization.plan import InitPlan
from lightning_init.reporting.figures import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plan_images(plan: InitPlan) -> dict[str, NDArray[np.uint8]]:
    """Draw what belongs to a plan, the log-norm if it was predicted through two layers.

    Returns:
        Images of shape (height, width, 3) by name; none without matplotlib.
    """
    if importlib.util.find_spec("matplotlib") is None or not plan.rows:
        return {}
    images = {"first_weights": render(plan.plot())}
    drift, variance, measured = fan_increments(plan.log_norms)
    if len(drift) > 1:
        images["log_norm"] = render(log_norm_fan(drift, variance, measured))
    return images


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
    figure, axes = blank_axes("layers in a row", "log of the signal's norm")
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
    axes.set_title("Size of the signal, layer by layer", fontsize=10)
    # Below the axes: over them it would hide the curves.
    figure.subplots_adjust(bottom=0.33)
    figure.legend(loc="lower center", ncols=2, frameon=False, fontsize=8)
    return figure
