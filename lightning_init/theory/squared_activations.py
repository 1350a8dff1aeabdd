"""Laplace transforms of the building blocks of X = phi(z)^2, z ~ N(0, 1).

Every activation is a mixture of a dead atom (X = 0) and components: those below, in closed form,
and those of `tabulated_components`. For each, with
``w`` its probability, a component gives at t >= 0

* the deficit ``w - w E exp(-t X)``, accurate as t -> 0,
* the value ``w E exp(-t X)``, accurate as t -> infinity,
* ``-t d/dt`` and ``t^2 d^2/dt^2`` of the value,

from which `fractional_moments` builds every moment of the squared norm Q = X_1 + ... + X_m.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lightning_init.theory.special import FloatArray


class Component(Protocol):
    """One part of the mixture; frozen and hashable, so that results can be cached by law."""

    def power_mean(self, power: int) -> float:
        """``w E X^power`` for power 1, 2 or 3."""
        ...

    def laplace(self, t: FloatArray) -> FloatArray:
        """Rows deficit, value, -t d/dt, t^2 d^2/dt^2 at increasing t; shape (4, len(t))."""
        ...


@dataclass(frozen=True)
class ChiSquareMixture:
    """X = scales[j] * z^2 with probability weights[j]: linear, ReLU and every fixed slope.

    E exp(-t b z^2) = (1 + 2 b t)^(-1/2), the chi-square transform.
    """

    scales: tuple[float, ...]
    weights: tuple[float, ...]

    def power_mean(self, power: int) -> float:
        """``w E X^power``: the normal moments of order 2, 4, 6 are 1, 3, 15."""
        normal_moment = (1.0, 3.0, 15.0)[power - 1]
        return normal_moment * sum(
            weight * scale**power for scale, weight in zip(self.scales, self.weights, strict=True)
        )

    def laplace(self, t: FloatArray) -> FloatArray:
        """Rows deficit, value, -t d/dt, t^2 d^2/dt^2; shape (4, len(t))."""
        weights = np.array(self.weights)
        x = 2.0 * np.array(self.scales)[:, None] * t
        square = 1.0 / (1.0 + x)
        value = np.sqrt(square)
        ratio = x * square
        first = 0.5 * ratio * value
        # The deficit 1 - value without cancellation as x -> 0: (1 - value^2) / (1 + value).
        rows = np.array([ratio / (1.0 + value), value, first, 1.5 * ratio * first])
        result: FloatArray = weights @ rows
        return result


@dataclass(frozen=True)
class UniformSlope:
    """X = gain * (A z)^2 with A ~ U[0, upper] or U[lower, upper], 0 <= lower < upper: RReLU near 0.

    With v = A sqrt(2 gain t) the transforms are integrals of (1 + v^2)^(-1/2), v^2 (1 +
    v^2)^(-3/2) and v^4 (1 + v^2)^(-5/2), closed in asinh. Meant for lower < upper / 10, where no
    cancellation arises; otherwise few Gauss-Legendre slopes are exact (see `activation_laws`).
    """

    lower: float
    upper: float
    gain: float
    weight: float

    def power_mean(self, power: int) -> float:
        """``w E X^power`` with E A^(2k) of the uniform law."""
        normal_moment = (1.0, 3.0, 15.0)[power - 1]
        odd = 2 * power + 1
        slope_moment = (self.upper**odd - self.lower**odd) / (odd * (self.upper - self.lower))
        return self.weight * normal_moment * self.gain**power * slope_moment

    def laplace(self, t: FloatArray) -> FloatArray:
        """Rows deficit, value, -t d/dt, t^2 d^2/dt^2; shape (4, len(t))."""
        root = np.sqrt(2.0 * self.gain * t)
        integral = _slope_integrals(self.upper * root)
        if self.lower > 0.0:
            integral = integral - _slope_integrals(self.lower * root)
        result: FloatArray = integral * (self.weight / ((self.upper - self.lower) * root))
        return result


def _slope_integrals(v: FloatArray) -> FloatArray:
    """Integrals from 0 to v of the four transforms, without cancellation."""
    inverse_root = 1.0 / np.sqrt(1.0 + v * v)
    value = np.arcsinh(v)
    cosine = v * inverse_root
    first = value - cosine
    second = first - cosine**3 / 3.0
    rows = np.stack([v - value, value, 0.5 * first, 0.75 * second])
    small = v < 0.35  # where all but the value cancel
    powers = np.multiply.accumulate(np.repeat((v[small] ** 2)[None], _TERMS, axis=0))
    for row, series in zip((0, 2, 3), v[small] * (_SERIES @ powers), strict=True):
        rows[row, small] = series
    return rows


def _slope_series(terms: int) -> FloatArray:
    """Coefficients of v^(2k), k = 1 .. terms, in three integrals over v; shape (3, terms).

    The value is sum_k binomial(-1/2, k) v^(2k) before integration; -t d/dt multiplies t^k by -k,
    and t^2 d^2/dt^2 by k (k - 1).
    """
    k = np.arange(1, terms + 1)
    coefficient = np.cumprod((0.5 - k) / k) / (2 * k + 1)
    return np.stack([-coefficient, -k * coefficient, k * (k - 1) * coefficient])


_TERMS = 18  # 0.35^38 is below 1e-17
_SERIES = _slope_series(_TERMS)


@dataclass(frozen=True)
class FixedSquare:
    """X = scale: a row of a normalized signal, whose m squares add up to m at every draw."""

    scale: float
    weight: float

    def power_mean(self, power: int) -> float:
        """``w E X^power``."""
        return self.weight * self.scale**power

    def laplace(self, t: FloatArray) -> FloatArray:
        """Rows deficit, value, -t d/dt, t^2 d^2/dt^2; shape (4, len(t))."""
        x = self.scale * t
        value = np.exp(-x)
        return self.weight * np.array([-np.expm1(-x), value, x * value, x * x * value])
