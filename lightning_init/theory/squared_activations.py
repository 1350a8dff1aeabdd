"""Laplace transforms of the building blocks of X = phi(z)^2, z ~ N(0, 1).

Every activation is a mixture of a dead atom (X = 0) and a component: one of those below, in closed
form, or of `tabulated_components`. With ``w`` its probability, it gives at t >= 0

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
    """What is not the dead atom; frozen and hashable, so that results can be cached by law."""

    def power_mean(self, power: int) -> float:
        """``w E X^power`` for power 1, 2 or 3."""
        ...

    def laplace(self, t: FloatArray) -> FloatArray:
        """Rows deficit, value, -t d/dt, t^2 d^2/dt^2 at increasing t; shape (4, len(t))."""
        ...


@dataclass(frozen=True)
class ChiSquareMixture:
    """X = scales[j] * z^2 with probability weights[j]: linear, ReLU and every slope.

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
