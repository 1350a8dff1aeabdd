"""What each argument of the two callbacks may be: one typed, bounded declaration, checked at once.

A new argument is one line here; a test finds those that have none.
"""

from __future__ import annotations

import numbers
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, get_args

from msgspec import Meta

from lightning_init.initialization.settings import (
    Bias,
    ConvWidth,
    FirstLayer,
    Mode,
    Recurrent,
    Respect,
)
from lightning_init.search.failures import OnProbeFailure
from lightning_init.search.settings import Draw, Granularity, Moment, OnUnsettled
from lightning_init.validation import checked


def check_arguments(declared: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse the first argument that is not what was declared.

    Args:
        declared: The type of each argument, by name.
        given: The values; other names are ignored, so a function may pass its `locals()`.

    Raises:
        ValueError: In one line that names the argument, what it may be and what it is.

    >>> check_arguments({"guard_steps": at_least(0)}, {"guard_steps": float("nan")})
    Traceback (most recent call last):
    ...
    ValueError: `guard_steps` must be an integer of at least 0, got nan.
    """
    for name, kind in declared.items():
        if name in given:
            checked(_plain(given[name], kind), kind, name)


def _plain(value: Any, kind: Any) -> Any:
    """Numbers of numpy as those of Python, paths as text where one may stand, sets as lists."""
    if isinstance(value, bool):
        return value
    with suppress(Exception):  # what cannot be converted is refused as it is
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real):
            return float(value)
        if isinstance(value, (set, frozenset)):
            return list(value)
        if isinstance(value, os.PathLike) and kind is _PATH:
            return os.fspath(value)
    return value


def at_least(smallest: int) -> Any:
    """A whole number with a lower bound."""
    return Annotated[int, Meta(ge=smallest, description=f"an integer of at least {smallest}")]


def one_of(choices: Any) -> Any:
    """One of the values of a `Literal`."""
    return Annotated[choices, Meta(description=f"one of {', '.join(get_args(choices))}")]


def described(kind: Any, words: str) -> Any:
    """A type and the words for it."""
    return Annotated[kind, Meta(description=words)]


_SWITCH = described(bool, "True or False")
_PATTERNS = described(
    list[Annotated[str, Meta(description="a glob pattern")]] | None,
    "a list of glob patterns or None",
)
_Number = Annotated[float, Meta(description="a number")]
_PATH = described(Annotated[str, Meta(pattern="^[^\\0]+$")] | None, "a path or None")
_SEED = described(int | None, "an integer or None")
_SHARE = Annotated[float, Meta(gt=0, lt=1, description="a number between 0 and 1")]
_ABOVE_0 = Annotated[float, Meta(gt=0, le=sys.float_info.max)]

OPTIMAL_VARIANCE: dict[str, Any] = {
    "max_probe_steps": described(
        Annotated[int, Meta(ge=0)] | Annotated[float, Meta(ge=0, lt=1)],
        "a number of steps of at least 0, or a share below 1 of the planned steps",
    ),
    "on_unsettled": one_of(OnUnsettled),
    "tolerance": _SHARE,
    "horizon": described(
        Literal["run", "probe"] | Annotated[int, Meta(ge=1)],
        "one of run, probe, or an integer of at least 1",
    ),
    "sample_every_n_steps": described(
        Annotated[int, Meta(ge=1)] | None, "an integer of at least 1, or None"
    ),
    "granularity": one_of(Granularity),
    "moment": one_of(Moment),
    "rounds": at_least(1),
    "forgetting": _SWITCH,
    "guard_steps": at_least(0),
    "include": _PATTERNS,
    "exclude": _PATTERNS,
    "probe_lr": described(
        Literal["peak", "schedule"] | _ABOVE_0, "'peak', 'schedule' or a learning rate above 0"
    ),
    "draw": one_of(Draw),
    "verify_steps": at_least(0),
    "on_probe_failure": one_of(OnProbeFailure),
    "watch": _SWITCH,
    "isolate_dataset": _SWITCH,
    "probe_dataloaders": Any,
    "recipe": _PATH,
    "recipe_by_width": _SWITCH,
    "recipe_path": _PATH,
    "seed": _SEED,
    "verbose": _SWITCH,
}

FRACTIONAL_MOMENT: dict[str, Any] = {
    "order": Annotated[float, Meta(ge=0, le=2, description="in [0, 2]")],
    "nonlinearity": described(str, "the name of an activation, or 'auto'"),
    "param": described(
        float | tuple[_Number, _Number] | None, "a number, a pair of numbers or None"
    ),
    "dropout": Annotated[float, Meta(ge=0, lt=1, description="in [0, 1)")],
    "bias": one_of(Bias),
    "include": _PATTERNS,
    "exclude": _PATTERNS,
    "first_layer": one_of(FirstLayer),
    "mode": one_of(Mode),
    "conv_width": one_of(ConvWidth),
    "recurrent": one_of(Recurrent),
    "respect": one_of(Respect),
    "seed": _SEED,
    "dry_run": _SWITCH,
    "verbose": _SWITCH,
}
