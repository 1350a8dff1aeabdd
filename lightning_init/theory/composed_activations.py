"""Activations outside the homogeneous family by name: elementwise, gated, pooled, or sampled.

A name is composed of an elementwise activation and what is done with it:

* ``silu``, ``sine``, ...: phi(z), a built-in of `elementwise` or a registered function;
* ``sampled``: an elementwise function known by its values;
* ``glu``, ``swiglu``, ``geglu``, ``geglu_tanh``, ``reglu``, ``bilinear``, or ``gated_`` and the
  activation: phi(a) b with independent a and b, the two halves of a gated product;
* ``max_pool`` (of the signal itself), or the activation and ``_max_pool``: the largest phi of k
  draws.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lightning_init.theory.elementwise import (
    ELEMENTWISE,
    FIXED_SLOPE,
    elementwise_function,
    registered,
)
from lightning_init.theory.function_table import ElementwiseFunction
from lightning_init.theory.sampled_function import REACH, SampledFunction

# Dauphin et al. 2017, arXiv 1612.08083; Shazeer 2020, arXiv 2002.05202.
GATES = {
    "glu": "sigmoid",
    "swiglu": "silu",
    "geglu": "gelu",
    "geglu_tanh": "gelu_tanh",
    "reglu": "relu",
    "bilinear": "linear",
}
GATED = "gated_"
POOLED = "max_pool"
SAMPLED = "sampled"


class Activation(NamedTuple):
    """What an activation computes from standard normal draws.

    Args:
        function: The elementwise phi.
        gated: Whether phi(a) is multiplied by a second, independent draw.
        window: The number of draws of which the largest is taken.
        degree: d in phi(c z) = c^d phi(z), c > 0; None where no such d is known.
    """

    function: ElementwiseFunction
    gated: bool = False
    window: float = 1.0
    degree: int | None = None


def composed_activation(name: str, param: tuple[float, ...]) -> Activation | None:
    """The activation of that name, None for a name that is none.

    Args:
        name: A name as in the module's docstring.
        param: Parameters of the elementwise activation; the number of draws behind them for
            pooling; (first node, last node, values...) for a sampled function.

    Raises:
        ValueError: If a parameter is out of its range, or the largest of several draws has no law.
    """
    if name in (*registered, *ELEMENTWISE, SAMPLED):
        return Activation(_function(name, param))
    gate = GATES.get(name) or name.removeprefix(GATED)
    if gate != name:
        return _gated(gate, param) if _is_part(gate) else None
    if name == POOLED or name.endswith(f"_{POOLED}"):
        inner = name.removesuffix(POOLED).removesuffix("_") or "linear"
        return _pooled(name, inner, param) if _is_part(inner) else None
    return None


def _is_part(name: str) -> bool:
    return name in (*registered, *FIXED_SLOPE, *ELEMENTWISE, SAMPLED)


def _function(name: str, param: tuple[float, ...]) -> ElementwiseFunction:
    if name != SAMPLED:
        return elementwise_function(name, param)
    if len(param) < 2:
        raise ValueError(f"`param` of {SAMPLED!r} must be (first, last, values...), got {param}.")
    function = SampledFunction(param[0], param[1], param[2:])
    return ElementwiseFunction(function, (), function.breakpoints)


def _gated(name: str, param: tuple[float, ...]) -> Activation:
    function = _function(name, param)
    return Activation(function, gated=True, degree=2 if name in FIXED_SLOPE else None)


def _pooled(name: str, inner: str, param: tuple[float, ...]) -> Activation:
    if not param or not param[-1] > 0.0:
        raise ValueError(
            f"`param` of {name!r} must end with the number of draws, got {param}; a window of 2 x 2"
            " has at most 4."
        )
    function = _function(inner, param[:-1])
    z = np.linspace(0.0, REACH, 200)
    above, below = function(z), function(-z)
    if np.any(np.diff(above) < 0.0) or below.max() > above[0]:
        raise ValueError(
            f"{inner!r} does not rise from 0 on, so {name!r} is not {inner} of the largest draw;"
            " use a law of sampled values."
        )
    degree = 1 if inner in FIXED_SLOPE else None
    return Activation(function, window=param[-1], degree=degree)
