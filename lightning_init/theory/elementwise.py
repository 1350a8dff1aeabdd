"""The elementwise activations known by name beyond the homogeneous ones.

Each is a float64 numpy function written so that its *relative* accuracy survives where it tends to
0; the law of phi(z)^2 near 0 decides the low-order moments at small widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lightning_init.theory.function_table import ElementwiseFunction
from lightning_init.theory.special import FloatArray

# Klambauer et al. 2017, arXiv 1706.02515, equation 14 with the digits of the authors' code.
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def sigmoid(z: FloatArray) -> FloatArray:
    """1 / (1 + exp(-z))."""
    small = np.exp(-np.abs(z))  # never overflows
    return np.where(z > 0.0, 1.0, small) / (1.0 + small)


def gelu(z: FloatArray) -> FloatArray:
    """Product of z and P(N(0, 1) <= z), through erfc so that the left tail keeps its digits."""
    tail = [math.erfc(-value / math.sqrt(2.0)) for value in z.ravel().tolist()]
    return 0.5 * z * np.array(tail, dtype=np.float64).reshape(z.shape)


def gelu_tanh(z: FloatArray) -> FloatArray:
    """The tanh approximation of GELU; (1 + tanh w) / 2 is written as sigmoid(2 w)."""
    return z * sigmoid(2.0 * math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3))


def silu(z: FloatArray) -> FloatArray:
    """Product z sigmoid(z)."""
    return z * sigmoid(z)


def softplus(z: FloatArray, beta: float = 1.0, threshold: float = 20.0) -> FloatArray:
    """log(1 + exp(beta z)) / beta, and z where beta z exceeds the threshold, as in torch."""
    scaled = beta * z
    return np.where(scaled > threshold, z, np.logaddexp(0.0, scaled) / beta)


def mish(z: FloatArray) -> FloatArray:
    """Product z tanh(softplus(z))."""
    return z * np.tanh(np.logaddexp(0.0, z))


def elu(z: FloatArray, alpha: float = 1.0) -> FloatArray:
    """Identity for z > 0, alpha (exp(z) - 1) below."""
    return np.where(z > 0.0, z, alpha * np.expm1(np.minimum(z, 0.0)))


def celu(z: FloatArray, alpha: float = 1.0) -> FloatArray:
    """Identity for z > 0, alpha (exp(z / alpha) - 1) below."""
    return np.where(z > 0.0, z, alpha * np.expm1(np.minimum(z / alpha, 0.0)))


def selu(z: FloatArray) -> FloatArray:
    """ELU scaled to have a fixed point at mean 0 and variance 1."""
    return SELU_SCALE * elu(z, SELU_ALPHA)


def hardtanh(z: FloatArray, lower: float = -1.0, upper: float = 1.0) -> FloatArray:
    """The input clipped to [lower, upper]."""
    return np.clip(z, lower, upper)


def hardswish(z: FloatArray) -> FloatArray:
    """Product z clip(z + 3, 0, 6) / 6."""
    return z * np.clip(z + 3.0, 0.0, 6.0) / 6.0


_DEFAULTS: dict[str, tuple[Callable[..., FloatArray], tuple[float, ...]]] = {
    "gelu": (gelu, ()),
    "gelu_tanh": (gelu_tanh, ()),
    "silu": (silu, ()),
    "mish": (mish, ()),
    "elu": (elu, (1.0,)),
    "celu": (celu, (1.0,)),
    "selu": (selu, ()),
    "softplus": (softplus, (1.0, 20.0)),
    "tanh": (np.tanh, ()),
    "sigmoid": (sigmoid, ()),
    "hardtanh": (hardtanh, (-1.0, 1.0)),
    "relu6": (hardtanh, (0.0, 6.0)),
    "hardswish": (hardswish, ()),
}
_FIXED = ("relu6",)
ELEMENTWISE = tuple(_DEFAULTS)


def elementwise_function(name: str, param: tuple[float, ...]) -> ElementwiseFunction:
    """The built-in activation with its parameters; an empty ``param`` means torch's defaults.

    Raises:
        ValueError: If the number of parameters or their values are not those of the activation.
    """
    function, defaults = _DEFAULTS[name]
    wanted = 0 if name in _FIXED else len(defaults)
    if param and len(param) != wanted:
        raise ValueError(f"`param` of {name!r} must hold {wanted} numbers, got {param}.")
    values = param or defaults
    if name == "hardtanh" and not values[0] < values[1]:
        raise ValueError(f"`param` of 'hardtanh' must be (min, max) with min < max, got {values}.")
    if name in ("celu", "softplus") and not values[0] > 0.0:
        raise ValueError(f"`param` of {name!r} must start with a positive number, got {values}.")
    return ElementwiseFunction(function, values, _breakpoints(name, values))


def _breakpoints(name: str, values: tuple[float, ...]) -> tuple[float, ...]:
    if name in ("hardtanh", "relu6"):
        return values
    if name == "softplus":
        return (values[1] / values[0],)
    return (-3.0, 3.0) if name == "hardswish" else ()
