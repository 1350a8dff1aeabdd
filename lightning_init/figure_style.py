"""The look of the package's figures, drawn without pyplot, and the figure of first scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from lightning_init.tables import number, shorten, shorten_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, distinct for the colour-blind; its yellow and black are left out.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#767676"
MOST_POINTS_PER_CURVE = 400
BARS = 8
COLOURS = {"redrawn": PALETTE[0], "unchanged": GREY, "kept": PALETTE[4]}


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


class _Scale(NamedTuple):
    """Standard deviations of one layer: what was there, what is drawn, what training settles at."""

    layer: str
    before: float
    after: float
    action: str
    found: float

    @property
    def factors(self) -> list[float]:
        """`after` and `found` over `before`, where they exist."""
        ratios = [value / self.before for value in (self.after, self.found) if self.before > 0]
        return [ratio for ratio in ratios if 0 < ratio < math.inf]

    @property
    def reach(self) -> float:
        """How far the bars of this layer reach from 1, as a logarithm."""
        return max((abs(math.log(ratio)) for ratio in self.factors), default=0.0)


def scale_figure(
    names: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    title: str,
    actions: Sequence[str] | None = None,
    found: Sequence[float] | None = None,
) -> Figure:
    """Draw the standard deviation of first weights, of the layers that change most.

    A bar per layer shows by which factor it changes; the others are counted.

    Args:
        names: Layer names.
        before: What was there, one value per layer; nan where that is not known.
        after: What is drawn.
        title: One line above.
        actions: Per layer "redrawn" (the default), "unchanged" or "kept".
        found: What training settles at, for a pale bar.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = blank_axes("x the standard deviation before", "")
    rows = zip(
        names, before, after, actions or ["redrawn"] * len(names), found or after, strict=True
    )
    order = sorted((_Scale(*row) for row in rows), key=lambda row: -row.reach)
    shown, rest = order[:BARS], order[BARS:]
    short = shorten_all([row.layer for row in shown], 16)
    axes.set_yticks(range(len(shown)), [plain_text(short[row.layer], 16) for row in shown])
    axes.set_ylim(max(4, len(shown)) - 0.4, -0.6)
    _factor_axis(axes, max((row.reach for row in shown), default=0.0))
    for place, row in enumerate(shown):
        _draw_bars(axes, place, row)
    if found is not None:
        axes.set_xlabel("x the standard deviation before (pale: V)", fontsize=8)
    if rest:
        changes = [row.after / row.before for row in rest if row.before > 0]
        between = f": x{number(min(changes))} to x{number(max(changes))}" if changes else ""
        figure.text(0.98, 0.03, f"{len(rest)} more layers{between}", fontsize=8, ha="right")
    figure.suptitle(title, fontsize=10)
    figure.subplots_adjust(left=0.25, right=0.63, bottom=0.25)
    return figure


def _draw_bars(axes: Axes, place: int, row: _Scale) -> None:
    colour = COLOURS[row.action]
    for ratio, alpha in zip(reversed(row.factors), (0.25, 1.0), strict=False):
        axes.barh(place, ratio - 1, 0.6, left=1, color=colour, alpha=alpha, linewidth=0)
    arrow = f"{number(row.before)} → " if row.action == "redrawn" else ""
    words, at = f"{arrow}{number(row.after)} {row.action}", (1.03, place)
    beside = ("axes fraction", "data")
    axes.annotate(words, at, xycoords=beside, fontsize=8, va="center", color=colour)


def _factor_axis(axes: Axes, reach: float) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    reach = max(1.15 * reach, 0.25)
    if reach > 1.0:
        axes.set_xscale("log")
        subs = (1.0, 2.0, 5.0) if reach < 4 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(math.exp(-reach), math.exp(reach))
    axes.xaxis.set_major_formatter(lambda value, _: f"x{number(value)}")
    axes.axvline(1.0, color="black", linewidth=0.8)
