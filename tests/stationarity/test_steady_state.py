from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from lightning_init.stationarity.steady_state import (
    relaxation_steps,
    steady_state_variance,
)

ENTRIES = json.loads((Path(__file__).parents[1] / "oracles" / "sgd.json").read_text())["entries"]
QUADRATIC = [entry for entry in ENTRIES if "curvature" in entry]
REGRESSION = [entry for entry in ENTRIES if "d" in entry]


def test_oracle_is_complete() -> None:
    assert len(QUADRATIC) + len(REGRESSION) == len(ENTRIES) == 76


@pytest.mark.parametrize("entry", QUADRATIC, ids=lambda entry: str(tuple(entry.values())[:5]))
def test_quadratic_matches_the_oracle(entry: dict) -> None:
    law = (entry["lr"], entry["curvature"], entry["momentum"], entry["weight_decay"])
    assert steady_state_variance(*law, entry["noise_var"]) == pytest.approx(entry["V"], rel=1e-13)
    assert relaxation_steps(*law) == pytest.approx(entry["relaxation_steps"], rel=1e-13)


@pytest.mark.parametrize(
    ("learning_rate", "momentum", "weight_decay"),
    [(0.05, 0.9, 0.0), (0.5, 0.0, 0.1), (1.2, 0.0, 0.0), (1.0, 0.5, 0.5)],
)
def test_second_moments_solve_the_balance_equations(
    learning_rate: float, momentum: float, weight_decay: float
) -> None:
    # (w, v) after a step is A (w, v) + noise b: iterate the covariance to its fixed point.
    stiffness = 1.0 + weight_decay
    step = np.array(
        [
            [1 - learning_rate * stiffness, -learning_rate * momentum],
            [stiffness, momentum],
        ]
    )
    shock = np.array([-learning_rate, 1.0])
    covariance = np.zeros((2, 2))
    for _ in range(5000):
        covariance = step @ covariance @ step.T + np.outer(shock, shock)
    expected = steady_state_variance(learning_rate, 1.0, momentum, weight_decay)
    assert covariance[0, 0] == pytest.approx(expected, rel=1e-10)


def test_variance_relaxes_at_the_stated_rate() -> None:
    # Without momentum the distance shrinks by (1 - h K)^2 per step.
    assert np.exp(-1 / relaxation_steps(1e-4, 1.0)) == pytest.approx((1 - 1e-4) ** 2, rel=1e-7)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: steady_state_variance(0.1, 0.0),
            "`curvature` + `weight_decay` must be positive, got 0.0; "
            "a flat direction without decay has no steady state.",
        ),
        (
            lambda: steady_state_variance(2.0, 1.0),
            "`learning_rate` must be in (0, 2), got 2.0; use a smaller one",
        ),
        (lambda: steady_state_variance(0.0, 1.0), "`learning_rate` must be in (0, 2), got 0.0"),
        (lambda: relaxation_steps(0.1, 1.0, momentum=1.0), "`momentum` must be in [0, 1), got 1.0"),
    ],
)
def test_no_steady_state_is_an_error(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()  # type: ignore[operator]
