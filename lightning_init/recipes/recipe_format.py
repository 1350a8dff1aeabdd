"""The recipe file, version 1: a strict reader that trusts nothing and names what is wrong.

Only the standard library's JSON is used; the file cannot make anything run. Every field is
checked by hand, fields that are unknown are refused, and numbers are held to ranges in which a
float32 draw is sound.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from lightning_init.stationarity.decision import Verdict

FORMAT_VERSION = 1
MOST_BYTES = 16 * 2**20
MOST_DIMENSIONS = 8
MOST_NESTING = 4
# A float32 standard deviation stays far from overflow and from underflow in this range.
SMALLEST_VARIANCE, LARGEST_VARIANCE = 1e-30, 1e12

_NAME = re.compile(r"[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*")
_VERDICTS = tuple(verdict.value for verdict in Verdict)

Parsed = tuple[
    tuple["RecipeLayer", ...],
    tuple[str, ...],
    tuple[tuple[str, Any], ...],
    tuple[tuple[str, float], ...],
    tuple[tuple[str, str], ...],
]


@dataclass(frozen=True)
class RecipeLayer:
    """One layer of a recipe.

    Args:
        name: Layer name.
        shape: Shape of the weight.
        fan_in: Inputs summed per output unit.
        sigma0_squared: Variance of the draw; for a kept layer that of its first weights.
        action: `"redrawn"`, `"kept"` or `"unchanged"`.
        verdict: `"stationary"`, `"drifting"`, `"inconclusive"` or `"invalid"`.
        variance: V at the end of the probe, or None if unknown.
        standard_error: Relative standard error of `variance`, or None if unknown.
    """

    name: str
    shape: tuple[int, ...]
    fan_in: int
    sigma0_squared: float
    action: str
    verdict: str
    variance: float | None
    standard_error: float | None


def fingerprint(layers: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """Digest names and shapes.

    >>> fingerprint([("net.0", (4, 8))])
    '5137d105e3ed3225e344caaf45caf780'
    """
    text = json.dumps([[name, list(shape)] for name, shape in layers])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a regular file of at most 16 MB as UTF-8.

    Raises:
        ValueError: It is no such file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("is not a regular file.")
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError("is larger than 16 MB: no recipe is.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text.") from None


def strict_json(text: str) -> Any:
    """Parse JSON without NaN, infinities, duplicate keys or endless nesting.

    Raises:
        ValueError: The text is not such JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg}, line {error.lineno}.") from None
    except RecursionError:
        raise ValueError("is not a recipe: it is nested too deeply.") from None


def parse(content: Any) -> Parsed:
    """Check plain containers field by field.

    Returns:
        The fields of an `InitRecipe`, in order.

    Raises:
        ValueError: A field is missing, unknown, or holds what it may not; the message names it.
    """
    if isinstance(content, dict) and "format_version" in content:
        version = content["format_version"]
        if type(version) is not int or version != FORMAT_VERSION:
            _fail("format_version", f"{FORMAT_VERSION}; probe again with this release", version)
    fields = _object(content, "the recipe", _FIELDS)
    layers = tuple(
        _layer(entry, f"layers[{i}]") for i, entry in enumerate(_list(fields["layers"], "layers"))
    )
    _distinct([layer.name for layer in layers], "layers", "names")
    _fingerprint(fields["fingerprint"], layers)
    return (
        layers,
        tuple(_each(fields["left_out"], "left_out", _text)),
        tuple(
            (key, setting(value, f"settings.{key}")) for key, value in _items(fields, "settings")
        ),
        tuple(_each(fields["optimizers"], "optimizers", _optimizer)),
        tuple(
            (key, _text(value, f"library_versions.{key}"))
            for key, value in _items(fields, "library_versions")
        ),
    )


_FIELDS = (
    "fingerprint",
    "format_version",
    "layers",
    "left_out",
    "library_versions",
    "optimizers",
    "settings",
)
_LAYER_FIELDS = (
    "action",
    "fan_in",
    "name",
    "shape",
    "sigma0_squared",
    "standard_error",
    "variance",
    "verdict",
)


