"""The weight scale that preserves the order-s moment of a layer's outputs, exact at finite width.

For y = W phi(y_prev) with W ~ N(0, sigma^2) of fan-in m, given the input each output is normal with variance
sigma^2 ||phi(y_prev)||^2. If y_prev itself comes from such a layer and phi is positively homogeneous, then

    E|y_i|^s = sigma^s E||phi(z)||^s E|y_prev,j|^s,    z ~ N(0, I_m),

so the moment is preserved iff sigma = (E||phi(z)||^s)^(-1/s) (Gurbuzbalaban & Hu 2021, arXiv 2005.11878; here
without their large-m expansion). Order 2 is LeCun / Kaiming; order 0 preserves E log|y_i|.
"""

from __future__ import annotations

import math
from typing import Literal

from lightning_init.theory.activation_laws import ActivationLaw
from lightning_init.theory.squared_norm import check_fan_in, squared_norm_moments

Scheme = Literal["exact", "asymptotic", "authors"]
SCHEMES: tuple[Scheme, ...] = ("exact", "asymptotic", "authors")

MATERIAL_INFLATION = 0.05  # log sigma; 5 % of the scale paid for nets whose layer is dead


def moment_preserving_std(
    law: ActivationLaw,
    fan_in: int,
    order: float = 1.0,
    *,
    conditional: bool = False,
    scheme: str = "exact",
) -> float:
    """Standard deviation of N(0, sigma^2) weights that preserves the order-s moment.

    Args:
        law: Law of the activation in front of the weight, see `activation_law`.
        fan_in: Number m of inputs summed per output, >= 1.
        order: s in [0, 2]. 2 is 1 / sqrt(m E phi(z)^2), bit for bit the Kaiming / LeCun scale. 0 preserves
            E[log|y|] given that the layer is not dead (the limit s -> 0 when it cannot die).
        conditional: Preserve the moment given Q > 0, instead of enlarging the survivors to pay for dead
            layers. Only matters for ReLU or dropout at small m.
        scheme: "exact"; "asymptotic", the expansion to order m^-3 in sigma^2 (`asymptotic_std`); "authors",
            the formulas of the published code (`authors_std`).

    Returns:
        sigma > 0.

    Raises:
        ValueError: If order is outside [0, 2], fan_in is not an integer >= 1, the scheme is unknown or not
            defined for the law, or sigma exceeds the largest float (order -> 0 with a dead atom).

    Example:
        >>> from lightning_init.theory.activation_laws import activation_law
        >>> round(moment_preserving_std(activation_law("relu"), 64, order=1.0), 12)
        0.178528028664
        >>> moment_preserving_std(activation_law("relu"), 64, order=2.0) == (2 / 64) ** 0.5
        True
    """
    check_order(order)
    check_fan_in(fan_in)
    if scheme == "asymptotic":
        return asymptotic_std(law, fan_in, order)
    if scheme == "authors":
        return authors_std(law, fan_in, order)
    if scheme != "exact":
        raise ValueError(f"`scheme` must be one of {', '.join(SCHEMES)}, got {scheme!r}.")
    return _exact_std(law, int(fan_in), float(order), conditional)


def log_scale_correction(law: ActivationLaw, fan_in: int, order: float, conditional: bool) -> float:
    """log(sigma sqrt(m E X)): what the order adds to the order-2 scale; s = 0 is always conditional."""
    moments = squared_norm_moments(law, fan_in)
    if order == 0.0:
        return -0.5 * moments.mean_log
    alive = 0.0 if conditional else moments.log_alive
    if order == 2.0:
        # E Q = E[Q; Q > 0] whatever the dead atom.
        return 0.5 * moments.log_alive if conditional else 0.0
    return -(alive + float(moments.log_moments(order))) / order


def _exact_std(law: ActivationLaw, fan_in: int, order: float, conditional: bool) -> float:
    base = math.sqrt(1.0 / law.mean) / math.sqrt(fan_in)
    if order == 2.0 and not conditional:
        return base
    correction = log_scale_correction(law, fan_in, order, conditional)
    try:
        return base * math.exp(correction)
    except OverflowError:
        raise ValueError(
            f"`order` {order:g} with fan_in {fan_in} needs a weight scale of e^{correction:.0f}, because "
            f"{law.nonlinearity} is dead with probability {law.dead_probability:.3g} per input; use order "
            "0.0 or conditional=True."
        ) from None


