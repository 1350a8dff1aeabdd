"""How much a signal shrinks when attention averages it over positions."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from lightning_init.theory.special import FloatArray, composite_gauss_legendre
from lightning_init.theory.squared_norm import check_fan_in

_NORMAL_EDGES = np.linspace(-9.5, 9.5, 20)
_POINTS = 16
_LEFT, _RIGHT, _STEP = 20.0, 5.0, 0.1  # of the trapezoid rule in log u


@lru_cache(maxsize=256)
def averaging_shrinkage(
    positions: int,
    *,
    causal: bool = False,
    score_variance: float = 0.0,
    correlation: float = 0.0,
) -> float:
    """Root mean square of an average over positions, relative to that of one position.

    With weights w that sum to 1 and values of correlation r between positions, the square is r +
    (1 - r) E[w_1^2 + ... + w_n^2]. The sum is 1 / n for uniform weights. The weights of a softmax
    of independent N(0, v) scores give, with S the exponential of a score,

        n E[w_1^2] = n times the integral of u E[S^2 e^(-u S)] (E e^(-u S))^(n - 1) du over u > 0,

    about e^v / n for many positions.

    Args:
        positions: Number n of positions that are averaged over.
        causal: Average over the first 1, 2, ..., n positions; the mean square over all of them.
        score_variance: Variance v of the scores before the softmax; 0 is uniform weights.
        correlation: Correlation r of the values at two positions, in [0, 1].

    Returns:
        A factor in (0, 1].

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> averaging_shrinkage(16)
        0.25
        >>> round(averaging_shrinkage(16, causal=True), 6)  # of (1 + 1/2 + ... + 1/16) / 16
        0.459669
    """
    n = check_fan_in(positions)
    if not 0.0 <= correlation <= 1.0:
        raise ValueError(f"`correlation` must be in [0, 1], got {correlation}.")
    if not 0.0 <= score_variance <= 100.0:
        raise ValueError(f"`score_variance` must be in [0, 100], got {score_variance}.")
    if score_variance > 0.0:
        share = _softmax_share(n, score_variance, causal)
    else:
        share = float(np.sum(1.0 / np.arange(1, n + 1))) / n if causal else 1.0 / n
    return math.sqrt(correlation + (1.0 - correlation) * share)


def _softmax_share(n: int, variance: float, causal: bool) -> float:
    """The expected sum of squared softmax weights of n scores, or its mean over 1 .. n scores."""
    sd = math.sqrt(variance)
    scores, lengths = composite_gauss_legendre(sd * _NORMAL_EDGES, _POINTS)
    density = lengths * np.exp(-0.5 * scores**2 / variance)
    density /= density.sum()
    ends = sd * _NORMAL_EDGES[-1]
    log_u = np.arange(-ends - math.log(n) - _LEFT, ends + _RIGHT, _STEP)
    x = np.exp(np.add.outer(log_u, scores))  # u S
    mass = (x * x * np.exp(-x)) @ density
    deficit = -np.expm1(-x) @ density  # 1 - E e^(-u S)
    return float(_STEP * (mass @ _power_weights(n, np.minimum(deficit, 1.0 - 1e-16), causal)))


def _power_weights(n: int, deficit: FloatArray, causal: bool) -> FloatArray:
    """The power n L^(n-1) for L = 1 - deficit, or the mean of k L^(k-1) over k = 1 .. n."""
    log_power = np.log1p(-deficit)
    if not causal:
        result: FloatArray = n * np.exp((n - 1) * log_power)
        return result
    with np.errstate(divide="ignore", invalid="ignore"):
        total = (1.0 - np.exp(n * log_power) * (1.0 + n * deficit)) / deficit**2
    # Where both terms cancel, all powers are 1.
    mean: FloatArray = np.where(n * deficit < 1e-5, n * (n + 1) / 2.0, total) / n
    return mean
