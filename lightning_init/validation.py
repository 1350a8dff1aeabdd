"""Values checked against annotated types: what is wrong is said in one line that names the place.

A type carries its bounds and the words for them, `Annotated[int, Meta(ge=1, description="...")]`;
msgspec checks the first and says of the second nothing that a user could act on.
"""

from __future__ import annotations

import dataclasses
import re
from contextlib import suppress
from types import UnionType
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin, get_type_hints

import msgspec

_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


def checked(value: Any, kind: Any, where: str) -> Any:
    """Turn plain values into a type, nothing being coerced but whole numbers into floats.

    Args:
        value: Scalars, lists, and dictionaries for dataclasses.
        kind: The type, with bounds and a description for each part that may be wrong.
        where: Name of the value in the message.

    Returns:
        The value as that type; lists become tuples where the type says so.

    Raises:
        ValueError: It does not fit; the message names the place and what was expected there.

    >>> Width = Annotated[int, msgspec.Meta(ge=1, description="a whole number of at least 1")]
    >>> checked([4, 0], tuple[Width, ...], "shape")
    Traceback (most recent call last):
    ...
    ValueError: `shape[1]` must be a whole number of at least 1, got 0.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(_one_line(str(error), value, kind, where)) from None
    except UnicodeError:  # text that holds half a character
        raise ValueError(_must_be(where, _description(kind) or "other text", value)) from None


def refuse(where: str, expected: str, value: Any) -> NoReturn:
    """Raise the one line that says what a value must be.

    Raises:
        ValueError: Always.
    """
    raise ValueError(_must_be(where, expected, value))


def _one_line(error: str, value: Any, kind: Any, where: str) -> str:
    said, _, path = error.partition(" - at `$")
    for step in _STEP.finditer(path):
        name, index = step.groups()
        value = value[name] if name else value[int(index)]
        kind = _part(kind, name)
        where = (where + step.group()).lstrip(".")
    description = _description(kind)
    # Without words of ours msgspec's own stand alone: they say what is there as well.
    return _must_be(where, description, value) if description else f"`{where}`: {said}."


def _must_be(where: str, expected: str, value: Any) -> str:
    # What a hostile file holds may be long, deep or on many lines: show one short line of it.
    got = f"a {type(value).__name__}"
    if not isinstance(value, (dict, list)):
        with suppress(Exception):
            got = " ".join(ascii(value).split())
    return f"`{where}` must be {expected}, got {got[:60]}{'...' * (len(got) > 60)}."


def _part(kind: Any, name: str | None) -> Any:
    """The type of a field, or of the items of a list."""
    options = [_plain(option) for option in (kind, *get_args(_plain(kind)))]
    if name is not None:
        owner = next(option for option in options if dataclasses.is_dataclass(option))
        return get_type_hints(owner, include_extras=True)[name]
    return get_args(next(option for option in options if get_origin(option) in (tuple, list)))[0]


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _description(kind: Any) -> str | None:
    """What the type, or the first member of a union, is called."""
    options = (kind, get_args(kind)[0]) if get_origin(kind) in (Union, UnionType) else (kind,)
    metadata = [item for option in options for item in getattr(option, "__metadata__", ())]
    return next((item.description for item in metadata if item.description), None)
