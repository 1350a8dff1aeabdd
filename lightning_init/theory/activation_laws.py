"""The law of X = phi(z)^2, z ~ N(0, 1), for every activation that may stand in front of a weight.

For a positively homogeneous phi (linear, ReLU, every fixed or random slope, each with dropout) X
is a scale mixture of chi-square variables and the moment-preserving scale of `fractional_moments`
is exact at every width. For the others the same scale is a fixed point at unit pre-activation
scale: exact only while the pre-activations are N(0, I), with `ActivationLaw.scale_exponent`
telling whether deviations die out.

A gated product phi(a) b of two weights' outputs is such a function of two independent draws; for
ReLU and linear gates, as for a squared ReLU, it is homogeneous of degree 2: exact at every width
behind pre-activations of unit scale, a norm's for example, while a deviation is squared (chi = 2).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from lightning_init.theory.composed_activations import (
    GATES,
    POOLED,
    SAMPLED,
    Activation,
    composed_activation,
)
from lightning_init.theory.elementwise import ELEMENTWISE, registered
from lightning_init.theory.function_table import ElementwiseFunction, function_table
from lightning_init.theory.slopes import NO_SLOPE, slope_law
from lightning_init.theory.special import FloatArray
from lightning_init.theory.squared_activations import ChiSquareMixture, Component, FixedSquare
from lightning_init.theory.tabulated_components import GatedProduct, Tabulated

HOMOGENEOUS = ("linear", "identity", "abs", "relu", "leaky_relu", "prelu", "rrelu")
NORMALIZED = "normalized"


@dataclass(frozen=True)
class ActivationLaw:
    """Law of X = phi(z)^2 for one coordinate, z ~ N(0, 1), dropout included; hashable.

    Attributes:
        nonlinearity: Canonical name.
        param: Slopes, bounds or other parameters; empty for none or the defaults of a built-in.
        dropout: Probability of the inverted dropout behind the activation, in [0, 1).
        component: The part of the law that is not the dead atom.
        alive_probability: P(X > 0), exactly 1 for a law without dead atom.
        homogeneous: Whether phi(c z) = c phi(z) for c > 0: the preservation is then exact.
        scale_exponent: chi = d log E phi(sqrt(q) z)^2 / d log q at q = 1; exactly 1 if homogeneous.
    """

    nonlinearity: str
    param: tuple[float, ...]
    dropout: float
    component: Component
    alive_probability: float
    homogeneous: bool
    scale_exponent: float

    @property
    def dead_probability(self) -> float:
        """P(X = 0)."""
        return 1.0 - self.alive_probability

    @cached_property
    def mean(self) -> float:
        """E X: the second moment of phi(z) with dropout."""
        return self.component.power_mean(1)

    @cached_property
    def c2(self) -> float:
        """Var X / (E X)^2: 2 for linear, 5 for ReLU."""
        return self._relative_power(2) - 1.0

    @cached_property
    def c3(self) -> float:
        """Third cumulant of X over (E X)^3: 8 for linear, 44 for ReLU."""
        return self._relative_power(3) - 3.0 * self._relative_power(2) + 2.0

    def log_alive_probability(self, width: int) -> float:
        """The logarithm of P(X_1 + ... + X_width > 0), accurate at both ends."""
        if self.alive_probability == 1.0:
            return 0.0
        log_dead = width * math.log1p(-self.alive_probability)
        if log_dead > -0.5:
            return math.log(-math.expm1(log_dead))
        return math.log1p(-math.exp(log_dead))

    def _relative_power(self, power: int) -> float:
        return self.component.power_mean(power) / self.mean**power

    def laplace(self, t: FloatArray) -> FloatArray:
        """Transform of the part with X > 0 at increasing t > 0.

        Returns:
            Shape (4, len(t)): P(X > 0) - E[e^{-tX}; X > 0], E[e^{-tX}; X > 0], t E[X e^{-tX}] and
            t^2 E[X^2 e^{-tX}].
        """
        return self.component.laplace(t)


def activation_law(
    nonlinearity: str = "relu",
    param: float | Sequence[float] | None = None,
    dropout: float = 0.0,
) -> ActivationLaw:
    """The law of phi(z)^2 for a named activation followed by inverted dropout.

    Args:
        nonlinearity: "linear" (or "identity"), "abs", "relu", "leaky_relu", "prelu", "rrelu";
            beyond homogeneity "gelu", "gelu_tanh", "quick_gelu", "silu", "mish", "elu", "celu",
            "selu", "softplus", "tanh", "sigmoid", "hardtanh", "relu6", "hardswish",
            "relu_squared", "sine", "snake", or a name given to `register_activation`;
            gated products phi(a) b "glu", "swiglu", "geglu", "geglu_tanh", "reglu", "bilinear",
            or "gated_" before any other activation; "max_pool" for the largest of k draws, with
            an activation in front of it "relu_max_pool"; "sampled" for a function known by its
            values, see `recognition.rule_of_values`; "normalized" for a signal straight out of a
            layer or RMS norm, whose rows have the same norm at every draw.
        param: leaky_relu: the negative slope, any sign (default 0.01). prelu: one slope or one per
            channel (default 0.25); the slope of a coordinate is then drawn uniformly from the
            channels, which is exact at order 2 and for equal slopes. rrelu: (lower, upper) of the
            training-mode slope (default 1/8, 1/3). elu, celu: alpha (1). softplus: (beta,
            threshold) (1, 20). hardtanh: (min, max) (-1, 1). sine: frequency w (1), of sin(w x);
            pre-activations are then kept at scale 1 / w, as in a SIREN. snake: frequency a (1) of
            x + sin(a x)^2 / a. A gated product: that of its activation. Pooling: the same, and
            then k, which need not be an integer. None for the others.
        dropout: Drop probability p; survivors are scaled by 1 / (1 - p).

    Returns:
        A frozen, hashable law; equal arguments give the same object.

    Raises:
        ValueError: If the name is unknown, a parameter is not finite or out of its range, or
            dropout is outside [0, 1).

    Example:
        >>> law = activation_law("leaky_relu", 0.2)
        >>> round(law.mean, 12), law.dead_probability, law.scale_exponent
        (0.52, 0.0, 1.0)
        >>> activation_law("relu", dropout=0.5).dead_probability
        0.75
    """
    if not 0.0 <= dropout < 1.0:
        raise ValueError(
            f"`dropout` must be in [0, 1), got {dropout}; dropping everything leaves no scale."
        )
    values = _as_tuple(param)
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"`param` of {nonlinearity!r} must be finite, got {param}.")
    name = "linear" if nonlinearity == "identity" else nonlinearity
    if name in HOMOGENEOUS:
        return _homogeneous_law(name, values, float(dropout))
    if name == NORMALIZED:
        return _normalized_law(values, float(dropout))
    activation = composed_activation(name, values)
    if activation is None:
        raise ValueError(_unknown(name))
    return _tabulated_law(name, values, float(dropout), activation)


def register_activation(
    name: str, function: Callable[[FloatArray], FloatArray], breakpoints: Sequence[float] = ()
) -> None:
    """Make an elementwise activation known by name to every function of this package.

    Args:
        name: New name; a registered name may be registered again, a built-in one may not.
        function: Maps a float64 numpy array to a float64 array of the same shape,
            deterministically.
        breakpoints: Where the function has a kink or a jump away from its zeros (those are found).
            Without them the integrals lose digits: about six remain.

    Raises:
        ValueError: If the name is a built-in activation, or the function is not finite on [-9.5,
            9.5] or zero everywhere.

    Example:
        >>> import numpy as np
        >>> register_activation("squared_relu", lambda z: np.maximum(z, 0.0) ** 2)
        >>> law = activation_law("squared_relu")
        >>> round(law.mean, 12), round(law.dead_probability, 12), round(law.scale_exponent, 12)
        (1.5, 0.5, 2.0)
    """
    if name not in registered and name in built_in_names():
        raise ValueError(f"`name` must not be a built-in activation, got {name!r}; choose another.")
    candidate = ElementwiseFunction(function, (), tuple(float(point) for point in breakpoints))
    function_table(candidate)
    registered[name] = candidate


def built_in_names() -> tuple[str, ...]:
    """Every name that `activation_law` knows, but for those composed of two."""
    return (*HOMOGENEOUS, NORMALIZED, *ELEMENTWISE, *GATES, POOLED, SAMPLED)


def _as_tuple(param: float | Sequence[float] | None) -> tuple[float, ...]:
    if param is None:
        return ()
    if isinstance(param, Sequence):
        return tuple(float(value) for value in param)
    return (float(param),)


def _unknown(name: str) -> str:
    known = [*built_in_names(), *registered]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else "add it with register_activation."
    return f"`nonlinearity` must be one of {', '.join(known)}, got {name[:60]!r}; {hint}"


@lru_cache(maxsize=1024)
def _tabulated_law(
    name: str, param: tuple[float, ...], dropout: float, activation: Activation
) -> ActivationLaw:
    keep = 1.0 - dropout
    function, gated, window, degree = activation
    component = (GatedProduct if gated else Tabulated)(function, keep**-2, keep, window)
    return ActivationLaw(
        nonlinearity=name,
        param=param,
        dropout=dropout,
        component=component,
        alive_probability=component.weight,
        homogeneous=degree == 1,
        scale_exponent=component.scale_exponent if degree is None else float(degree),
    )


@lru_cache(maxsize=64)
def _normalized_law(param: tuple[float, ...], dropout: float) -> ActivationLaw:
    """Behind a norm every order asks for 1 / sqrt(m), and no error of the scale is passed on."""
    if param:
        raise ValueError(f"{NORMALIZED!r} takes no `param`, got {param}; pass None.")
    keep = 1.0 - dropout
    return ActivationLaw(
        nonlinearity=NORMALIZED,
        param=(),
        dropout=dropout,
        component=FixedSquare(keep**-2, keep),
        alive_probability=keep,
        homogeneous=False,
        scale_exponent=0.0,
    )


@lru_cache(maxsize=1024)
def _homogeneous_law(name: str, param: tuple[float, ...], dropout: float) -> ActivationLaw:
    keep = 1.0 - dropout
    gain = keep**-2
    slopes = slope_law(name, param)
    alive = [(slope, weight) for slope, weight in slopes if abs(slope) >= NO_SLOPE]
    fixed = ChiSquareMixture(
        tuple(gain * (slope * slope) for slope, _ in alive),
        tuple(keep * weight for _, weight in alive),
    )
    dead = sum(weight for slope, weight in slopes if abs(slope) < NO_SLOPE)
    return ActivationLaw(
        nonlinearity=name,
        param=param,
        dropout=dropout,
        component=fixed,
        alive_probability=keep * (1.0 - dead),
        homogeneous=True,
        scale_exponent=1.0,
    )
