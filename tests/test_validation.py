"""Values against annotated types: one line that names the place, or the value as that type."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from msgspec import Meta

from lightning_init.validation import checked

Share = Annotated[float, Meta(gt=0.0, lt=1.0, description="a share between 0 and 1")]


@dataclass(frozen=True)
class Layer:
    shares: tuple[Share, ...]
    limit: Share | None = None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"shares": [0.5, 2]}, "`layer.shares[1]` must be a share between 0 and 1, got 2."),
        ({"shares": [math.nan]}, "`layer.shares[0]` must be a share between 0 and 1, got nan."),
        ({"shares": [], "limit": "x" * 99}, "`layer.limit` must be a share between 0 and 1, got '"),
        ({"shares": {}}, "`layer.shares`: Expected `array`, got `object`."),
        ({}, "`layer`: Object missing required field `shares`."),
    ],
)
def test_what_does_not_fit_is_named_in_one_short_line(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        checked(value, Layer, "layer")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_what_fits_has_the_type() -> None:
    assert checked({"shares": [0.5, 0.25]}, Layer, "layer") == Layer((0.5, 0.25))
    assert checked(0.5, Share, "share") == 0.5
