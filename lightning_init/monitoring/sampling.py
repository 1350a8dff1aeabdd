"""At which steps to look, and where in the training the samples are that a detector may use."""

from __future__ import annotations

# The first tenth shows early what will come of it: two samples there for every later one.
DENSE_SHARE = 0.1
DENSER = 2


def sample_steps(budget: int, interval: int) -> tuple[int, ...]:
    """Steps at which to sample: every `interval`, and twice as often in the first tenth.

    The multiples of `interval` among them are evenly spaced, as a detector needs them.

    Args:
        budget: Optimizer steps to be looked at.
        interval: Steps between two samples after the first tenth.

    Example:
        >>> sample_steps(100, 6)[:10]
        (3, 6, 9, 12, 18, 24, 30, 36, 42, 48)
    """
    early = range(0, int(DENSE_SHARE * budget) + 1, max(1, interval // DENSER))
    usual = range(0, budget + 1, interval)
    return tuple(sorted({*early, *usual} - {0}))
