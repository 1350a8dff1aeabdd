"""Steady states of stochastic gradient descent that are known in closed form.

`torch.optim.SGD` (momentum `b`, dampening 0, coupled weight decay `l`, learning rate `h`) on a
quadratic of curvature `c` with minimum at `w*` and gradient noise of variance `C`, all per weight:

    v <- b v + (c (w - w*) + l w + noise),     w <- w - h v

is linear, so with K = c + l its stationary law has

    mean = w* c / K,     variance = h C / ((1 - b) K (2 - h K / (1 + b)))

and the variance approaches it like exp(-t / relaxation) with relaxation = (1 - b) / (2 h K) steps.
The variance follows from the two second-moment balances of w and v at stationarity; for b = 0 it
is the geometric series h^2 C sum (1 - h K)^(2 k).

References:
    Mandt, Hoffman & Blei 2017, arXiv 1704.04289 (the continuous-time limit h C / (2 (1 - b) K));
    Liu, Ziyin & Ueda 2021, arXiv 2012.03636 (the discrete-time variance with momentum).
"""

from __future__ import annotations


def steady_state_variance(
    learning_rate: float,
    curvature: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    noise_variance: float = 1.0,
) -> float:
    """Variance of one weight about its mean at the steady state.

    Args:
        learning_rate: Step size.
        curvature: Second derivative of the loss in this weight.
        momentum: Heavy-ball coefficient, in [0, 1).
        weight_decay: Coupled weight decay, at least 0.
        noise_variance: Variance of the gradient of one step.

    Raises:
        ValueError: If no steady state exists.

    Example:
        >>> round(steady_state_variance(0.05, 1.0, momentum=0.9), 5)
        0.25333
    """
    stiffness = _stiffness(learning_rate, curvature, momentum, weight_decay)
    damping = (1 - momentum) * stiffness
    return (
        learning_rate
        * noise_variance
        / (damping * (2 - learning_rate * stiffness / (1 + momentum)))
    )


def relaxation_steps(
    learning_rate: float, curvature: float, momentum: float = 0.0, weight_decay: float = 0.0
) -> float:
    """Optimizer steps in which the variance's distance from its steady state falls by 1/e.

    Exact in the limit of small `learning_rate * curvature`.

    Raises:
        ValueError: If no steady state exists.
    """
    stiffness = _stiffness(learning_rate, curvature, momentum, weight_decay)
    return (1 - momentum) / (2 * learning_rate * stiffness)


def _stiffness(
    learning_rate: float, curvature: float, momentum: float, weight_decay: float
) -> float:
    if not 0 <= momentum < 1:
        raise ValueError(f"`momentum` must be in [0, 1), got {momentum}; use 0.9 or 0.0.")
    stiffness = curvature + weight_decay
    if stiffness <= 0:
        raise ValueError(
            f"`curvature` + `weight_decay` must be positive, got {stiffness}; "
            "a flat direction without decay has no steady state."
        )
    limit = 2 * (1 + momentum) / stiffness
    if not 0 < learning_rate < limit:
        raise ValueError(
            f"`learning_rate` must be in (0, {limit:g}), got {learning_rate}; "
            "use a smaller one, beyond it the weights diverge."
        )
    return stiffness
