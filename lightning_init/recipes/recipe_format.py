"""The recipe file, version 1: a strict reader that trusts nothing and names what is wrong.

The file cannot make anything run. Every field has a bounded type, fields that are unknown are
refused, and numbers are held to ranges in which a float32 draw is sound.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, NoReturn

from msgspec import Meta

from lightning_init.validation import checked, refuse

FORMAT_VERSION = 1
MOST_BYTES = 16 * 2**20
MOST_NESTING = 4
# A float32 standard deviation stays far from overflow and from underflow in this range.
SMALLEST_VARIANCE, LARGEST_VARIANCE = 1e-30, 1e12

# Of weights that were measured once, and not followed, nothing is known.
UNKNOWN: Literal["unknown"] = "unknown"

Version = Annotated[Literal[1], Meta(description="1; probe again with this release")]
Text = Annotated[str, Meta(max_length=1000, description="text of at most 1000 characters")]
LayerName = Annotated[
    str,
    Meta(
        max_length=1000,
        pattern=r"\A[A-Za-z0-9_-]+([./][A-Za-z0-9_-]+)*\Z",
        description="a layer name of letters, digits, '_', '-', separated by '.' or '/'",
    ),
]
Whole = Annotated[
    int, Meta(ge=1, lt=2**48, description="a whole number of at least 1 and below 2**48")
]
Shape = Annotated[
    tuple[Whole, ...],
    Meta(min_length=1, max_length=8, description="a list of 1 to 8 whole numbers"),
]
Variance = Annotated[
    float, Meta(ge=0.0, le=LARGEST_VARIANCE, description="a finite number from 0 to 1e+12")
]
Finite = Annotated[
    float, Meta(ge=0.0, le=sys.float_info.max, description="a finite number of at least 0")
]
Change = Annotated[
    float, Meta(ge=-1.0, le=sys.float_info.max, description="a finite number of at least -1")
]
Action = Annotated[
    Literal["redrawn", "kept", "unchanged"],
    Meta(description="one of redrawn, kept, unchanged"),
]
VerdictWord = Annotated[
    Literal["stationary", "drifting", "inconclusive", "invalid", "unknown"],
    Meta(description="one of stationary, drifting, inconclusive, invalid, unknown"),
]
Scalar = (
    Text
    | Annotated[int, Meta(gt=-(2**63), le=2**63 - 1)]
    | Annotated[float, Meta(gt=-(2.0**63), lt=2.0**63)]
    | bool
    | None
)
_A_SETTING = Meta(description="text, a number, true, false, null or a list of these")
Setting: Any = Annotated[Scalar, _A_SETTING]
for _ in range(MOST_NESTING - 1):
    Setting = Annotated[Scalar | tuple[Setting, ...], _A_SETTING]

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
        fan_in: Inputs summed per output unit, or None if unknown.
        sigma0_squared: Variance of the draw; for a kept layer that of its first weights.
        action: `"redrawn"`, `"kept"` or `"unchanged"`.
        verdict: `"stationary"`, `"drifting"`, `"inconclusive"`, `"invalid"` or `"unknown"`.
        variance: V at the end of the probe, or None if unknown.
        standard_error: Relative standard error of `variance`, or None if unknown.
        spread: Standard deviation of log V over several checkpoints, or None.
        change: V at the end of the run over V in its middle, minus 1, or None.
    """

    name: LayerName
    shape: Shape
    fan_in: Whole | None
    sigma0_squared: Variance
    action: Action
    verdict: VerdictWord
    variance: Finite | None
    standard_error: Finite | None
    spread: Finite | None = None
    change: Change | None = None


@dataclass(frozen=True)
class _Optimizer:
    learning_rate: Finite
    name: Text


@dataclass(frozen=True)
class _Recipe:
    fingerprint: Any
    format_version: Version
    layers: Annotated[list[Any], Meta(description="a list")]
    left_out: Annotated[tuple[Text, ...], Meta(description="a list")]
    library_versions: Annotated[dict[str, Any], Meta(description="an object")]
    optimizers: Annotated[list[Any], Meta(description="a list")]
    settings: Annotated[dict[str, Any], Meta(description="an object")]


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

    The standard library's parser, since msgspec's takes the last of two equal keys.

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
    # Another version may have other fields: say so first.
    if isinstance(content, dict) and "format_version" in content:
        checked(content["format_version"], Version, "format_version")
    recipe: _Recipe = _object(content, "the recipe", _Recipe)
    layers = tuple(_layer(entry, f"layers[{i}]") for i, entry in enumerate(recipe.layers))
    _distinct([layer.name for layer in layers], "layers", "names")
    expected = fingerprint((layer.name, layer.shape) for layer in layers)
    if recipe.fingerprint != expected:
        words = f"{expected!r}, the digest of names and shapes"
        refuse("fingerprint", words, recipe.fingerprint)
    optimizers: list[_Optimizer] = [
        _object(entry, f"optimizers[{i}]", _Optimizer) for i, entry in enumerate(recipe.optimizers)
    ]
    return (
        layers,
        recipe.left_out,
        _items(recipe.settings, "settings", Setting),
        tuple((optimizer.name, optimizer.learning_rate) for optimizer in optimizers),
        _items(recipe.library_versions, "library_versions", Text),
    )


def _layer(value: Any, where: str) -> RecipeLayer:
    layer: RecipeLayer = _object(value, where, RecipeLayer)
    # A layer that is kept may be all zeros.
    if layer.action == "redrawn" and layer.sigma0_squared < SMALLEST_VARIANCE:
        words = f"a finite number from {SMALLEST_VARIANCE:g} to {LARGEST_VARIANCE:g}"
        refuse(f"{where}.sigma0_squared", words, layer.sigma0_squared)
    return layer


def _object(value: Any, where: str, kind: type[Any]) -> Any:
    """One object of the file; only fields that have a default may be missing."""
    if not isinstance(value, dict):
        refuse(where, "an object", value)
    names = {field.name: field.default is MISSING for field in fields(kind)}
    for name, needed in names.items():
        if needed and name not in value:
            raise ValueError(f"`{where}` has no field {name!r}; it needs {', '.join(names)}.")
    for name in value:
        if name not in names:
            refuse(where, f"an object of {', '.join(names)}", name)
    return checked(value, kind, "" if kind is _Recipe else where)


def _items(value: dict[str, Any], where: str, kind: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (checked(key, Text, f"a key of {where}"), checked(item, kind, f"{where}.{key}"))
        for key, item in sorted(value.items())
    )


def _distinct(names: list[str], where: str, what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            refuse(where, f"distinct in its {what}", name)
        seen.add(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _distinct([key for key, _ in pairs], "an object", "keys")
    return dict(pairs)


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"is not JSON: it holds {constant}, which is not a finite number.")
