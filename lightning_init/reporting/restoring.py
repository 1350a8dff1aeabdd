"""A report as it was before `to_dict`: what a checkpoint keeps, made into values again."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from enum import Enum
from typing import Any

from lightning_init.reporting.records import ProbeRecord

Record = typing.TypeVar("Record", bound=ProbeRecord)


def record_from_dict(kind: type[Record], content: dict[str, Any]) -> Record:
    """Make a record from what `InitReport.to_dict` returned; None stands for nan among numbers.

    Fields that the dictionary does not have keep their defaults, and it may have others.

    Args:
        kind: The class to make.
        content: Plain containers.
    """
    settings = tuple(content.get("settings", {}).items())
    return typing.cast(Record, _made(kind, {**content, "settings": settings}))


def _made(hint: Any, value: Any) -> Any:
    """``value`` as the type ``hint`` says."""
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return None if value is None else _made(arguments[0], value)
    if kind is tuple:
        each = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        return tuple(_made(one, item) for one, item in zip(each, value, strict=True))
    if hint is float:
        return math.nan if value is None else float(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        names = [field.name for field in dataclasses.fields(hint) if field.name in value]
        make: Any = hint
        return make(**{name: _made(hints[name], value[name]) for name in names})
    return value
