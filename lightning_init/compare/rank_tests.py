"""Tests of paired differences that see only their signs and their ranks, and Holm's correction.

Infinite differences, of runs that did not finish, take part: they have the highest ranks.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Of intervals; one minus it is the level of the tests.
CONFIDENCE = 0.95
LEVEL = 1 - CONFIDENCE
# Up to here the null distribution of the signed-rank statistic is counted out.
MOST_PAIRS_COUNTED_OUT = 200


def wilcoxon_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test.

    Zeros are ranked and then left out (Pratt 1959), ties share their mean rank. The null
    distribution is counted out over all signs of the ranks at hand, so p is exact with ties, zeros
    and infinite differences too; beyond 200 differences it is scipy's, which is normal. (scipy's
    exact one knows no ties, and its permutations take a minute from 18 pairs on.)

    >>> wilcoxon_p(np.array([0.1, 0.2, 0.4, 0.5, 0.7, math.inf]))
    0.03125
    """
    if len(differences) == 0:
        return math.nan
    if np.count_nonzero(differences) > MOST_PAIRS_COUNTED_OUT:
        test = optional("scipy.stats").wilcoxon(differences, zero_method="pratt", method="approx")
        return float(test.pvalue)
    ranks = optional("scipy.stats").rankdata(np.abs(differences))
    smaller = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
    # Twice a mean rank is a whole number.
    cumulative = _signed_rank_distribution(tuple(sorted((2 * ranks[differences != 0]).astype(int))))
    return min(1.0, 2 * float(cumulative[int(2 * smaller)]))


def sign_p(differences: NDArray[np.float64]) -> float:
    """Two-sided p of the sign test; ties are left out.

    >>> sign_p(np.array([0.1, 0.2, 0.4, 0.5, 0.7, math.inf, 0.0]))
    0.03125
    """
    if len(differences) == 0:
        return math.nan
    tosses = int(np.count_nonzero(differences))
    fewer = int(min(np.sum(differences > 0), np.sum(differences < 0)))
    outcomes = sum(math.comb(tosses, heads) for heads in range(fewer + 1))
    return min(1.0, 2 * outcomes / (1 << tosses))


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


def least_seeds(comparisons: int) -> int:
    """Seeds with which a p-value can fall below the level though it is corrected for so many.

    >>> least_seeds(1), least_seeds(10)
    (6, 9)
    """
    # The smallest p of n pairs, all differences having one sign, is 2 / 2^n.
    return math.ceil(1 - math.log2(LEVEL / max(1, comparisons)))


def rank_direction(differences: NDArray[np.float64]) -> int:
    """1 if the signed ranks favour positive differences, -1 negative, 0 neither."""
    ranks = optional("scipy.stats").rankdata(np.abs(differences))
    return int(np.sign(np.sum(np.sign(differences) * ranks)))


@lru_cache(maxsize=64)
def _signed_rank_distribution(doubled_ranks: tuple[int, ...]) -> NDArray[np.float64]:
    """Probability of at most each sum of the positive ranks when every sign is a fair coin."""
    distribution = np.ones(1)
    for rank in doubled_ranks:
        longer = np.pad(distribution, (0, rank))
        distribution = (longer + np.roll(longer, rank)) / 2
    return np.cumsum(distribution)


def optional(module: str) -> Any:
    """Import a module that only the extra `compare` installs: scipy's or pandas."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(
            "comparing initializations needs scipy and pandas; install them with "
            "`pip install lightning_init[compare]`."
        ) from None
