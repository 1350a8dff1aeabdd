"""The weight scale that preserves the order-s moment of a layer's outputs, exact at finite width.

For y = W phi(y_prev) with W ~ N(0, sigma^2) of fan-in m, given the input each output is normal
with variance sigma^2 ||phi(y_prev)||^2. If y_prev itself comes from such a layer and phi is
positively homogeneous, then

    E|y_i|^s = sigma^s E||phi(z)||^s E|y_prev,j|^s,    z ~ N(0, I_m),

so the moment is preserved iff sigma = (E||phi(z)||^s)^(-1/s) (Gurbuzbalaban & Hu 2021, arXiv
2005.11878; here without their large-m expansion). Order 2 is LeCun / Kaiming; order 0 preserves E
log|y_i|.
"""

from __future__ import annotations

import math
from typing import Literal

from lightning_init.theory.activation_laws import ActivationLaw
from lightning_init.theory.large_width import asymptotic_std, authors_std
from lightning_init.theory.squared_norm import check_fan_in, check_order, squared_norm_moments

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
        order: s in [0, 2]. 2 is 1 / sqrt(m E phi(z)^2), bit for bit the Kaiming / LeCun scale. 0
            preserves E[log|y|] given that the layer is not dead (the limit s -> 0 when it cannot
            die).
        conditional: Preserve the moment given Q > 0, instead of enlarging the survivors to pay for
            dead layers. Only matters for ReLU or dropout at small m.
        scheme: "exact"; "asymptotic", the expansion to order m^-3 in sigma^2 (`asymptotic_std`);
            "authors", the formulas of the published code (`authors_std`).

    Returns:
        sigma > 0.

    Raises:
        ValueError: If order is outside [0, 2], fan_in is not an integer >= 1, the scheme is
            unknown or not defined for the law, or sigma exceeds the largest float (order -> 0 with
            a dead atom).

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
    """log(sigma sqrt(m E X)): what the order adds to the order-2 scale; conditional at order 0."""
    moments = squared_norm_moments(law, fan_in)
    alive = 0.0 if conditional else moments.log_alive
    # Next to zero the products below would be subnormal numbers, of few digits.
    if order == 0.0 or (order < 1e-290 and alive == 0.0):
        return -0.5 * moments.mean_log
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
            f"`order` {order:g} with fan_in {fan_in} needs a scale of e^{correction:.0f}, since "
            f"{law.nonlinearity} is zero with probability {law.dead_probability:.3g} per input; "
            "use order 0.0 or conditional=True."
        ) from None


def dead_inflation(law: ActivationLaw, fan_in: int, order: float) -> float:
    """How much of log sigma pays for dead layers: -log(1 - p^m) / s with p = P(phi(z) = 0).

    The unconditional moment counts a layer whose m inputs are all zero as 0, so the exact scale
    enlarges the survivors. Zero at order 0, which is conditional by definition.

    Example:
        >>> from lightning_init.theory.activation_laws import activation_law
        >>> round(dead_inflation(activation_law("relu"), 4, 1.0), 4)
        0.0645
    """
    check_order(order)
    if order == 0.0:
        return 0.0
    return -law.log_alive_probability(check_fan_in(fan_in)) / order


def dead_layer_warning(
    law: ActivationLaw, fan_in: int, order: float, use: str = "conditional=True, order 0.0"
) -> str | None:
    """One sentence when dead layers inflate sigma by more than 5 %, else None.

    Args:
        law: The law of the activation.
        fan_in: Inputs of the layer.
        order: s in [0, 2].
        use: What else than a larger order the caller has to offer.
    """
    inflation = dead_inflation(law, fan_in, order)
    if inflation <= MATERIAL_INFLATION:
        return None
    return (
        f"all {fan_in} inputs are zero with probability {law.dead_probability**fan_in:.3g}, and "
        f"order {order:g} enlarges the weight scale by e^{inflation:.3g} to pay for it; use "
        f"{use} or a larger order."
    )
