"""Laplace transforms of X = phi(z)^2 and of the gated X = phi(a)^2 b^2 from a table of phi.

Both tables hold squares x_k with normal probabilities w_k: the transforms are sums over k of w_k
kernel(t x_k), with exp(-x) for an activation and, b ~ N(0, 1) integrated out, (1 + 2 x)^(-1/2) for
a gated product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lightning_init.theory.function_table import (
    ElementwiseFunction,
    FunctionTable,
    function_table,
    scale_exponent,
)
from lightning_init.theory.special import FloatArray

# In blocks of neighbouring t: below the first exponent two terms of the series are exact to
# rounding, above the second exp(-t X) counts for nothing.
_LINEAR = 1e-8
_VANISHED = 700.0
_BLOCK = 16


@dataclass(frozen=True)
class Tabulated:
    """X = gain * phi(z)^2 for an elementwise phi, z normal or the largest of ``window`` draws."""

    function: ElementwiseFunction
    gain: float
    keep: float
    window: float = 1.0

    @property
    def _table(self) -> FunctionTable:
        return function_table(self.function, self.window)

    @property
    def weight(self) -> float:
        """Probability of this part: kept by dropout and outside the dead zone of phi."""
        return self.keep * (1.0 - self._table.dead_probability)

    @property
    def scale_exponent(self) -> float:
        """How phi passes a small change of the log-scale of its input on to its second moment."""
        return scale_exponent(self.function, self.window)

    def power_mean(self, power: int) -> float:
        """``w E X^power`` on the table."""
        of_function = self._table.weights @ self._table.squares**power
        return float(self.keep * self.gain**power * of_function)

    def moments_at(self, scales: FloatArray) -> FloatArray:
        """Second and fourth moments at input scales c, without dropout; one column per scale."""
        squares = self.function(np.multiply.outer(scales, self._table.nodes)) ** 2
        return np.stack([squares @ self._table.weights, squares**2 @ self._table.weights])

    def laplace(self, t: FloatArray) -> FloatArray:
        """Rows deficit, value, -t d/dt, t^2 d^2/dt^2; shape (4, len(t))."""
        return self.keep * _transforms(self._table, self.gain * t, _exponential, 0.5)


class GatedProduct(Tabulated):
    """X = gain * (phi(a) b)^2 with independent standard normal a and b, of moments 1, 3, 15."""

    @property
    def scale_exponent(self) -> float:
        """That of phi, and 1 for the factor b."""
        return 1.0 + super().scale_exponent

    def power_mean(self, power: int) -> float:
        """``w E X^power`` on the table."""
        return (1.0, 3.0, 15.0)[power - 1] * super().power_mean(power)

    def moments_at(self, scales: FloatArray) -> FloatArray:
        """Second and fourth moments where both a and b have the scales c."""
        return super().moments_at(scales) * np.stack([scales**2, 3.0 * scales**4])

    def laplace(self, t: FloatArray) -> FloatArray:
        """Rows deficit, value, -t d/dt, t^2 d^2/dt^2; shape (4, len(t))."""
        return self.keep * _transforms(self._table, self.gain * t, _chi_square, 1.5)


def _exponential(x: FloatArray) -> FloatArray:
    value = np.exp(-x)
    first = x * value
    return np.array([-np.expm1(-x), value, first, x * first])


def _chi_square(x: FloatArray) -> FloatArray:
    square = 1.0 / (1.0 + 2.0 * x)
    value = np.sqrt(square)
    ratio = x * square
    first = ratio * value
    return np.array([2.0 * ratio / (1.0 + value), value, first, 3.0 * ratio * first])


def _transforms(
    table: FunctionTable,
    t: FloatArray,
    kernel: Callable[[FloatArray], FloatArray],
    quadratic: float,
) -> FloatArray:
    """The four transforms at increasing t for the kernel 1 - x + quadratic x^2 + ..."""
    blocks = [
        _block_transforms(table, t[start : start + _BLOCK], kernel, quadratic)
        for start in range(0, len(t), _BLOCK)
    ]
    return np.concatenate(blocks, axis=1)


def _block_transforms(
    table: FunctionTable,
    t: FloatArray,
    kernel: Callable[[FloatArray], FloatArray],
    quadratic: float,
) -> FloatArray:
    """The transforms for a few neighbouring t: only nodes with t X of order 1 need the kernel."""
    largest = _VANISHED if kernel is _exponential else math.inf
    low, high = np.searchsorted(table.squares, (_LINEAR / t[-1], largest / t[0]))
    rows = kernel(np.multiply.outer(t, table.squares[low:high])) @ table.weights[low:high]
    mass, mean, square = table.power_sums[:, low, None]
    first_order, second_order = t * mean, quadratic * (t * np.sqrt(square)) ** 2
    vanished = table.power_sums[0, -1] - table.power_sums[0, high]
    return np.stack(
        [
            rows[0] + first_order - second_order + vanished,
            rows[1] + mass - first_order + second_order,
            rows[2] + first_order - 2.0 * second_order,
            rows[3] + 2.0 * second_order,
        ]
    )
