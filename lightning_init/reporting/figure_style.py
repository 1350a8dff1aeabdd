"""The look of the package's figures, drawn without pyplot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_init.tables import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, distinct for the colour-blind; its yellow and black are left out.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#767676"
MOST_POINTS_PER_CURVE = 400


def plain_axes(figure: Figure, x: str, y: str) -> Axes:
    """Add axes in the package's look: a light grid behind, no frame at the top and right.

    Args:
        figure: Where to add them.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
    """
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#E5E5E5", linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def blank_figure(
    width: float,
    height: float,
    dpi: int = 160,
    layout: Literal["constrained"] | None = None,
    package: str = "matplotlib",
) -> Figure:
    """Make an empty figure.

    Args:
        width: In inches.
        height: In inches.
        dpi: Pixels per inch.
        layout: Layout engine of matplotlib; None is none.
        package: What to install when matplotlib is missing.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            f"figures need matplotlib; install it with `pip install {package}`."
        ) from None
    return Figure(figsize=(width, height), dpi=dpi, layout=layout)


def blank_axes(x: str, y: str) -> tuple[Figure, Axes]:
    """Make a figure of 800 x 576 pixels with one pair of axes.

    Args:
        x: Label of the horizontal axis.
        y: Label of the vertical axis.

    Raises:
        ImportError: matplotlib is not installed.
    """
    # Few inches, so that text is large: TensorBoard shows 800 pixels as 300.
    figure = blank_figure(4.0, 2.88, dpi=200)
    # By hand: a layout engine takes as long as all the rest of the drawing.
    figure.subplots_adjust(left=0.18, right=0.97, top=0.89, bottom=0.19)
    axes = plain_axes(figure, x, y)
    axes.tick_params(labelsize=8)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)
    return figure, axes


def render(figure: Figure) -> NDArray[np.uint8]:
    """Rasterize a figure to an array of shape (height, width, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[:, :, :3]


def legend_below(figure: Figure, axes: Axes) -> None:
    """Name the lines that have a gid, below the axes and in two columns.

    Not by labels: matplotlib hides those that begin with an underscore, as a layer's name may.
    """
    lines = [line for line in reversed(axes.lines) if line.get_gid() is not None]
    if lines:
        lines.sort(key=lambda line: line.get_color() == GREY)
        figure.subplots_adjust(bottom=0.19 + 0.07 * math.ceil(len(lines) / 2))
        labels = [str(line.get_gid()) for line in lines]
        figure.legend(lines, labels, loc="lower center", ncols=2, frameon=False, fontsize=8)


def plain_text(name: str, width: int) -> str:
    r"""Shorten a name, and keep matplotlib from reading it as mathematics.

    >>> print(plain_text("net.$x$", 20))
    net.\$x\$
    """
    # What stands between two dollar signs would be a formula.
    return shorten(name, width).replace("$", r"\$")
