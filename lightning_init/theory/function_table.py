"""Elementwise activations outside the homogeneous family, tabulated against the normal law."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from lightning_init.theory.special import FloatArray, composite_gauss_legendre, normal_cdf

_BOUND = 9.5  # P(|z| > 9.5) = 2e-21
_FINEST = 1e-19  # the closest panel edge to a zero of phi: closer lies less than 1e-19 of the mass
_SNAP = 1e-14  # zeros this close to 0 are 0: a sign change is only known to the rounding of z
_GRADING = 0.2  # ratio of neighbouring panel edges towards a zero of phi
_POINTS = 16
_WIDEST_PANEL = 1.0
_GRADED_PANELS = 200  # towards all zeros together, so that a function of many zeros stays cheap


@dataclass(frozen=True)
class ElementwiseFunction:
    """An elementwise activation with its parameters; equal when function and parameters are equal.

    Attributes:
        function: Maps a float64 array (and the parameters) to a float64 array of the same shape.
        parameters: Passed after the array.
        breakpoints: Where the function has a kink or a jump, in any order.
    """

    function: Callable[..., FloatArray]
    parameters: tuple[float, ...] = ()
    breakpoints: tuple[float, ...] = ()

    def __call__(self, z: FloatArray) -> FloatArray:
        """phi(z), shape of z."""
        return np.asarray(self.function(z, *self.parameters), dtype=np.float64)


@dataclass(frozen=True, eq=False)
class FunctionTable:
    """phi(z)^2 on the nodes where it is positive, with the normal probability of each node.

    Attributes:
        nodes: z, shape (k,).
        squares: phi(z)^2 > 0 in increasing order, shape (k,).
        weights: Normal probabilities, shape (k,); they sum to 1 - dead_probability.
        dead_probability: P(phi(z) = 0).
    """

    nodes: FloatArray
    squares: FloatArray
    weights: FloatArray
    dead_probability: float

    @cached_property
    def power_sums(self) -> FloatArray:
        """Sums of weight * square^p over the first j nodes, p = 0, 1, 2; shape (3, k + 1)."""
        terms = self.weights * self.squares ** np.arange(3)[:, None]
        return np.concatenate([np.zeros((3, 1)), np.cumsum(terms, axis=1)], axis=1)


@lru_cache(maxsize=256)
def function_table(function: ElementwiseFunction, window: float = 1.0) -> FunctionTable:
    """Tabulate phi(z)^2 on panels that end at every kink and close in on every zero of phi.

    Plain Gauss-Hermite is not enough: at large t the integrand exp(-t phi(z)^2) is a spike of width
    t^(-1/2) at the zero of phi, hence panels that shrink geometrically towards it.

    Args:
        function: The activation phi.
        window: The number k of draws of which z is the largest, of density k cdf^(k-1) pdf; need
            not be an integer.

    Raises:
        ValueError: If phi is not finite on [-9.5, 9.5] or vanishes everywhere.
    """
    nodes, lengths = composite_gauss_legendre(_panel_edges(function), _POINTS)
    weights = lengths * np.exp(-0.5 * nodes * nodes)
    if window != 1.0:
        weights *= normal_cdf(nodes) ** (window - 1.0)
    weights /= weights.sum()
    squares = function(nodes) ** 2
    if squares.shape != nodes.shape or not np.all(np.isfinite(squares)):
        raise ValueError(
            f"activation {function.function!r} must map a float64 array to finite values of the "
            f"same shape on [-{_BOUND}, {_BOUND}]; check it with numpy first."
        )
    alive = squares > 0.0
    if not alive.any():
        raise ValueError(
            f"activation {function.function!r} is zero everywhere, so no weight scale preserves a "
            "moment; register a function that is not."
        )
    if weights[~alive].sum() < 1e-12:  # a lone node that hits a zero of phi is no dead zone
        weights = np.where(alive, weights, 0.0) / weights[alive].sum()
    dead = float(weights[~alive].sum())
    rising = np.flatnonzero(alive)[np.argsort(squares[alive], kind="stable")]
    return FunctionTable(nodes[rising], squares[rising], weights[rising], dead)


def scale_exponent(function: ElementwiseFunction, window: float = 1.0) -> float:
    """Scale exponent chi = d log E phi(sqrt(q) z)^2 / d log q at q = 1.

    The derivative is taken on the density f of z, whose logarithm changes by -(1 + z f'/f)/2 per
    unit of log q, (z^2 - 1)/2 for one draw, so chi = E[phi(z)^2 (z^2 - 1)] / (2 E phi(z)^2) needs
    no differences.
    """
    table = function_table(function, window)
    mass, z = table.weights * table.squares, table.nodes
    change = z**2 - 1.0
    if window != 1.0:
        hazard = np.exp(-0.5 * z * z) / (math.sqrt(2.0 * math.pi) * normal_cdf(z))
        change -= (window - 1.0) * z * hazard
    return float((mass @ change) / (2.0 * mass.sum()))


def largest_second_moment(function: ElementwiseFunction, window: float) -> float:
    """E phi^2 of the largest of ``window`` draws, from the table of one draw; quick for any window.

    Example:
        >>> round(largest_second_moment(ElementwiseFunction(np.positive), 3.0), 6)
        1.275664
    """
    table = function_table(function)
    density = window * _node_cdf(function) ** (window - 1.0)
    return float((table.weights * density) @ table.squares)


@lru_cache(maxsize=64)
def _node_cdf(function: ElementwiseFunction) -> FloatArray:
    return normal_cdf(function_table(function).nodes)


def _panel_edges(function: ElementwiseFunction) -> FloatArray:
    zeros = _sign_changes(function)
    inner = {point for point in (*function.breakpoints, *zeros) if abs(point) < _BOUND}
    marks = sorted(inner | {0.0, -_BOUND, _BOUND})
    edges = set(marks)
    for left, right in zip(marks[:-1], marks[1:], strict=True):
        panels = math.ceil((right - left) / _WIDEST_PANEL)
        edges.update(np.linspace(left, right, panels + 1).tolist())
        # Half a panel at most: a gap of one panel may close in on both ends.
        offsets = _graded_offsets((right - left) / (2.0 * panels), len(zeros))
        edges.update(left + offset for offset in offsets if left in zeros)
        edges.update(right - offset for offset in offsets if right in zeros)
    return np.array(sorted(edges))


def _graded_offsets(largest: float, zeros: int) -> list[float]:
    finest = max(1, math.ceil(math.log(_FINEST / largest) / math.log(_GRADING)))
    count = min(finest, _GRADED_PANELS // max(1, 2 * zeros))
    return [largest * _GRADING**k for k in range(count)]


def _sign_changes(function: ElementwiseFunction) -> set[float]:
    """Where phi changes between negative, zero and positive, by bisection to the last bit."""
    grid = np.linspace(-_BOUND, _BOUND, 1901)
    signs = np.sign(function(grid))
    changes = np.flatnonzero(signs[:-1] != signs[1:])
    points = _bisect_signs(function, grid[changes], grid[changes + 1], signs[changes])
    return {0.0 if abs(point) < _SNAP else point for point in points.tolist()}


def _bisect_signs(
    function: ElementwiseFunction, left: FloatArray, right: FloatArray, signs: FloatArray
) -> FloatArray:
    """The first points from each left end on where the sign is another one."""
    while np.any(open_ := right - left > _SNAP / 8.0):
        middle = (left + right) / 2.0
        open_ &= (middle != left) & (middle != right)
        if not open_.any():
            break
        same = np.sign(function(middle)) == signs
        left = np.where(open_ & same, middle, left)
        right = np.where(open_ & ~same, middle, right)
    return right
