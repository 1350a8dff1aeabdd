"""The elementwise activations known by name, as functions of numpy arrays.

Each is a float64 numpy function written so that its *relative* accuracy survives where it tends to
0; the law of phi(z)^2 near 0 decides the low-order moments at small widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lightning_init.theory.function_table import ElementwiseFunction
from lightning_init.theory.special import FloatArray, normal_cdf

# Klambauer et al. 2017, arXiv 1706.02515, equation 14 with the digits of the authors' code.
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def sigmoid(z: FloatArray) -> FloatArray:
    """1 / (1 + exp(-z))."""
    small = np.exp(-np.abs(z))  # never overflows
    return np.where(z > 0.0, 1.0, small) / (1.0 + small)


def gelu(z: FloatArray) -> FloatArray:
    """Product of z and P(N(0, 1) <= z), through erfc so that the left tail keeps its digits."""
    return z * normal_cdf(z)


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


def quick_gelu(z: FloatArray) -> FloatArray:
    """Product z sigmoid(1.702 z), the approximation of GELU used by CLIP."""
    return z * sigmoid(1.702 * z)


def relu_squared(z: FloatArray) -> FloatArray:
    """max(z, 0)^2 (So et al. 2021, arXiv 2109.08668)."""
    return np.maximum(z, 0.0) ** 2


def sine(z: FloatArray, frequency: float = 1.0) -> FloatArray:
    """Product frequency sin(z): sin(frequency x) of pre-activations x of scale 1 / frequency.

    A SIREN (Sitzmann et al. 2020, arXiv 2006.09661) keeps frequency x at unit scale. With y =
    frequency x both sides of x' = W sin(frequency x) are y' = W (frequency sin y).
    """
    return frequency * np.sin(z)


def snake(z: FloatArray, frequency: float = 1.0) -> FloatArray:
    """Sum z + sin(frequency z)^2 / frequency (Ziyin et al. 2020, arXiv 2006.08195)."""
    return z + np.sin(frequency * z) ** 2 / frequency


def linear(z: FloatArray) -> FloatArray:
    """The input."""
    return z


def relu(z: FloatArray) -> FloatArray:
    """max(z, 0)."""
    return np.maximum(z, 0.0)


def leaky_relu(z: FloatArray, slope: float = 0.01) -> FloatArray:
    """Identity for z > 0, slope z below."""
    return np.where(z > 0.0, z, slope * z)


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
    "quick_gelu": (quick_gelu, ()),
    "relu_squared": (relu_squared, ()),
    "sine": (sine, (1.0,)),
    "snake": (snake, (1.0,)),
}
_FIXED = ("relu6",)
_POSITIVE = ("celu", "softplus", "sine", "snake")  # whose first parameter must be positive
ELEMENTWISE = tuple(_DEFAULTS)

# Homogeneous activations have exact laws of their own; as functions they serve gates and pooling.
_HOMOGENEOUS: dict[str, tuple[Callable[..., FloatArray], tuple[float, ...]]] = {
    "linear": (linear, ()),
    "relu": (relu, ()),
    "leaky_relu": (leaky_relu, (0.01,)),
    "prelu": (leaky_relu, (0.25,)),
}
FIXED_SLOPE = tuple(_HOMOGENEOUS)

registered: dict[str, ElementwiseFunction] = {}


def elementwise_function(name: str, param: tuple[float, ...]) -> ElementwiseFunction:
    """The activation with its parameters; an empty ``param`` means torch's defaults.

    Args:
        name: One of `ELEMENTWISE`, of `FIXED_SLOPE`, or a registered name, which has no parameters.
        param: The parameters.

    Raises:
        ValueError: If the number of parameters or their values are not those of the activation.
    """
    if name in registered:
        return registered[name]
    function, defaults = _DEFAULTS.get(name) or _HOMOGENEOUS[name]
    wanted = 0 if name in _FIXED else len(defaults)
    if param and len(param) != wanted:
        raise ValueError(f"`param` of {name!r} must hold {wanted} numbers, got {param}.")
    values = param or defaults
    if name == "hardtanh" and not values[0] < values[1]:
        raise ValueError(f"`param` of 'hardtanh' must be (min, max) with min < max, got {values}.")
    if name in _POSITIVE and not values[0] > 0.0:
        raise ValueError(f"`param` of {name!r} must start with a positive number, got {values}.")
    return ElementwiseFunction(function, values, _breakpoints(name, values))


def _breakpoints(name: str, values: tuple[float, ...]) -> tuple[float, ...]:
    if name in ("hardtanh", "relu6"):
        return values
    if name == "softplus":
        return (values[1] / values[0],)
    if name == "snake":
        return _quarter_waves(values[0])
    return (-3.0, 3.0) if name == "hardswish" else ()


def _quarter_waves(frequency: float) -> tuple[float, ...]:
    """Panel edges that resolve sin(frequency z)^2; above frequency 12 it is 1/2 up to noise."""
    step = math.pi / (2.0 * min(frequency, 12.0))
    return tuple(step * k for k in range(-200, 201)) if step < 1.0 else ()
