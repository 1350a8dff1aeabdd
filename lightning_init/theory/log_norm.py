"""The random walk of log||x_k|| through the layers of a homogeneous network at initialization.

With x_k = phi(y_k) and z ~ N(0, I), ||x_k|| = sigma_k sqrt(Q_k) ||x_{k-1}|| where the Q_k =
||phi(z)||^2 are exactly independent across layers, so log||x_k|| is a random walk: per layer

    drift = log sigma + E[log Q] / 2,    variance = Var[log Q] / 4.

The drift is negative for every order s in (0, 2], about -s/2 times the variance: the norm tends to
0 almost surely although its order-s moment is constant, the faster the larger the order
(Gurbuzbalaban & Hu 2021, arXiv 2005.11878). Order 0 has no drift. For non-homogeneous activations
this is the step at unit scale only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lightning_init.theory.activation_laws import ActivationLaw
from lightning_init.theory.fractional_moments import log_scale_correction
from lightning_init.theory.special import normal_cdf
from lightning_init.theory.squared_norm import check_order, squared_norm_moments


@dataclass(frozen=True)
class LogNormLaw:
    """Law of log||x_k|| - log||x_0|| over one or more layers, given that none is dead.

    Attributes:
        drift: Mean, in nats.
        variance: Variance, in nats squared.
        dead_probability: P(some layer is all zero).
    """

    drift: float
    variance: float
    dead_probability: float = 0.0

    @property
    def sd(self) -> float:
        """Standard deviation, in nats."""
        return math.sqrt(self.variance)

    def __add__(self, other: LogNormLaw) -> LogNormLaw:
        """The law over both stretches of layers: independent steps add up."""
        alive = (1.0 - self.dead_probability) * (1.0 - other.dead_probability)
        return LogNormLaw(self.drift + other.drift, self.variance + other.variance, 1.0 - alive)

    def repeated(self, depth: int) -> LogNormLaw:
        """The law over ``depth`` equal layers.

        Raises:
            ValueError: If depth is not an integer >= 0.
        """
        if int(depth) != depth or depth < 0:
            raise ValueError(f"`depth` must be an integer >= 0, got {depth}; count the layers.")
        dead = -math.expm1(depth * math.log1p(-self.dead_probability))
        return LogNormLaw(depth * self.drift, depth * self.variance, dead)

    def probability_below(self, ratio: float) -> float:
        """P(||x_k|| < ratio ||x_0||), dead layers included, with a normal log-norm.

        The normal approximation is within 0.002 at depth 100 and width 64; in the far tail of a
        shallow stack (depth 20, probabilities near 1e-3) it is 25 to 50 % too small, because log Q
        is skewed to the left.

        Raises:
            ValueError: If ratio is not positive.

        Example:
            >>> step = LogNormLaw(drift=-0.010196, variance=0.020749)
            >>> round(step.repeated(100).probability_below(0.1), 3)
            0.187
        """
        if not ratio > 0.0:
            raise ValueError(
                f"`ratio` must be positive, got {ratio}; 0.1 means a tenfold shrinkage."
            )
        distance = math.log(ratio) - self.drift
        certain = self.variance == 0.0
        below = float(distance > 0.0 if certain else normal_cdf(distance / self.sd))
        return self.dead_probability + (1.0 - self.dead_probability) * below


def log_norm_law(
    law: ActivationLaw, width: int, order: float = 1.0, std: float | None = None
) -> LogNormLaw:
    """One layer's step of log||phi(y)|| under moment-preserving (or given) weights.

    Args:
        law: Law of the activation *behind* the weight, whose output norm is followed.
        width: Number of outputs of the weight.
        order: Order s of the preserved moment, in [0, 2].
        std: Standard deviation of the weights; by default the one that preserves the moment behind
            the same activation and as many inputs.

    Returns:
        Drift and variance of one layer, given that it is not dead, with the probability that it is.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from lightning_init.theory.activation_laws import activation_law
        >>> step = log_norm_law(activation_law("relu"), 64, order=1.0)
        >>> round(step.drift, 6), round(step.variance, 6)
        (-0.010196, 0.020749)
    """
    check_order(order)
    moments = squared_norm_moments(law, width)
    # log sigma + E[log Q] / 2 with the mean of Q taken out of both: equal widths cancel exactly.
    if std is None:
        log_scale = log_scale_correction(law, width, order, conditional=False)
    elif std > 0.0:
        log_scale = math.log(std) + 0.5 * math.log(moments.mean)
    else:
        raise ValueError(f"`std` must be positive, got {std}; a zero weight has no log-norm.")
    drift = log_scale + 0.5 * moments.mean_log
    return LogNormLaw(drift, 0.25 * moments.variance_log, moments.dead_probability)
