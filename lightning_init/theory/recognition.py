"""From the values of an elementwise function to the law of that function.

Whoever finds a formula instead of a named activation evaluates it at `SAMPLING_POINTS` and passes
the values on; what is one of the named activations up to rounding gets that name. In torch the
points are ``torch.tensor(SAMPLING_POINTS)``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lightning_init.theory.composed_activations import SAMPLED
from lightning_init.theory.elementwise import ELEMENTWISE, elementwise_function
from lightning_init.theory.special import FloatArray

SAMPLING_POINTS: FloatArray = np.linspace(-10.0, 10.0, 2001)
SAMPLING_POINTS.setflags(write=False)

_TOLERANCE = 1e-5  # of 1 + |value|: what float32 leaves of a formula, and less than what sets
# GELU and its tanh form apart, 4.7e-4

_Rule = tuple[str, float | tuple[float, ...] | None]


def rule_of_values(values: npt.ArrayLike) -> _Rule:
    """Name and parameters, as `activation_law` takes them, of a function known by its values.

    A named activation is told up to 1e-5 (1 + |value|): all of `elementwise` at their defaults,
    linear, ReLU and abs, and leaky ReLU, ELU, hardtanh and sine with their parameters. Any other
    function becomes a "sampled" one, whose parameters are the values themselves. The law of a
    smooth one, kinks included, gives the scale to about 1e-9 of its closed law; computed in
    float32, to 1e-8. A jump is known to the grid's spacing of 0.01 only.

    Args:
        values: phi at `SAMPLING_POINTS`, shape (2001,), float64 unless the function is computed
            in float32.

    Returns:
        The rule. A multiple of an activation is another function: its factor belongs to the law.

    Raises:
        ValueError: If the shape is another one, or a value is not finite.

    Example:
        >>> from lightning_init.theory.activation_laws import activation_law
        >>> x = SAMPLING_POINTS
        >>> rule_of_values(x / (1.0 + np.exp(-x)))
        ('silu', None)
        >>> rule_of_values(np.where(x > 0.0, x, 0.2 * x))
        ('leaky_relu', 0.2)
        >>> name, param = rule_of_values(np.arctan(x))
        >>> name, round(activation_law(name, param).mean, 6)
        ('sampled', 0.449701)
    """
    sampled = np.asarray(values, dtype=np.float64)
    if sampled.shape != SAMPLING_POINTS.shape or not np.all(np.isfinite(sampled)):
        raise ValueError(
            f"`values` must be {len(SAMPLING_POINTS)} finite numbers, the function at"
            f" SAMPLING_POINTS, got shape {sampled.shape}."
        )
    for name, param in _candidates(sampled):
        known = _function(name, param)
        # The sine of a large number keeps the rounding of that number.
        size = param[0] * np.abs(SAMPLING_POINTS) if name == "sine" else np.abs(known)
        if np.all(np.abs(known - sampled) <= _TOLERANCE * (1.0 + size)):
            return name, None if not param else param[0] if len(param) == 1 else param
    ends = float(SAMPLING_POINTS[0]), float(SAMPLING_POINTS[-1])
    return SAMPLED, (*ends, *sampled.tolist())


def _candidates(values: FloatArray) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Names and parameters worth a comparison, by the parameters that two values would give."""
    yield "linear", ()
    yield "relu", ()
    yield "abs", ()
    yield from ((name, ()) for name in ELEMENTWISE if name != "sine")
    at_minus_one = _at(values, -1.0)
    yield "leaky_relu", (_rounded(-at_minus_one),)
    yield "elu", (_rounded(at_minus_one / math.expm1(-1.0)),)
    if values.min() < values.max():
        yield "hardtanh", (float(values.min()), float(values.max()))
    # sin(w x) rises from 0 with slope w; the next node shows it where w is not far above 100.
    frequency = math.asin(min(1.0, max(-1.0, _at(values, 0.01)))) / 0.01
    if frequency > 0.0:
        yield "sine", (_rounded(frequency),)


def _function(name: str, param: tuple[float, ...]) -> FloatArray:
    """The activation itself at the sampling points."""
    if name == "abs":
        return np.abs(SAMPLING_POINTS)
    if name == "sine":  # the law's function is of pre-activations that are rescaled
        return np.sin(param[0] * SAMPLING_POINTS)
    return elementwise_function(name, param)(SAMPLING_POINTS)


def _at(values: FloatArray, point: float) -> float:
    return float(values[int(np.argmin(np.abs(SAMPLING_POINTS - point)))])


def _rounded(parameter: float) -> float:
    """Without the noise of float32: a slope written as 0.2 is 0.2."""
    return float(f"{parameter:.6g}")
