"""An elementwise function known by its values on a grid, interpolated between its kinks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lightning_init.theory.special import FloatArray

REACH = 9.5  # a standard normal variable goes beyond with probability 2e-21
_STENCIL = 4  # nodes of one cubic
_FEWEST = 64
_SMALLEST_KINK = 0.02  # jump of the slope, relative to its root mean square
_SHARPNESS = 4.0  # how far a kink's second difference stands above those beside it
_BESIDE = 3
_AT_A_NODE = 1e-4  # of a step
_CORRECTIONS = 8


@dataclass(frozen=True)
class SampledFunction:
    """Cubic interpolation of values on a uniform grid, which never reaches across a kink or a jump.

    With 2001 values on [-10, 10] a smooth function is met to about 1e-9. A kink between two nodes
    is put where the cubics of its two sides meet, a jump in the middle of its cell.

    Args:
        left: First node, at most -9.5.
        right: Last node, at least 9.5.
        values: The function at the nodes.

    Raises:
        ValueError: If the grid is too short, or a value is not finite.
    """

    left: float
    right: float
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (self.left <= -REACH and self.right >= REACH and len(self.values) >= _FEWEST):
            raise ValueError(
                f"`values` must be at least {_FEWEST} on a grid that covers [-{REACH}, {REACH}], "
                f"got {len(self.values)} on [{self.left:g}, {self.right:g}]."
            )
        if not np.all(np.isfinite(self.values)):
            raise ValueError("`values` must be finite; sample the function where it is.")

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:  # of two thousand numbers, asked for at every look-up of a law
        return hash((self.left, self.right, self.values))

    @property
    def breakpoints(self) -> tuple[float, ...]:
        """Where a kink or a jump was found."""
        return tuple(self._pieces[2])

    def __call__(self, z: FloatArray) -> FloatArray:
        """The function at z, shape of z; its outermost cubics go on outside the grid."""
        edges, starts, _ = self._pieces
        start = starts[np.clip(np.searchsorted(edges, z, side="right") - 1, 0, len(starts) - 1)]
        return cubic(self._array, start, (z - self.left) / self._step - start)

    @cached_property
    def _array(self) -> FloatArray:
        return np.array(self.values)

    @property
    def _step(self) -> float:
        return (self.right - self.left) / (len(self.values) - 1)

    @cached_property
    def _pieces(self) -> tuple[FloatArray, np.ndarray, list[float]]:
        """Left edges of the pieces, the first node of the cubic of each, and the kinks."""
        edges: list[float] = []
        starts: list[int] = []
        kinks: list[float] = []
        nodes = len(self.values)
        left_node = 0
        end = nodes - 1, nodes - 1, math.inf
        for low, high, place in [*map(self._placed, _kinks(self._array)), end]:
            cells = np.arange(left_node, low)
            edges += (self.left + self._step * cells).tolist()
            starts += np.clip(cells - 1, left_node, low - _STENCIL + 1).tolist()
            if high > low:  # the cells of the kink: their right part belongs to the next segment
                edges += [self.left + self._step * low, place]
                starts += [low - _STENCIL + 1, high]
            kinks.append(place)
            left_node = high
        return np.array(edges), np.array(starts), kinks[:-1]

    def _placed(self, kink: tuple[int, int]) -> tuple[int, int, float]:
        """The last node to the left of a kink, the first to its right, and where it is."""
        low, high = kink
        if low < high:
            return low, high, self._meeting_point(low, high)
        place, node = self._meeting_point(low - 1, low + 1), self.left + self._step * low
        if abs(place - node) < _AT_A_NODE * self._step:
            return low, low, node
        return low - 1, low + 1, place

    def _meeting_point(self, low: int, high: int) -> float:
        """Where the cubics of both sides are equal, or the middle between the two nodes."""

        def gap(node: float) -> float:
            before = cubic(self._array, low - _STENCIL + 1, np.array(node - low + _STENCIL - 1))
            return float(before - cubic(self._array, high, np.array(node - high)))

        at_low, at_high = gap(low), gap(high)
        node = (low + high) / 2.0
        if at_low * at_high < 0.0:
            for _ in range(_CORRECTIONS):  # nearly linear: each takes two or more digits
                node -= gap(node) * (high - low) / (at_high - at_low)
        return self.left + self._step * min(max(node, low), high)


def cubic(values: FloatArray, start: np.ndarray | int, u: FloatArray) -> FloatArray:
    """Lagrange's cubic through four nodes from ``start`` on, u steps behind the first of them."""
    a, b, c, d = (values[start + k] for k in range(_STENCIL))
    result: FloatArray = (
        -(u - 1.0) * (u - 2.0) * (u - 3.0) / 6.0 * a
        + u * (u - 2.0) * (u - 3.0) / 2.0 * b
        - u * (u - 1.0) * (u - 3.0) / 2.0 * c
        + u * (u - 1.0) * (u - 2.0) / 6.0 * d
    )
    return result


def _kinks(values: FloatArray) -> list[tuple[int, int]]:
    """Pairs of nodes with a kink or a jump between them, equal ones for a kink at a node."""
    marked = np.flatnonzero(_bent(values) | _end_of_zeros(values))
    found: list[tuple[int, int]] = []
    last = 0
    for run in np.split(marked, np.flatnonzero(np.diff(marked) > 1) + 1):
        if not len(run) or run[0] - last <= _STENCIL or len(values) - run[-1] <= _STENCIL + 1:
            continue
        low, high = int(run[0]), int(run[-1])
        if high - low > 1:  # too sharp to be resolved: one cubic ends, another begins
            low = high = (low + high) // 2
        found.append((low, high))
        last = high
    return found


def _bent(values: FloatArray) -> np.ndarray:
    """Nodes whose second difference stands out from those on both sides of it."""
    slopes = np.diff(values)
    bend = np.zeros(len(values))
    bend[1:-1] = np.abs(np.diff(slopes))
    beside = np.maximum(np.roll(bend, _BESIDE), np.roll(bend, -_BESIDE))
    smallest = _SMALLEST_KINK * np.sqrt(np.mean(slopes**2))
    result: np.ndarray = bend > np.maximum(_SHARPNESS * beside, smallest)
    return result


def _end_of_zeros(values: FloatArray) -> np.ndarray:
    """The last zero of a stretch of zeros, next to a value that is none."""
    zero = values == 0.0
    edge = np.zeros(len(values), dtype=bool)
    edge[1:-1] = zero[1:-1] & ((zero[:-2] & ~zero[2:]) | (~zero[:-2] & zero[2:]))
    return edge
