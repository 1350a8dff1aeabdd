"""The look of the package's figures, drawn without pyplot, and the figure of first scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lightning_init.tables import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, distinct for the colour-blind; its yellow and black are left out.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#767676"
MOST_POINTS_PER_CURVE = 400
MOST_LAYERS_PER_FIGURE = 30


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


def scale_figure(
    names: Sequence[str], before: Sequence[float], after: Sequence[float], title: str
) -> Figure:
    """Draw the standard deviation of every layer's first weights, before and after.

    The layers that change most are drawn, in the order given; a scale that is not known is not.

    Args:
        names: Layer names.
        before: What was there, one value per layer.
        after: What is drawn.
        title: One line above.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = list(zip(names, before, after, strict=True))
    by_change = sorted(rows, key=lambda row: -abs(math.log(row[2] / row[1])) if _both(row) else 0.0)
    shown = [row for row in rows if row in by_change[:MOST_LAYERS_PER_FIGURE]]
    figure = blank_figure(6.4, 1.2 + 0.22 * max(4, len(shown)), layout="constrained")
    axes = plain_axes(figure, "standard deviation", "")
    for place, row in enumerate(shown):
        if _both(row):
            axes.plot(row[1:], (place, place), color=GREY, linewidth=1.0, zorder=1)
    places = range(len(shown))
    axes.scatter(
        [row[1] for row in shown], places, s=22, facecolor="white", edgecolor=GREY, label="before"
    )
    axes.scatter([row[2] for row in shown], places, s=22, color=PALETTE[0], label="after")
    axes.set_yticks(places, [plain_text(name, 32) for name, *_ in shown], fontsize=8)
    axes.invert_yaxis()
    if any(value > 0 for row in shown for value in row[1:]):
        axes.set_xscale("log")
    hidden = len(rows) - len(shown)
    axes.set_title(title + (f" ({hidden} that change less are not drawn)" if hidden else ""))
    axes.legend(frameon=False, loc="best")
    return figure


def _both(row: tuple[str, float, float]) -> bool:
    return row[1] > 0 and row[2] > 0 and math.isfinite(row[1]) and math.isfinite(row[2])
