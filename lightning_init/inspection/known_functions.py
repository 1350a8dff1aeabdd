"""Which known activation a function of one number is, decided by its values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_init.inspection.signals import Rule

# Where the values of a function are taken: symmetric, with zero, beyond what a normal law visits.
GRID = torch.linspace(-8.0, 8.0, 1025, dtype=torch.float64)
SAMPLED = "sampled"
_CLOSE = 2e-4  # the two GELU differ by 5e-4, single precision by 1e-6
_ZERO = len(GRID) // 2

_FIXED: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "quick_gelu": lambda z: z * torch.sigmoid(1.702 * z),
    "silu": F.silu,
    "mish": F.mish,
    "selu": F.selu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "relu_squared": lambda z: F.relu(z).square(),
}
_WITH_DEFAULTS: dict[str, tuple[Callable[[Tensor], Tensor], float | tuple[float, ...]]] = {
    "elu": (F.elu, 1.0),
    "softplus": (F.softplus, (1.0, 20.0)),
    "hardtanh": (F.hardtanh, (-1.0, 1.0)),
}
# By the activation of one factor: the product with the other one.
GATED = {
    "linear": "bilinear",
    "relu": "reglu",
    "silu": "swiglu",
    "gelu": "geglu",
    "gelu_tanh": "geglu_tanh",
    "sigmoid": "glu",
}


def known_rule(values: Tensor) -> tuple[Rule, float]:
    """The name and parameters of the activation with these values on `GRID`, and its factor.

    What is none of the known ones is `SAMPLED`, with its values as parameters. The factor is 1 for
    everything but a multiple of a homogeneous function.

    Example:
        >>> known_rule(GRID.clamp_min(0.0))
        (('relu', None), 1.0)
        >>> known_rule(torch.sin(30.0 * GRID))[0]
        ('sin', 30.0)
    """
    values = values.detach().double().cpu()
    if (homogeneous := _homogeneous(values)) is not None:
        return homogeneous
    best: tuple[float, Rule] = (_CLOSE, (SAMPLED, tuple(values.tolist())))
    for rule, function in _candidates(values):
        error = float((function(GRID) - values).abs().max())
        if error < best[0]:
            best = (error, rule)
    return best[1], 1.0


def _candidates(values: Tensor) -> Iterator[tuple[Rule, Callable[[Tensor], Tensor]]]:
    for name, function in _FIXED.items():
        yield (name, None), function
    for name, (function, param) in _WITH_DEFAULTS.items():
        yield (name, param), function
    step = float(GRID[_ZERO + 1])
    after_zero = float(values[_ZERO + 1])
    if 0.0 < after_zero < 1.0 and abs(float(values[_ZERO])) < _CLOSE:
        frequency = _rounded(math.asin(after_zero) / step)
        yield ("sin", frequency), lambda z: torch.sin(frequency * z)
    highest = float((values - GRID).max())
    if highest > 0.0:  # x + sin(ax)^2 / a
        alpha = _rounded(1.0 / highest)
        yield ("snake", alpha), lambda z: z + torch.sin(alpha * z).square() / alpha


def _rounded(number: float) -> float:
    return float(f"{number:.3g}")


def _homogeneous(values: Tensor) -> tuple[Rule, float] | None:
    """A slope for negative and one for positive numbers, up to a factor."""
    above = float(values[-1] / GRID[-1])
    below = float(values[0] / GRID[0])
    line = torch.where(GRID > 0, above, below) * GRID
    largest = max(abs(above), abs(below))
    if largest == 0.0 or float((line - values).abs().max()) > _CLOSE * max(1.0, largest):
        return None
    if abs(above) < _CLOSE * largest:  # relu of the negated signal, which has the same law
        above, below = -below, 0.0
    slope = below / above
    for special, rule in ((1.0, "linear"), (0.0, "relu"), (-1.0, "abs")):
        if abs(slope - special) < _CLOSE:
            return (rule, None), _rounded(abs(above))
    return ("leaky_relu", _rounded(slope)), _rounded(abs(above))
