"""Laws and strategies shared by the theory tests."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lightning_init.theory.activation_laws import ActivationLaw, activation_law

ORACLES = Path(__file__).parents[1] / "oracles"

# name, param, dropout: every row of the table of homogeneous laws
HOMOGENEOUS_CASES: list[tuple[str, Any, float]] = [
    ("linear", None, 0.0),
    ("abs", None, 0.0),
    ("relu", None, 0.0),
    ("leaky_relu", 0.01, 0.0),
    ("leaky_relu", -0.5, 0.0),
    ("leaky_relu", 1.7, 0.0),
    ("prelu", (0.0, 0.1, 0.25, 0.25), 0.0),
    ("rrelu", None, 0.0),
    ("rrelu", (0.0, 0.5), 0.0),
    ("rrelu", (-0.2, 0.3), 0.0),
    ("linear", None, 0.1),
    ("relu", None, 0.5),
    ("leaky_relu", 0.2, 0.3),
    ("rrelu", None, 0.9),
]
ELEMENTWISE_CASES: list[tuple[str, Any, float]] = [
    ("gelu", None, 0.0),
    ("gelu_tanh", None, 0.0),
    ("silu", None, 0.0),
    ("mish", None, 0.1),
    ("elu", 0.7, 0.0),
    ("celu", 1.3, 0.0),
    ("selu", None, 0.0),
    ("softplus", (2.0, 20.0), 0.0),
    ("tanh", None, 0.0),
    ("sigmoid", None, 0.0),
    ("hardtanh", (-2.0, 0.5), 0.0),
    ("relu6", None, 0.2),
    ("hardswish", None, 0.0),
    ("quick_gelu", None, 0.0),
    ("relu_squared", None, 0.3),
    ("sine", 3.0, 0.0),
    ("snake", 2.5, 0.0),
]
COMPOSED_CASES: list[tuple[str, Any, float]] = [
    ("glu", None, 0.0),
    ("swiglu", None, 0.0),
    ("geglu", None, 0.2),
    ("geglu_tanh", None, 0.0),
    ("reglu", None, 0.1),
    ("bilinear", None, 0.0),
    ("gated_elu", 0.7, 0.0),
    ("max_pool", 3.0, 0.0),
    ("relu_max_pool", 4.0, 0.5),
    ("leaky_relu_max_pool", (0.2, 2.0), 0.0),
    ("softplus_max_pool", (2.0, 20.0, 9.0), 0.0),
    ("normalized", None, 0.0),
    ("normalized", None, 0.3),
]


def oracle(name: str) -> dict[str, Any]:
    return json.loads((ORACLES / f"{name}.json").read_text())


def oracle_law(entry: dict[str, Any]) -> ActivationLaw:
    params = entry.get("params", {})
    param = params.get("negative_slope")
    if "lower" in params:
        param = (params["lower"], params["upper"])
    return activation_law(entry["activation"], param, entry.get("dropout", 0.0))


def case_id(case: tuple[str, Any, float]) -> str:
    return "-".join(str(part) for part in case)


slopes = st.floats(-3.0, 3.0, allow_nan=False)
dropouts = st.one_of(st.just(0.0), st.floats(0.01, 0.95))
widths = st.one_of(st.integers(1, 64), st.integers(1, 1_000_000))


@st.composite
def homogeneous_laws(draw: st.DrawFn) -> ActivationLaw:
    name = draw(st.sampled_from(["linear", "abs", "relu", "leaky_relu", "prelu", "rrelu"]))
    param: Any = None
    if name == "leaky_relu":
        param = draw(slopes)
    elif name == "prelu":
        param = draw(st.lists(slopes, min_size=1, max_size=5))
    elif name == "rrelu":
        param = tuple(sorted((draw(slopes), draw(slopes))))
    return activation_law(name, param, draw(dropouts))


def assert_sampled_moments(law: ActivationLaw, x: np.ndarray) -> None:
    """Mean, P(X = 0) and the Laplace transforms at 1 of sampled X, within 5 standard errors."""
    _assert_mean(x, law.mean)
    _assert_mean((x == 0.0).astype(float), law.dead_probability)
    deficit, value, first, second = law.laplace(np.array([1.0]))[:, 0]
    alive = (x > 0).astype(float)
    _assert_mean(alive * np.exp(-x), value)
    _assert_mean(alive * -np.expm1(-x), deficit)
    _assert_mean(x * np.exp(-x), first)
    _assert_mean(x**2 * np.exp(-x), second)


def _assert_mean(samples: np.ndarray, expected: float) -> None:
    error = samples.std() / math.sqrt(len(samples))
    assert abs(samples.mean() - expected) <= 5 * error + 1e-12
