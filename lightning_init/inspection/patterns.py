"""Glob patterns on names: which ones match, and an error for one that cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase


def matches(pattern: str, names: Collection[str]) -> bool:
    """Whether a glob pattern matches any of the names as a whole, case sensitive.

    Example:
        >>> matches("net.*", {"net.0", "net.0.weight"}), matches("net", {"net.0"})
        (True, False)
    """
    return any(fnmatchcase(name, pattern) for name in names)


def check_patterns(
    argument: str, patterns: Sequence[str] | None, answers: Mapping[str, Collection[str]]
) -> None:
    """Refuse patterns that cannot be meant.

    Args:
        argument: Name of the argument that holds the patterns, for the message.
        patterns: The patterns; None is none given.
        answers: For every name that can be chosen, all the names it answers to.

    Raises:
        TypeError: If `patterns` is one string.
        ValueError: If it is empty for "include", or a pattern matches nothing.

    Example:
        >>> check_patterns("exclude", ["head"], {"net.0": ["net.0"], "net.2": ["net.2"]})
        Traceback (most recent call last):
            ...
        ValueError: `exclude` pattern 'head' matches no parameter of the model; names are net.0, \
net.2 and a pattern matches a name as a whole.
    """
    if isinstance(patterns, str):
        raise TypeError(
            f"`{argument}` must be a list of glob patterns, got the string {patterns!r}; "
            f"use [{patterns!r}]."
        )
    if argument == "include" and patterns is not None and not patterns:
        raise ValueError(
            "`include` must hold at least one glob pattern, got an empty list; "
            "use None for every weight."
        )
    for pattern in patterns or ():
        if not any(matches(pattern, names) for names in answers.values()):
            some = ", ".join([*answers][:5]) + (", ..." if len(answers) > 5 else "")
            raise ValueError(
                f"`{argument}` pattern {pattern!r} matches no parameter of the model; "
                f"names are {some} and a pattern matches a name as a whole."
            )
