"""A module of the user's that others name, with a number that its function and others change."""

from __future__ import annotations

number = 0
seen: list[int] = []


def tick() -> float:
    """Count, and remember the count."""
    global number
    number += 1
    seen.append(number)
    return float(number + len(seen))
