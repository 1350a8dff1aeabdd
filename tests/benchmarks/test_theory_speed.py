"""CPU time of the scale per distinct law and fan-in: below 1 ms homogeneous, 10 ms tabulated."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lightning_init.functional import fractional_moment_std
from lightning_init.theory.activation_laws import ActivationLaw, activation_law
from lightning_init.theory.fractional_moments import moment_preserving_std
from lightning_init.theory.squared_norm import squared_norm_moments

HOMOGENEOUS = [
    ("linear", None),
    ("relu", None),
    ("leaky_relu", 0.01),
    ("rrelu", None),
    ("rrelu", (0.0, 0.5)),
    ("prelu", 0.25),
    ("normalized", None),
]
VALUES = (-10.0, 10.0, *np.arctan(np.linspace(-10.0, 10.0, 2001)).tolist())
TABULATED = [
    ("gelu", None),
    ("silu", None),
    ("tanh", None),
    ("hardswish", None),
    ("relu_squared", None),
    ("sine", 30.0),
    ("snake", 2.0),
    ("bilinear", None),
    ("reglu", None),
    ("swiglu", None),
    ("geglu", None),
    ("glu", None),
    ("relu_max_pool", 2.3),
    pytest.param(("sampled", VALUES), id="sampled"),
]


def _fresh(law: ActivationLaw, fan_in: int) -> float:
    squared_norm_moments.cache_clear()
    return moment_preserving_std(law, fan_in, 1.0)


def _process_seconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """Best of several, on the CPU clock of this process."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.parametrize("fan_in", [1, 64, 4096])
@pytest.mark.parametrize("case", HOMOGENEOUS, ids=str)
def test_homogeneous(benchmark: Any, case: tuple, fan_in: int) -> None:
    law = activation_law(*case)
    benchmark(_fresh, law, fan_in)
    assert _process_seconds(lambda: _fresh(law, fan_in)) < 1e-3


@pytest.mark.parametrize("fan_in", [8, 64, 4096])
@pytest.mark.parametrize("case", TABULATED, ids=str)
def test_tabulated(benchmark: Any, case: tuple, fan_in: int) -> None:
    law = activation_law(*case)
    benchmark(_fresh, law, fan_in)
    assert _process_seconds(lambda: _fresh(law, fan_in)) < 1e-2


def test_cached(benchmark: Any) -> None:
    fractional_moment_std(64)
    benchmark(fractional_moment_std, 64)
    assert _process_seconds(lambda: [fractional_moment_std(64) for _ in range(100)]) < 1e-2


def test_sixty_distinct_layers(benchmark: Any) -> None:
    def model() -> list[float]:
        squared_norm_moments.cache_clear()
        return [fractional_moment_std(64 + 9 * layer) for layer in range(60)]

    benchmark(model)
    assert _process_seconds(model) < 50e-3
