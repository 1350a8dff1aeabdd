"""Did a training diverge? What its losses and its variances say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, variance

from lightning_init.stationarity.student import student_t_quantile

#: A variance that is this many times what it was, or this part of it, has left what is sensible.
LARGEST_FACTOR = 16.0
#: Root mean square of a layer's weights beyond which no layer trains.
LARGEST_WEIGHT = 1e3
# A probe looks at its loss some hundred times; so a loss that stays put passes for a rising one in
# about one probe in a hundred at most.
LOSS_CONFIDENCE = 0.9999
FEWEST_LOSSES = 5


def loss_ends(losses: Sequence[float], planned: int) -> tuple[float, float]:
    """Mean of the first tenth of the planned losses, and of as many of the latest.

    Returns:
        nan, nan without a loss.

    Example:
        >>> loss_ends([3.0, 2.0, 1.0], planned=3)
        (3.0, 1.0)
        >>> loss_ends([1.0, 2.0, 9.0], planned=600)
        (1.0, 9.0)
    """
    if not losses:
        return math.nan, math.nan
    tenth = max(1, min(planned // 10, len(losses) // 2))  # two means of the same say nothing
    return fmean(losses[:tenth]), fmean(losses[-tenth:])


def loss_rose(losses: Sequence[float], planned: int) -> bool:
    """Whether the latest tenth of the losses is above the first, beyond what chance explains.

    Args:
        losses: One per step so far, finite.
        planned: Steps planned; a tenth of them makes each mean, five at least.

    Example:
        >>> loss_rose([1.0, 1.1, 0.9, 1.0, 1.1, 2.0, 2.1, 1.9, 2.2, 2.0], planned=10)
        True
        >>> loss_rose([2.0, 2.1, 1.9, 2.2, 2.0, 1.0, 1.1, 0.9, 1.0, 1.1], planned=10)
        False
    """
    tenth = max(FEWEST_LOSSES, planned // 10)
    if len(losses) < 2 * tenth:
        return False
    first, last = losses[:tenth], losses[-tenth:]
    error = math.sqrt((variance(first) + variance(last)) / tenth)
    # The smaller degrees of freedom of Welch's test: those of one mean.
    return fmean(last) - fmean(first) > student_t_quantile(LOSS_CONFIDENCE, tenth - 1) * error
