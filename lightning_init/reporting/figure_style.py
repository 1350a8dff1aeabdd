"""The look of the package's figures, drawn without pyplot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lightning_init.tables import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, distinct for the colour-blind; its yellow and black are left out.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#767676"
MOST_POINTS_PER_CURVE = 400


def plain_axes(figure: Figure, x: str, y: str, place: tuple[int, int, int] = (1, 1, 1)) -> Axes:
    """Add axes in the package's look: a light grid behind, no frame at the top and right.

    Args:
        figure: Where to add them.
        x: Label of the horizontal axis.
        y: Label of the vertical axis.
        place: Rows and columns of a grid of axes, and which of them, counted from 1.
    """
    axes = figure.add_subplot(*place)
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
    """Make a figure of 5 x 3.6 inches with one pair of axes.

    Args:
        x: Label of the horizontal axis.
        y: Label of the vertical axis.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = blank_figure(5.0, 3.6)
    # By hand: a layout engine takes as long as all the rest of the drawing.
    figure.subplots_adjust(left=0.16, right=0.97, top=0.91, bottom=0.15)
    return figure, plain_axes(figure, x, y)


def plain_text(name: str, width: int) -> str:
    r"""Shorten a name, and keep matplotlib from reading it as mathematics.

    >>> print(plain_text("net.$x$", 20))
    net.\$x\$
    """
    # What stands between two dollar signs would be a formula.
    return shorten(name, width).replace("$", r"\$")
