"""Every fractional moment of the squared norm Q = phi(z_1)^2 + ... + phi(z_m)^2, z ~ N(0, I_m).

Let M(t) = E exp(-t Q) and G ~ Gamma(2, 1) independent of Q. On {Q > 0}, T = G / Q has density t
M''(t), and E T^(-r) = E G^(-r) E Q^r, so for 0 <= r < 2

    E[Q^r; Q > 0] = 1 / Gamma(2 - r) * integral of t^(1 - r) M''(t) dt over t > 0.

In u = log t the plain trapezoid rule with step h errs by at most 2 sum_k |Gamma(2 - r + 2 pi i k /
h)| / Gamma(2 - r) relatively (Poisson summation), 3e-19 for h = 0.2, whatever the law and the
width, and one weight vector serves every order and the log-moments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lightning_init.theory.activation_laws import ActivationLaw
from lightning_init.theory.special import (
    DIGAMMA_AT_2,
    TRIGAMMA_AT_2,
    FloatArray,
    log_gamma_two_minus,
)

_STEP = 0.2
_LEFT_CUT = -40.0
_TAIL = 1e-18
_TINY = 1e-300  # M1 may underflow between the last two right cuts
# Right cuts tried in turn: the first serves most widths above 50, the last covers a slope of 1e-120
# at width 1.
_RIGHT_CUTS = (10.0, 22.0, 100.0, 200.0, 640.0)


@dataclass(frozen=True, eq=False)
class SquaredNormMoments:
    """Moments of Q relative to its mean, as sums over one quadrature of T = G / Q.

    Attributes:
        mean: E Q = m E X.
        dead_probability: P(Q = 0).
        log_alive: log P(Q > 0).
        nodes: u = log(t E Q), shape (n,).
        weights: Quadrature weight times the density of u given Q > 0, shape (n,); they sum to 1.
    """

    mean: float
    dead_probability: float
    log_alive: float
    nodes: FloatArray
    weights: FloatArray

    def log_moments(self, orders: npt.ArrayLike) -> FloatArray:
        """Logarithms of E[(Q / E Q)^(s/2) | Q > 0], one per order s in (0, 2].

        Relatively accurate as s -> 0.
        """
        half = np.asarray(orders, dtype=np.float64) / 2.0
        exponent = np.multiply.outer(-half, self.nodes) - log_gamma_two_minus(half)[..., None]
        result: FloatArray = np.log1p(np.expm1(exponent) @ self.weights)
        return result

    @property
    def mean_log(self) -> float:
        """E[log(Q / E Q) | Q > 0]."""
        return float((DIGAMMA_AT_2 - self.nodes) @ self.weights)

    @property
    def variance_log(self) -> float:
        """Var[log Q | Q > 0]; log T = log G - log Q with independent terms."""
        centred = DIGAMMA_AT_2 - self.nodes - self.mean_log
        return float((centred * centred - TRIGAMMA_AT_2) @ self.weights)


@lru_cache(maxsize=1024)
def squared_norm_moments(law: ActivationLaw, fan_in: int) -> SquaredNormMoments:
    """The quadrature of Q for one law and fan-in m.

    Raises:
        ValueError: If fan_in is not an integer >= 1.
    """
    width = check_fan_in(fan_in)
    mean = width * law.mean
    log_alive = law.log_alive_probability(width)
    # Left of the cut lies at most E[(Q / E Q)^2] e^u_min of the order-2 moment.
    left = _LEFT_CUT - math.log1p(law.c2 / width)
    for right in _RIGHT_CUTS:
        nodes = np.arange(left, right, _STEP)
        transforms = law.laplace(np.exp(nodes) / mean)
        if _tail(law, width, *transforms[1:3, -1].tolist()) < _TAIL * math.exp(log_alive):
            break
    density = _density(law, width, transforms)
    return SquaredNormMoments(
        mean, law.dead_probability**width, log_alive, nodes, density / density.sum()
    )


def _density(law: ActivationLaw, width: int, transforms: FloatArray) -> FloatArray:
    """t^2 M''(t), the density of log T on {Q > 0}, for M = M1^m; stable beyond m = 1e6."""
    deficit, value, first, second = transforms
    one = np.maximum(law.dead_probability + value, _TINY)
    # The deficit grows with t: from here on log M1 is accurate without it.
    far = int(np.searchsorted(deficit, 0.5))
    log_one = np.concatenate([np.log1p(-deficit[:far]), np.log(one[far:])])
    slope = first / one
    density: FloatArray = (
        width * np.exp(width * log_one) * ((width - 1) * slope * slope + second / one)
    )
    return density


def _tail(law: ActivationLaw, width: int, value: float, first: float) -> float:
    """P(T > t) = E[(1 + t Q) e^{-t Q}; Q > 0] from the transforms at t."""
    dead = law.dead_probability
    one = dead + value
    survivors = one**width
    if dead > 0.0:
        survivors *= -math.expm1(-width * math.log1p(value / dead))
    return float(survivors + width * one ** (width - 1) * first)


def check_fan_in(fan_in: int) -> int:
    """The fan-in as an int.

    Raises:
        ValueError: If it is not an integer >= 1.
    """
    if int(fan_in) != fan_in or fan_in < 1:
        raise ValueError(
            f"`fan_in` must be an integer >= 1, got {fan_in}; a weight without inputs has no scale."
        )
    return int(fan_in)


def check_order(order: float) -> None:
    """Refuse an order outside [0, 2].

    Raises:
        ValueError: If it is outside or not a number.
    """
    if not 0.0 <= order <= 2.0:
        raise ValueError(f"`order` must be in [0, 2], got {order}; use 2.0 for Kaiming/LeCun.")
