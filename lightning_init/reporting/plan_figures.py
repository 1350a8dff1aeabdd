"""The figure of a closed-form plan: what the weights become, and what the signal does."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lightning_init.figure_style import PALETTE, blank_axes, scale_figure
from lightning_init.initialization.measurement import LayerLogNorm, fan_increments
from lightning_init.initialization.planned_weight import PlannedWeight
from lightning_init.reporting.figures import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plan_images(
    rows: Sequence[PlannedWeight], log_norms: Sequence[LayerLogNorm]
) -> dict[str, NDArray[np.uint8]]:
    """Draw what belongs to a plan; nothing without matplotlib.

    Args:
        rows: Of the plan.
        log_norms: What a batch measured; drawn if a prediction was carried through two layers.

    Returns:
        Images of shape (height, width, 3) by name.
    """
    if importlib.util.find_spec("matplotlib") is None or not rows:
        return {}
    images = {"first_weights": render(plan_figure(rows))}
    drift, variance, measured = fan_increments(log_norms)
    if len(drift) > 1:
        images["log_norm"] = render(log_norm_fan(drift, variance, measured))
    return images


def plan_figure(rows: Sequence[PlannedWeight]) -> Figure:
    """Draw the standard deviation of every weight before and after.

    Raises:
        ImportError: matplotlib is not installed.
    """
    kept = [row.treatment == "keep" for row in rows]
    return scale_figure(
        [row.weight.name for row in rows],
        [row.before for row in rows],
        [row.before if same else row.std for row, same in zip(rows, kept, strict=True)],
        f"First weights: {len(rows) - sum(kept)} of {len(rows)} by the closed form",
        ["kept" if same else "redrawn" for same in kept],
    )


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
