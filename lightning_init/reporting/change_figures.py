"""What the first weights become: one bar per layer, from what was there to what is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lightning_init.reporting.figure_style import GREY, PALETTE, blank_axes, plain_text
from lightning_init.reporting.rendering import headline
from lightning_init.tables import number, shorten_all

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lightning_init.reporting.records import ProbeRecord

BARS = 8
COLOURS = {"redrawn": PALETTE[0], "unchanged": GREY, "kept": PALETTE[4]}


class Change(NamedTuple):
    """The standard deviation of one layer's weights.

    Args:
        layer: Its name.
        before: What was there.
        after: What the first weights have.
        action: "redrawn", "unchanged" or "kept".
        found: What training settles at, where that is known; drawn as a pale bar.
    """

    layer: str
    before: float
    after: float
    action: str
    found: float = math.nan

    @property
    def factor(self) -> float:
        """`after` over `before`; nan where that does not exist."""
        return _ratio(self.after, self.before)

    @property
    def size(self) -> float:
        """How far from 1 the bars of this layer reach, as a logarithm; 0 where it is unknown."""
        ratios = (self.factor, _ratio(self.found, self.before))
        return max(abs(math.log(ratio)) if 0 < ratio < math.inf else 0.0 for ratio in ratios)


def first_weights(record: ProbeRecord) -> Figure:
    """Draw what a probe makes of the first weights.

    Raises:
        ImportError: matplotlib is not installed.
    """
    changes = [
        Change(
            layer.name,
            math.sqrt(layer.initial_variance) if layer.initial_variance >= 0 else math.nan,
            layer.sigma0,
            layer.action,
            math.sqrt(layer.variance) if layer.variance >= 0 else math.nan,
        )
        for layer in record.layers
    ]
    figure, axes = change_bars(changes)
    figure.suptitle(f"First weights: {headline(record).partition(';')[0]}", fontsize=10)
    axes.set_xlabel("x the standard deviation before (pale: V)", fontsize=8)
    return figure


def change_bars(changes: Sequence[Change]) -> tuple[Figure, Axes]:
    """Draw the layers that change most, by how much; the others are counted.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = blank_axes("x the standard deviation before", "")
    order = sorted(changes, key=lambda change: -change.size)
    shown = order[:BARS]
    draw_bars(axes, shown)
    if rest := order[BARS:]:
        factors = [change.factor for change in rest if change.factor > 0]
        between = f": x{number(min(factors))} to x{number(max(factors))}" if factors else ""
        words = f"{len(rest)} more layers{between}"
        figure.text(0.98, 0.03, words, fontsize=8, ha="right")
    figure.subplots_adjust(left=0.25, right=0.63, bottom=0.25)
    return figure, axes


def draw_bars(axes: Axes, shown: Sequence[Change]) -> None:
    """One bar per layer from 1, with its numbers beside it, the first layer on top."""
    names = shorten_all([change.layer for change in shown], 16)
    axes.set_yticks(range(len(shown)), [plain_text(names[c.layer], 16) for c in shown], fontsize=8)
    axes.set_ylim(max(4, len(shown)) - 0.4, -0.6)
    _factor_axis(axes, max((change.size for change in shown), default=0.0))
    for place, change in enumerate(shown):
        colour = COLOURS[change.action]
        for ratio, alpha in ((_ratio(change.found, change.before), 0.25), (change.factor, 1.0)):
            if 0 < ratio < math.inf:
                axes.barh(place, ratio - 1, 0.6, left=1, color=colour, alpha=alpha, linewidth=0)
        arrow = f"{number(change.before)} → " if change.action == "redrawn" else ""
        words = f"{arrow}{number(change.after)} {change.action}"
        axes.annotate(
            words,
            (1.03, place),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            va="center",
            color=colour,
        )


def _factor_axis(axes: Axes, reach: float) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    reach = max(1.15 * reach, 0.25)
    if reach > 1.0:
        axes.set_xscale("log")
        subs = (1.0, 2.0, 5.0) if reach < 4 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(*np.exp([-reach, reach]))
    axes.xaxis.set_major_formatter(lambda value, _: f"x{number(value)}")
    axes.axvline(1.0, color="black", linewidth=0.8)


def _ratio(value: float, before: float) -> float:
    return value / before if before > 0 else math.nan
