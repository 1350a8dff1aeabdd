"""Large-width forms of the moment-preserving scale: its expansion in 1/m and the published one."""

from __future__ import annotations

import math

from lightning_init.theory.activation_laws import ActivationLaw


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
        0.0318720341
    """
    c2, rest = law.c2, 2.0 - order
    series = 1.0 + rest / 4.0 * c2 / fan_in
    if terms >= 3:
        cumulants = (3.0 - order) / 4.0 * c2**2 - (4.0 - order) / 12.0 * law.c3
        series += (rest**2 / 32.0 * c2**2 + rest / 2.0 * cumulants) / fan_in**2
    return _positive_std(series / (fan_in * law.mean), fan_in, "asymptotic")


def authors_std(law: ActivationLaw, fan_in: int, order: float) -> float:
    """The closed formulas of the code published with arXiv 2005.11878, reproduced as they are.

    Linear and ReLU are the exact m^-1 expansion. The leaky formula is only its expansion for small
    slopes a: its coefficient ((5s-24)a^2+10) / (2(s+2)a^2+4) replaces (5-2a^2+5a^4) /
    (2(1+a^2)^3), is off by a fifth at a = 0.5 and of the wrong sign for a^2 > 10 / (24 - 5s). Kept
    for comparison only.

    Raises:
        ValueError: If the law is not linear, ReLU or leaky ReLU without dropout, or the formula is
            not positive at this width.
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
            f"`scheme` {scheme!r} gives the variance {variance:.3g} at fan_in {fan_in}: too narrow "
            "for a large-width formula; use scheme='exact'."
        )
    return math.sqrt(variance)
