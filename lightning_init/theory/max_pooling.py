"""Max pooling: the largest of k draws, and how many independent draws a real window amounts to.

For a rising phi the largest of phi(z_1), ..., phi(z_k) is phi of the largest draw, which has the
density k cdf(z)^(k-1) pdf(z) when the draws are independent. Neighbouring outputs of a convolution
share inputs and are not. Their largest still lies between that of one draw and that of k, so the
law of an effective number of draws is used: the one whose second moment was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_init.theory.composed_activations import POOLED, composed_activation
from lightning_init.theory.function_table import largest_second_moment

_MOST_DRAWS = 1e6
_HALVINGS = 60


def pooled_name(nonlinearity: str) -> str:
    """Name of the law of max pooling behind (or, for a rising activation, before) an activation.

    Example:
        >>> pooled_name("relu"), pooled_name("linear")
        ('relu_max_pool', 'max_pool')
    """
    return POOLED if nonlinearity in ("linear", "identity") else f"{nonlinearity}_{POOLED}"


def effective_draws(
    nonlinearity: str, param: float | Sequence[float] | None, second_moment: float
) -> float:
    """The number k of independent draws whose largest has the measured second moment.

    Args:
        nonlinearity: Activation before or behind the pooling, "linear" for none; it must rise from
            0 on. A falling part below 0, as of GELU, is taken as if it were rising: at k = 2
            that changes the second moment by less than 0.2 %.
        param: Its parameters.
        second_moment: Mean square of the pooled activations over the mean square of the
            pre-activations (those of one channel, at unit scale unless the activation is
            homogeneous).

    Returns:
        k in [1, 1e6], the last parameter of the law named by `pooled_name`; the nearest end when
        no k gives the second moment.

    Raises:
        ValueError: If the activation has no law of pooling.

    Example:
        >>> from lightning_init.theory.activation_laws import activation_law
        >>> law = activation_law("relu_max_pool", 4.0)
        >>> round(effective_draws("relu", None, law.mean), 9)
        4.0
    """
    before = () if param is None else tuple(param) if isinstance(param, Sequence) else (param,)
    activation = composed_activation(pooled_name(nonlinearity), (*before, 1.0))
    if activation is None:
        raise ValueError(
            f"`nonlinearity` must be an activation with pooling, got {nonlinearity!r}."
        )
    low, high = 1.0, _MOST_DRAWS
    if largest_second_moment(activation.function, low) >= second_moment:
        return low
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        too_few = largest_second_moment(activation.function, middle) < second_moment
        low, high = (middle, high) if too_few else (low, middle)
    return math.sqrt(low * high)
