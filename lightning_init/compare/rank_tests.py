"""Tests of paired differences that see only their signs and their ranks, and Holm's correction.

Infinite differences, of runs that did not finish, take part: they have the highest ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Up to here the null distribution of the signed-rank statistic is counted out.
MOST_PAIRS_COUNTED_OUT = 200


def wilcoxon_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test.

    Zeros are ranked and then left out (Pratt 1959), ties share their mean rank. The null
    distribution is counted out over all signs of the ranks at hand, so p is exact with ties, zeros
    and infinite differences too; beyond 200 differences it is normal.

    >>> wilcoxon_p(np.array([0.1, 0.2, 0.4, 0.5, 0.7, math.inf]))
    0.03125
    """
    if len(differences) == 0:
        return math.nan
    doubled = _doubled_ranks(differences)
    positive, negative = (int(np.sum(doubled[way])) for way in (differences > 0, differences < 0))
    doubled = doubled[differences != 0]
    if len(doubled) > MOST_PAIRS_COUNTED_OUT:
        distance = abs(positive - negative) / math.sqrt(float(np.sum(doubled**2)))
        return math.erfc(distance / math.sqrt(2))
    cumulative = _signed_rank_distribution(tuple(sorted(doubled.tolist())))
    return min(1.0, 2 * float(cumulative[min(positive, negative)]))


def sign_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of the sign test; ties are left out.

    >>> sign_p(np.array([0.1, 0.2, 0.4, 0.5, 0.7, math.inf, 0.0]))
    0.03125
    """
    if len(differences) == 0:
        return math.nan
    unequal = int(np.count_nonzero(differences))
    if unequal == 0:
        return 1.0
    positive = int(np.count_nonzero(differences > 0))
    return _fair_coin_p(positive, unequal)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p-values of a family (Holm 1979); those that are nan stay out of it.

    >>> holm([0.01, 0.04, 0.03, math.nan])
    [0.03, 0.06, 0.06, nan]
    """
    corrected = [math.nan] * len(p_values)
    family = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for place, (p, index) in enumerate(family):
        largest = max(largest, min(1.0, (len(family) - place) * p))
        corrected[index] = largest
    return corrected


def signed_rank_sums(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Sums of the ranks of the positive and of the negative differences; zeros are ranked too."""
    ranks = _doubled_ranks(differences) / 2
    return float(np.sum(ranks[differences > 0])), float(np.sum(ranks[differences < 0]))


def _doubled_ranks(differences: NDArray[np.float64]) -> NDArray[np.int64]:
    """Twice the mid-ranks of the absolute differences: whole numbers."""
    sizes = np.abs(differences)
    ordered = np.sort(sizes)
    below = np.searchsorted(ordered, sizes, side="left")
    return np.asarray(below + np.searchsorted(ordered, sizes, side="right") + 1, dtype=np.int64)


@lru_cache(maxsize=64)
def _signed_rank_distribution(doubled_ranks: tuple[int, ...]) -> NDArray[np.float64]:
    """Probability of at most each sum of the positive ranks when every sign is a fair coin."""
    distribution = np.zeros(sum(doubled_ranks) + 1)
    distribution[0] = 1.0
    for rank in doubled_ranks:
        shifted = np.zeros_like(distribution)
        shifted[rank:] = distribution[: len(distribution) - rank]
        distribution = (distribution + shifted) / 2
    return np.cumsum(distribution)


@lru_cache(maxsize=1024)
def _fair_coin_p(heads: int, tosses: int) -> float:
    return float(scipy_stats().binomtest(heads, tosses).pvalue)


def scipy_stats() -> Any:
    """Import `scipy.stats`, which only the extra `compare` installs."""
    try:
        from scipy import stats
    except ImportError:
        raise ImportError(
            "comparing initializations needs scipy; install it with "
            "`pip install lightning_init[compare]`."
        ) from None
    return stats
