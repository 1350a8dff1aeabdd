"""The bound on the quasi-stationary loss in terms of the initial variance, and where it is least.

SGD as a stochastic differential equation at temperature T keeps a density p_qs ~ exp(-L / T)
inside one basin. For initial weights p0 = prod N(0, sigma0^2) the inequality KL(p_qs || p0) >= 0
reads, with d weights,

    E_qs[L] <= T { (d/2) log(2 pi sigma0^2) + d V / (2 sigma0^2) - log Z },    V = E_qs||W||^2 / d,

least at sigma0^2 = V (Horii & Has, arXiv 2508.12834; derivation rebuilt from its abstract). V is
the raw second moment because the initial mean is 0; the caller may leave the layer's mean out. The
bound is minimized, not the loss: for a fixed basin its left side does not depend on sigma0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

GRANULARITIES = ("layer", "global", "gain")


@dataclass(frozen=True)
class SteadyState:
    """Steady-state weights of one layer.

    Attributes:
        count: Number of weights d.
        variance: V, the moment of the weights that the initial variance is compared with.
        base_variance: The layer's variance in the one-parameter family of granularity "gain"; 2 /
            fan_in keeps He's ratios between the layers.
    """

    count: int
    variance: float
    base_variance: float = 1.0


def kl_per_weight(variance: float, initial_variance: float, mean: float = 0.0) -> float:
    """KL(N(mean, variance) || N(0, initial_variance)) of one weight, in nats.

    1/2 [log(sigma0^2 / V) + (V + mean^2) / sigma0^2 - 1], free of cancellation at V = sigma0^2.

    Args:
        variance: V > 0.
        initial_variance: sigma0^2 > 0.
        mean: Mean of the weight at the steady state.

    Returns:
        KL >= 0; (V / sigma0^2 - 1)^2 / 4 to leading order.

    Raises:
        ValueError: If a variance is not positive and finite.

    Example:
        >>> kl_per_weight(1.0 + 1e-8, 1.0) / 2.5e-17 - 1.0 < 1e-7
        True
        >>> round(kl_per_weight(1.0, 2.0), 12)
        0.09657359028
    """
    _require_positive("variance", variance)
    _require_positive("initial_variance", initial_variance)
    ratio = variance / initial_variance
    if 0.5 < ratio < 1.5:
        excess = _excess_over_log1p((variance - initial_variance) / initial_variance)
    else:
        excess = ratio - 1.0 + math.log(initial_variance) - math.log(variance)
    return 0.5 * (excess + mean * mean / initial_variance)


def excess_kl_per_weight(initial_variance: float, optimum: float) -> float:
    """How much the bound per weight, in units of T, exceeds its minimum at sigma0^2 = optimum.

    1/2 [log r + 1/r - 1] with r = sigma0^2 / V: 0.0006 at 5 %, 0.0022 at 10 %, 0.097 at a factor 2.

    Raises:
        ValueError: If a variance is not positive and finite.

    Example:
        >>> round(excess_kl_per_weight(1.1, 1.0), 6)
        0.002201
    """
    return kl_per_weight(optimum, initial_variance)


def optimal_initial_variances(
    layers: Sequence[SteadyState], granularity: str = "layer"
) -> tuple[float, ...]:
    """Initial variances that minimize the bound, per layer or under one shared parameter.

    The bound separates over layers, so "layer" sets sigma_l^2 = V_l; "global" shares one variance,
    sum d_l V_l / sum d_l; "gain" sets sigma_l^2 = g base_l with g = sum d_l (V_l / base_l) / sum
    d_l.

    Args:
        layers: At least one layer.
        granularity: "layer", "global" or "gain".

    Raises:
        ValueError: If the granularity is unknown, there is no layer, or a number is not positive.

    Example:
        >>> layers = [SteadyState(count=100, variance=1.0), SteadyState(count=300, variance=3.0)]
        >>> optimal_initial_variances(layers, "global")
        (2.5, 2.5)
    """
    if granularity not in GRANULARITIES:
        raise ValueError(
            f"`granularity` must be one of {', '.join(GRANULARITIES)}, got {granularity!r}."
        )
    if not layers:
        raise ValueError("`layers` must hold at least one layer, got none; check include/exclude.")
    for layer in layers:
        for name, value in vars(layer).items():
            _require_positive(name, value)
    if granularity == "layer":
        return tuple(layer.variance for layer in layers)
    bases = [layer.base_variance if granularity == "gain" else 1.0 for layer in layers]
    pairs = zip(layers, bases, strict=True)
    total = math.fsum(layer.count * (layer.variance / base) for layer, base in pairs)
    gain = total / sum(layer.count for layer in layers)
    return tuple(gain * base for base in bases)


def _excess_over_log1p(x: float) -> float:
    """The difference x - log(1 + x) for |x| <= 1/2, relatively accurate as x -> 0.

    With u = x / (2 + x), log(1 + x) = 2 artanh u and x - 2 u = x u exactly.
    """
    u = x / (2.0 + x)
    square = u * u
    series = 0.0
    for k in range(41, 1, -2):
        series = (series + 1.0 / k) * square
    return u * (x - 2.0 * series)


def _require_positive(name: str, value: float) -> None:
    if not (value > 0.0 and math.isfinite(value)):
        raise ValueError(
            f"`{name}` must be positive and finite, got {value}; leave the layer out instead."
        )