def _layer(value: Any, where: str) -> RecipeLayer:
    fields = _object(value, where, _LAYER_FIELDS)
    action = _one_of(fields["action"], f"{where}.action", ("redrawn", "kept", "unchanged"))
    # A layer that is kept may be all zeros.
    smallest = SMALLEST_VARIANCE if action == "redrawn" else 0.0
    return RecipeLayer(
        name=_name(fields["name"], f"{where}.name"),
        shape=_shape(fields["shape"], f"{where}.shape"),
        fan_in=_positive_int(fields["fan_in"], f"{where}.fan_in"),
        sigma0_squared=_number(
            fields["sigma0_squared"], f"{where}.sigma0_squared", smallest, LARGEST_VARIANCE
        ),
        action=action,
        verdict=_one_of(fields["verdict"], f"{where}.verdict", _VERDICTS),
        variance=_optional_number(fields["variance"], f"{where}.variance"),
        standard_error=_optional_number(fields["standard_error"], f"{where}.standard_error"),
    )


def _optimizer(value: Any, where: str) -> tuple[str, float]:
    fields = _object(value, where, ("learning_rate", "name"))
    rate = _number(fields["learning_rate"], f"{where}.learning_rate", 0.0, sys.float_info.max)
    return _text(fields["name"], f"{where}.name"), rate


def _fingerprint(value: Any, layers: tuple[RecipeLayer, ...]) -> None:
    expected = fingerprint((layer.name, layer.shape) for layer in layers)
    if value != expected:
        _fail("fingerprint", f"{expected!r}, the digest of names and shapes", value)


def _object(value: Any, where: str, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        _fail(where, "an object", value)
    for name in names:
        if name not in value:
            raise ValueError(f"`{where}` has no field {name!r}; it needs {', '.join(names)}.")
    for name in value:
        if name not in names:
            _fail(where, f"an object of {', '.join(names)}", name)
    return value


def _items(fields: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    value = fields[name]
    if not isinstance(value, dict):
        _fail(name, "an object", value)
    return sorted((_text(key, f"a key of {name}"), item) for key, item in value.items())


def _list(value: Any, where: str) -> list[Any]:
    return value if isinstance(value, list) else _fail(where, "a list", value)


def _each(value: Any, where: str, check: Callable[[Any, str], Any]) -> list[Any]:
    return [check(item, f"{where}[{i}]") for i, item in enumerate(_list(value, where))]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > 1000:
        _fail(where, "text of at most 1000 characters", value)
    return value


def _name(value: Any, where: str) -> str:
    if not isinstance(value, str) or len(value) > 1000 or not _NAME.fullmatch(value):
        _fail(where, "a layer name of letters, digits, '_', '-', separated by '.' or '/'", value)
    return value


def _distinct(names: list[str], where: str, what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            _fail(where, f"distinct in its {what}", name)
        seen.add(name)


def _one_of(value: Any, where: str, allowed: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in allowed:
        _fail(where, f"one of {', '.join(allowed)}", value)
    return value


def _positive_int(value: Any, where: str) -> int:
    if type(value) is not int or not 1 <= value < 2**48:
        _fail(where, "a whole number of at least 1 and below 2**48", value)
    return value


def _shape(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_DIMENSIONS:
        _fail(where, f"a list of 1 to {MOST_DIMENSIONS} whole numbers", value)
    return tuple(_each(value, where, _positive_int))


def _number(value: Any, where: str, smallest: float, largest: float) -> float:
    if type(value) not in (int, float) or not smallest <= value <= largest:
        _fail(where, f"a finite number from {smallest:g} to {largest:g}", value)
    return float(value)


def _optional_number(value: Any, where: str) -> float | None:
    return None if value is None else _number(value, where, 0.0, sys.float_info.max)


def setting(value: Any, where: str, depth: int = 1) -> Any:
    """Check the value of one setting: scalars, and lists of them that become tuples.

    Raises:
        ValueError: It holds something else.
    """
    if isinstance(value, list) and depth < MOST_NESTING:
        return tuple(setting(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value))
    if isinstance(value, str):
        return _text(value, where)
    if type(value) in (int, float):
        return value if abs(value) < 2**63 else _fail(where, "a finite number", value)
    if value is not None and not isinstance(value, bool):
        _fail(where, "text, a number, true, false, null or a list of these", value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _distinct([key for key, _ in pairs], "an object", "keys")
    return dict(pairs)


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"is not JSON: it holds {constant}, which is not a finite number.")


def _fail(where: str, expected: str, value: Any) -> NoReturn:
    # What a hostile file holds may be long, deep or on many lines: show one short line of it.
    got = f"a {type(value).__name__}" if isinstance(value, (dict, list)) else ascii(value)
    raise ValueError(f"`{where}` must be {expected}, got {got[:60]}{'...' * (len(got) > 60)}.")
