"""Every argument is checked at construction, in one line that names it."""

from __future__ import annotations

import datetime
import inspect
import math
import os
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_init import FractionalMomentInit, OptimalVarianceInit
from lightning_init.callbacks.arguments import (
    FRACTIONAL_MOMENT,
    OPTIMAL_VARIANCE,
    check_arguments,
)

DECLARED: dict[Any, dict[str, Any]] = {
    OptimalVarianceInit: OPTIMAL_VARIANCE,
    FractionalMomentInit: FRACTIONAL_MOMENT,
}


class Hostile(os.PathLike[str]):
    """Cannot be shown, and is no path."""

    def __repr__(self) -> str:
        raise RuntimeError("shown")

    def __fspath__(self) -> str:
        raise RuntimeError("a path")


class Rows:
    """Is shown on many lines."""

    def __repr__(self) -> str:
        return "first\nsecond\u2028third" + " row" * 999


# None of these is right for any argument that is checked.
WRONG: tuple[Any, ...] = (
    *(object(), {"a": 1}, {1}, b"x", 1j, math.nan, [1, 2, 3], [None], (), lambda: 1, -math.inf),
    *(
        Hostile(),
        Rows(),
        int,
        ...,
        range(3),
        torch.zeros(2),
        np.array([1.5]),
        datetime.timedelta(1),
    ),
    *(["a", b"b"], (i for i in ()), Decimal("nan"), bytearray(b"x"), "a\0b" * 30, "\0\ud800"),
)


@pytest.mark.parametrize("callback", DECLARED, ids=lambda kind: kind.__name__)
def test_every_argument_is_declared(callback: Any) -> None:
    parameters = inspect.signature(callback).parameters
    assert parameters.keys() <= DECLARED[callback].keys()
    check_arguments(DECLARED[callback], {n: p.default for n, p in parameters.items()})


def wrong_arguments() -> list[Any]:
    cases = []
    for callback, declared in DECLARED.items():
        for name in inspect.signature(callback).parameters.keys() & declared.keys():
            for number, value in enumerate(WRONG):
                # An empty pair or list of patterns, and no number at all, are said elsewhere.
                harmless = (declared[name] is Any) or (isinstance(value, tuple) and "clude" in name)
                finite_elsewhere = name == "param" and isinstance(value, (float, Decimal))
                if not (harmless or finite_elsewhere):
                    cases.append(pytest.param(callback, name, value, id=f"{name}-{number}"))
    return cases


CASES = wrong_arguments()


@pytest.mark.parametrize(("callback", "name", "value"), CASES)
def test_a_wrong_argument_is_told_in_one_line(callback: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^`{name}(\[\d\])?` must be [^\n]*, got [^\n]*\.$"):
        callback(**{name: value})


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 200


@pytest.mark.parametrize(
    ("callback", "name", "value", "message"),
    [
        (OptimalVarianceInit, "guard_steps", math.nan, "an integer of at least 0, got nan."),
        (OptimalVarianceInit, "guard_steps", True, "an integer of at least 0, got True."),
        (OptimalVarianceInit, "seed", 1.5, "an integer or None, got 1.5."),
        (OptimalVarianceInit, "tolerance", 10, "a number between 0 and 1, got 10."),
        (OptimalVarianceInit, "tolerance", 1.0, "a number between 0 and 1, got 1.0."),
        (OptimalVarianceInit, "recipe", 5, "a path or None, got 5."),
        (OptimalVarianceInit, "verbose", "no", "True or False, got 'no'."),
        (OptimalVarianceInit, "include", "net.*", "a list of glob patterns or None, got 'net.*'."),
        (FractionalMomentInit, "dry_run", 1, "True or False, got 1."),
        (FractionalMomentInit, "order", "two", "in [0, 2], got 'two'."),
        (FractionalMomentInit, "param", "x", "a number, a pair of numbers or None, got 'x'."),
    ],
)
def test_what_is_said(callback: Any, name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match="must be") as caught:
        callback(**{name: value})
    assert str(caught.value) == f"`{name}` must be {message}"


def test_numbers_of_numpy_and_paths_are_taken() -> None:
    OptimalVarianceInit(
        rounds=np.int64(2), tolerance=np.float32(0.5), recipe_path=Path("a.json"), seed=np.int32(3)
    )
    FractionalMomentInit(order=np.float64(1.0), include=("net.*",))  # type: ignore[arg-type]
