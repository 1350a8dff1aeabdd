from __future__ import annotations

import re

import pytest

from lightning_init.stationarity import DetectorSettings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"tolerance": 0.0},
            "`tolerance` must be positive and finite, got 0.0; the default is 0.1.",
        ),
        ({"tolerance": float("nan")}, "`tolerance` must be positive and finite, got nan"),
        ({"confidence": 1.0}, "`confidence` must be in [0.5, 1), got 1.0; the default is 0.95."),
        ({"persistence": 0}, "`persistence` must be at least 1, got 0; the default is 4."),
        ({"minimum_fraction": 1.5}, "`minimum_fraction` must be in [0, 1], got 1.5"),
        ({"window_fraction": 0.0}, "`window_fraction` must be in (0, 1], got 0.0"),
        ({"batches": 3}, "`batches` must be at least 4, got 3; the default is 10."),
        ({"check_growth": 1.0}, "`check_growth` must be above 1 and finite, got 1.0"),
        ({"rule": "geweke"}, "`rule` must be one of ('steady-end', 'drift-index'), got 'geweke'"),
        (
            {"minimum_samples": 19},
            "`minimum_samples` must be at least `batches` / `window_fraction` = 20, got 19; "
            "the default is 40.",
        ),
    ],
)
def test_says_what_is_wrong_on_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        DetectorSettings(**arguments)
    assert "\n" not in str(caught.value)


def test_cannot_be_changed_and_can_be_a_key() -> None:
    settings = DetectorSettings()
    with pytest.raises(AttributeError):
        settings.tolerance = 0.2  # type: ignore[misc]
    assert hash(settings) == hash(DetectorSettings())
