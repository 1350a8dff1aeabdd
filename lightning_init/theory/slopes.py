"""Slopes of the homogeneous activations: phi(z) = z for z > 0 and A z for z < 0, A fixed or not."""

from __future__ import annotations

import math
from collections import Counter

from lightning_init.theory.special import gauss_legendre

NO_SLOPE = 1e-120  # below, the square underflows: the negative side is dead, as in ReLU
_LARGEST_SLOPE = 1e30  # above, the sixth power overflows together with dropout

_DECADES = 24  # of a range that reaches 0: what is below them has a probability of 1e-24

Slopes = list[tuple[float, float]]  # (slope, probability)


def slope_law(name: str, param: tuple[float, ...]) -> Slopes:
    """Slopes of a homogeneous activation with their probabilities; those that stand for a range.

    Args:
        name: "linear", "abs", "relu", "leaky_relu", "prelu" or "rrelu".
        param: Empty for the defaults of torch.

    Raises:
        ValueError: If the number of parameters or a slope is out of range.

    Example:
        >>> slope_law("leaky_relu", (0.2,))
        [(1.0, 0.5), (0.2, 0.5)]
    """
    if any(abs(slope) > _LARGEST_SLOPE for slope in param):
        raise ValueError(f"slopes of {name!r} must not exceed {_LARGEST_SLOPE:g}, got {param}.")
    if name in ("linear", "abs", "relu") and param:
        raise ValueError(f"{name!r} takes no `param`, got {param}; pass None.")
    if name in ("linear", "abs"):
        return [(1.0, 1.0)]
    if name == "relu":
        return [(1.0, 0.5), (0.0, 0.5)]
    if name == "rrelu":
        return [(1.0, 0.5), *_uniform_slopes(*_bounds(param))]
    return [(1.0, 0.5), *_channel_slopes(name, param)]


def _channel_slopes(name: str, param: tuple[float, ...]) -> Slopes:
    slopes = param or ((0.01,) if name == "leaky_relu" else (0.25,))
    if name == "leaky_relu" and len(slopes) != 1:
        raise ValueError(f"`param` of 'leaky_relu' must be one slope, got {param}; use 'prelu'.")
    shares = Counter(abs(slope) for slope in slopes)
    return [(slope, 0.5 * count / len(slopes)) for slope, count in shares.items()]


def _bounds(param: tuple[float, ...]) -> tuple[float, float]:
    lower, upper = param if len(param) == 2 else (1.0 / 8.0, 1.0 / 3.0)
    if len(param) not in (0, 2) or lower > upper:
        raise ValueError(f"`param` of 'rrelu' must be (lower, upper), lower <= upper, got {param}.")
    return lower, upper


def _uniform_slopes(lower: float, upper: float) -> Slopes:
    """The negative half of RReLU; only |A| matters, so a range around 0 folds into two."""
    if lower == upper:
        return [(abs(lower), 0.5)]
    if lower < 0.0 < upper:
        sides = ((side, 0.5 * side / (upper - lower)) for side in (-lower, upper))
        return [slope for side, share in sides for slope in _range_slopes(0.0, side, share)]
    low, high = sorted((abs(lower), abs(upper)))
    return _range_slopes(low, high, 0.5)


def _range_slopes(lower: float, upper: float, share: float) -> Slopes:
    """Slopes that stand for U[lower, upper], decade by decade from the upper end down."""
    if upper < NO_SLOPE:
        return [(0.0, share)]
    slopes: Slopes = []
    density, top = share / (upper - lower), upper
    for _ in range(_DECADES):
        bottom = max(lower, 0.1 * top)
        slopes += _quadrature_slopes(bottom, top, density * (top - bottom))
        if bottom == lower:
            break
        top = bottom
    return slopes


def _quadrature_slopes(lower: float, upper: float, share: float) -> Slopes:
    """Gauss-Legendre slopes that stand for U[lower, upper] to 4e-18.

    As a function of A the transform (1 + 2 A^2 t)^(-1/2) is analytic off the imaginary axis, so n
    nodes leave rho^(-2n), rho = c + sqrt(c^2 - 1), c = (upper + lower) / (upper - lower), for
    every t.
    """
    centre = (upper + lower) / (upper - lower)
    rho = centre + math.sqrt(centre * centre - 1.0)
    nodes, weights = gauss_legendre(math.ceil(40.0 / (2.0 * math.log(rho))))
    middle, half = (upper + lower) / 2.0, (upper - lower) / 2.0
    return [
        (max(middle + half * node, NO_SLOPE), 0.5 * share * weight)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True)
    ]
