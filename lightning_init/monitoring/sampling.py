"""At which steps to look, and where in the training the samples are that a detector may use."""

from __future__ import annotations

# The first tenth shows early what will come of it: three samples there for every later one.
DENSE_SHARE = 0.1
DENSER = 3


def sample_steps(budget: int, interval: int) -> tuple[int, ...]:
    """Steps at which to sample: every `interval`, and three times as often in the first tenth.

    The multiples of `interval` among them are evenly spaced, as a detector needs them.

    Args:
        budget: Optimizer steps to be looked at.
        interval: Steps between two samples after the first tenth.

    Example:
        >>> sample_steps(100, 6)[:10]
        (2, 4, 6, 8, 10, 12, 18, 24, 30, 36)
    """
    early = range(0, int(DENSE_SHARE * budget) + 1, max(1, interval // DENSER))
    usual = range(0, budget + 1, interval)
    return tuple(sorted({*early, *usual} - {0}))