def asymptotic_std(law: ActivationLaw, fan_in: int, order: float, terms: int = 3) -> float:
    """Large-width expansion of the moment-preserving scale.

    With c2, c3 the relative variance and third cumulant of X = phi(z)^2 and s the order,

        sigma^2 m E X = 1 + (2-s)/4 c2 / m
            + [(2-s)^2/32 c2^2 + (2-s)/2 ((3-s)/4 c2^2 - (4-s)/12 c3)] / m^2 + O(m^-3),

    from the expansion of log E (Q / E Q)^(s/2) in the cumulants of Q.

    Args:
        law: Law of the activation in front of the weight.
        fan_in: Number m of inputs.
        order: s in [0, 2].
        terms: 2 keeps the m^-1 correction, 3 the m^-2 correction as well.

    Raises:
        ValueError: If the truncated series is not positive at this width.

    Example:
        >>> from lightning_init.theory.activation_laws import activation_law
        >>> round(asymptotic_std(activation_law("relu"), 64, 1.0) ** 2, 10)
        0.031872034
    """
    c2, rest = law.c2, 2.0 - order
    series = 1.0 + rest / 4.0 * c2 / fan_in
    if terms >= 3:
        cumulants = (3.0 - order) / 4.0 * c2**2 - (4.0 - order) / 12.0 * law.c3
        series += (rest**2 / 32.0 * c2**2 + rest / 2.0 * cumulants) / fan_in**2
    return _positive_std(series / (fan_in * law.mean), fan_in, "asymptotic")


def authors_std(law: ActivationLaw, fan_in: int, order: float) -> float:
    """The closed formulas of the code published with arXiv 2005.11878, reproduced as they are.

    Linear and ReLU are the exact m^-1 expansion. The leaky formula is only its expansion for small slopes a:
    its coefficient ((5s-24)a^2+10) / (2(s+2)a^2+4) replaces (5-2a^2+5a^4) / (2(1+a^2)^3), is off by a fifth
    at a = 0.5 and of the wrong sign for a^2 > 10 / (24 - 5s). Kept for comparison only.

    Raises:
        ValueError: If the law is not linear, ReLU or leaky ReLU without dropout, or the formula is not
            positive at this width.
    """
    rest = 2.0 - order
    if law.dropout > 0.0 or law.nonlinearity not in ("linear", "relu", "leaky_relu"):
        raise ValueError(
            "`scheme` 'authors' must be used with linear, relu or leaky_relu without dropout, got "
            f"{law.nonlinearity!r} with dropout {law.dropout:g}; use scheme='exact'."
        )
    if law.nonlinearity == "linear":
        return _positive_std(1.0 / fan_in + rest / (2.0 * fan_in**2), fan_in, "authors")
    square = 0.0 if law.nonlinearity == "relu" else (law.param[0] if law.param else 0.01) ** 2
    coefficient = ((5.0 * order - 24.0) * square + 10.0) / (2.0 * (order + 2.0) * square + 4.0)
    variance = 2.0 / ((1.0 + square) * fan_in) + rest * coefficient / fan_in**2
    return _positive_std(variance, fan_in, "authors")


def _positive_std(variance: float, fan_in: int, scheme: str) -> float:
    if not variance > 0.0:
        raise ValueError(
            f"`scheme` {scheme!r} gives the variance {variance:.3g} at fan_in {fan_in}: too narrow for a "
            "large-width formula; use scheme='exact'."
        )
    return math.sqrt(variance)


def dead_inflation(law: ActivationLaw, fan_in: int, order: float) -> float:
    """How much of log sigma pays for dead layers: -log(1 - p^m) / s with p = P(phi(z) = 0).

    The unconditional moment counts a layer whose m inputs are all zero as 0, so the exact scale enlarges the
    survivors. Zero at order 0, which is conditional by definition.

    Example:
        >>> from lightning_init.theory.activation_laws import activation_law
        >>> round(dead_inflation(activation_law("relu"), 4, 1.0), 4)
        0.0645
    """
    check_order(order)
    if order == 0.0 or law.alive_probability == 1.0:
        return 0.0
    log_dead = check_fan_in(fan_in) * math.log1p(-law.alive_probability)
    return (
        -math.log(-math.expm1(log_dead)) / order
        if log_dead > -0.5
        else (-math.log1p(-math.exp(log_dead)) / order)
    )


def dead_layer_warning(law: ActivationLaw, fan_in: int, order: float) -> str | None:
    """One sentence when dead layers inflate sigma by more than 5 %, else None."""
    inflation = dead_inflation(law, fan_in, order)
    if inflation <= MATERIAL_INFLATION:
        return None
    dead = math.exp(fan_in * math.log1p(-law.alive_probability))
    return (
        f"all {fan_in} inputs are zero with probability {dead:.3g}, and order {order:g} enlarges the weight "
        f"scale by a factor of {math.exp(min(inflation, 700.0)):.3g} to pay for it; use conditional=True, "
        "order 0.0 or a larger order."
    )


def check_order(order: float) -> None:
    """Refuse an order outside [0, 2].

    Raises:
        ValueError: If it is outside or not a number.
    """
    if not 0.0 <= order <= 2.0:
        raise ValueError(f"`order` must be in [0, 2], got {order}; use 2.0 for Kaiming/LeCun.")
