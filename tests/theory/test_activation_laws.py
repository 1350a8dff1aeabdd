from __future__ import annotations

import math
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from law_cases import (
    ELEMENTWISE_CASES,
    HOMOGENEOUS_CASES,
    assert_sampled_moments,
    case_id,
    homogeneous_laws,
    oracle,
)
from torch.nn import functional

from lightning_init.theory.activation_laws import (
    ActivationLaw,
    activation_law,
    register_activation,
)
from lightning_init.theory.elementwise import elementwise_function
from lightning_init.theory.fractional_moments import moment_preserving_std

TORCH = {
    "gelu": lambda x, p: functional.gelu(x),
    "gelu_tanh": lambda x, p: functional.gelu(x, approximate="tanh"),
    "silu": lambda x, p: functional.silu(x),
    "mish": lambda x, p: functional.mish(x),
    "elu": lambda x, p: functional.elu(x, *p),
    "celu": lambda x, p: functional.celu(x, *p),
    "selu": lambda x, p: functional.selu(x),
    "softplus": lambda x, p: functional.softplus(x, *p),
    "tanh": lambda x, p: torch.tanh(x),
    "sigmoid": lambda x, p: torch.sigmoid(x),
    "hardtanh": lambda x, p: functional.hardtanh(x, *p),
    "relu6": lambda x, p: functional.relu6(x),
    "hardswish": lambda x, p: functional.hardswish(x),
    "quick_gelu": lambda x, p: x * torch.sigmoid(1.702 * x),
    "relu_squared": lambda x, p: functional.relu(x).square(),
    "sine": lambda x, p: (p[0] if p else 1.0) * torch.sin(x),
    "snake": lambda x, p: x + torch.sin((p or (1.0,))[0] * x) ** 2 / (p or (1.0,))[0],
}


@pytest.mark.parametrize("name", sorted(TORCH))
@pytest.mark.parametrize("default", [True, False])
def test_elementwise_functions_are_those_of_torch(name: str, default: bool) -> None:
    case = next(case for case in ELEMENTWISE_CASES if case[0] == name)
    param = () if default or case[1] is None else tuple(np.atleast_1d(case[1]).tolist())
    z = np.linspace(-9.5, 9.5, 3001)
    expected = TORCH[name](torch.from_numpy(z), param).numpy()
    np.testing.assert_allclose(
        elementwise_function(name, param)(z), expected, rtol=1e-9, atol=1e-15
    )


@pytest.mark.parametrize(
    ("name", "param", "mean", "c2", "c3", "dead"),
    [
        ("linear", None, 1.0, 2.0, 8.0, 0.0),
        ("abs", None, 1.0, 2.0, 8.0, 0.0),
        ("relu", None, 0.5, 5.0, 44.0, 0.5),
        ("leaky_relu", 0.2, 0.52, (5 - 0.08 + 0.008) / 1.04**2, 38.674556213, 0.0),
        ("prelu", (0.0, 2.0), 0.5 + 1.0, None, None, 0.25),
        ("rrelu", (0.0, 0.5), 0.5 + 0.25 / 6, None, None, 0.0),
        ("rrelu", (-0.2, 0.3), 0.5 + 0.5 * 0.07 / 3, None, None, 0.0),
        ("rrelu", (0.25, 0.5), 0.5 + 0.5 * (0.25 + 0.125 + 0.0625) / 3, None, None, 0.0),
    ],
)
def test_moments_of_the_table(
    name: str, param: object, mean: float, c2: float | None, c3: float | None, dead: float
) -> None:
    law = activation_law(name, param)  # type: ignore[arg-type]
    assert law.mean == pytest.approx(mean, rel=1e-14)
    assert law.dead_probability == dead
    if c2 is not None and c3 is not None:
        assert law.c2 == pytest.approx(c2, rel=1e-13)
        assert law.c3 == pytest.approx(c3, rel=1e-9)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["linear", "relu", "leaky_relu", "rrelu", "gelu", "tanh"])
def test_inverted_dropout_scales_the_moments(name: str, dropout: float) -> None:
    plain, dropped = activation_law(name), activation_law(name, dropout=dropout)
    keep = 1 - dropout
    assert dropped.mean == pytest.approx(plain.mean / keep, rel=1e-13)
    assert dropped.c2 + 1 == pytest.approx((plain.c2 + 1) / keep, rel=1e-13)
    alive = keep * plain.alive_probability
    assert dropped.alive_probability == pytest.approx(alive, rel=1e-14)
    assert dropped.scale_exponent == plain.scale_exponent


@pytest.mark.parametrize("case", HOMOGENEOUS_CASES + ELEMENTWISE_CASES, ids=case_id)
def test_moments_by_monte_carlo(case: tuple) -> None:
    """Mean, P(X = 0) and E exp(-X) of sampled X, within 5 standard errors."""
    law = activation_law(*case)
    x = _sample_squares(*case, count=200_000)
    assert_sampled_moments(law, x)


def _sample_squares(name: str, param: object, dropout: float, count: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    z = rng.standard_normal(count)
    if name in TORCH:
        values = () if param is None else tuple(np.atleast_1d(param).tolist())  # type: ignore[call-overload]
        phi = TORCH[name](torch.from_numpy(z), values).numpy()
    else:
        phi = np.where(z > 0, z, z * _sample_slopes(name, param, rng, count))
    return (phi * (rng.random(count) >= dropout) / (1 - dropout)) ** 2


def _sample_slopes(name: str, param: object, rng: np.random.Generator, count: int) -> np.ndarray:
    if name == "rrelu":
        return rng.uniform(*(param or (1 / 8, 1 / 3)), count)  # type: ignore[misc]
    fixed = {"linear": 1.0, "abs": -1.0, "relu": 0.0}.get(name, param)
    return rng.choice(np.atleast_1d(fixed), count)  # type: ignore[arg-type]


def test_scale_exponents() -> None:
    for name, chi in oracle("nonhomogeneous")["chi"].items():
        # The stored values are central differences, good to about 1e-10.
        assert activation_law(name).scale_exponent == pytest.approx(chi, abs=1e-9)


@given(homogeneous_laws())
@settings(max_examples=40, deadline=None)
def test_homogeneous_laws_are_exactly_scale_free(law: ActivationLaw) -> None:
    assert law.homogeneous
    assert law.scale_exponent == 1.0
    assert 0.0 <= law.dead_probability < 1.0


def test_selu_fixed_point_is_recovered() -> None:
    """The SELU constants are the ones that make sigma^2 m = 1 at order 2."""
    assert moment_preserving_std(activation_law("selu"), 1, 2.0) == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "gain"),
    [
        ("tanh", 1.592537),
        ("gelu", 1.533530),
        ("silu", 1.676532),
        ("elu", 1.245198),
        ("softplus", 1.041867),
        ("mish", 1.486848),
        ("sigmoid", 1.846229),
    ],
)
def test_gains_at_order_two(name: str, gain: float) -> None:
    assert moment_preserving_std(activation_law(name), 1, 2.0) == pytest.approx(gain, abs=6e-7)


def test_equal_arguments_give_the_same_law() -> None:
    for name, param in (("prelu", [0.1, 0.2]), ("gelu", None), ("rrelu", (0.0, 0.5))):
        law = activation_law(name, param, 0.1)
        assert activation_law(name, param, 0.1) is law
        assert hash(law) == hash(pickle.loads(pickle.dumps(law)))
        assert pickle.loads(pickle.dumps(law)) == law


def test_laws_are_frozen() -> None:
    with pytest.raises(AttributeError):
        activation_law("relu").dropout = 0.5  # type: ignore[misc]


def test_aliases_and_defaults() -> None:
    assert activation_law("identity") is activation_law("linear")
    assert activation_law("leaky_relu").component == activation_law("leaky_relu", 0.01).component
    assert activation_law("prelu").component == activation_law("prelu", 0.25).component
    default = activation_law("rrelu").component
    assert default == activation_law("rrelu", (1 / 8, 1 / 3)).component


def test_a_registered_relu_is_the_exact_relu() -> None:
    register_activation("table_relu", lambda z: np.maximum(z, 0.0))
    table, exact = activation_law("table_relu", dropout=0.2), activation_law("relu", dropout=0.2)
    assert table.dead_probability == pytest.approx(exact.dead_probability, rel=1e-14)
    assert table.scale_exponent == pytest.approx(1.0, abs=1e-13)
    for fan_in in (1, 3, 64):
        for order in (0.0, 0.1, 1.0, 2.0):
            std = moment_preserving_std(table, fan_in, order)
            assert std == pytest.approx(moment_preserving_std(exact, fan_in, order), rel=1e-13)


def test_zeros_and_dead_zones_away_from_the_origin_are_found() -> None:
    register_activation("hard_shrink", lambda z: np.where(np.abs(z) > 0.5, z, 0.0))
    dead = math.erf(0.5 / math.sqrt(2))
    assert activation_law("hard_shrink").dead_probability == pytest.approx(dead, rel=1e-12)
    register_activation("shifted", lambda z: z - 0.7)
    shifted = activation_law("shifted")
    assert shifted.mean == pytest.approx(1.49, rel=1e-13)
    # m = 1, order 1: E|z - c| = 2 pdf(c) + c (2 cdf(c) - 1).
    pdf = math.exp(-0.245) / math.sqrt(2 * math.pi)
    folded = 2 * pdf + 0.7 * math.erf(0.7 / math.sqrt(2))
    assert moment_preserving_std(shifted, 1, 1.0) == pytest.approx(1 / folded, rel=1e-12)


def test_breakpoints_restore_the_digits_lost_at_a_kink() -> None:
    def clipped(z: np.ndarray) -> np.ndarray:
        return np.clip(z, -0.777, 0.777)

    register_activation("clipped_blind", clipped)
    register_activation("clipped", clipped, breakpoints=(-0.777, 0.777))
    exact = activation_law("hardtanh", (-0.777, 0.777)).mean
    assert activation_law("clipped").mean == pytest.approx(exact, rel=1e-14)
    assert activation_law("clipped_blind").mean == pytest.approx(exact, rel=1e-3)


def test_registering_again_replaces() -> None:
    register_activation("replaced", lambda z: z)
    assert activation_law("replaced").mean == pytest.approx(1.0)
    register_activation("replaced", lambda z: 2.0 * z)
    assert activation_law("replaced").mean == pytest.approx(4.0)
    assert moment_preserving_std(activation_law("replaced"), 4, 1.0) == pytest.approx(
        moment_preserving_std(activation_law("linear"), 4, 1.0) / 2, rel=1e-13
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("relu", None, 1.0), "`dropout` must be in [0, 1), got 1.0"),
        (("relu", None, -0.1), "`dropout` must be in [0, 1), got -0.1"),
        (("relu", None, math.nan), "`dropout` must be in [0, 1), got nan"),
        (("leaky_relu", math.inf), "`param` of 'leaky_relu' must be finite, got inf"),
        (("prelu", (0.1, math.nan)), "`param` of 'prelu' must be finite"),
        (("leaky_relu", 1e31), "slopes of 'leaky_relu' must not exceed 1e+30"),
        (("leaky_relu", (0.1, 0.2)), "`param` of 'leaky_relu' must be one slope"),
        (("relu", 0.1), "'relu' takes no `param`, got (0.1,); pass None."),
        (("rrelu", (0.5, 0.1)), "`param` of 'rrelu' must be (lower, upper), lower <= upper"),
        (("rrelu", 0.5), "`param` of 'rrelu' must be (lower, upper)"),
        (("hardtanh", (1.0, 1.0)), "`param` of 'hardtanh' must be (min, max) with min < max"),
        (("softplus", (-1.0, 20.0)), "`param` of 'softplus' must start with a positive number"),
        (("elu", (1.0, 2.0)), "`param` of 'elu' must hold 1 numbers"),
        (("relu6", (0.0, 6.0)), "`param` of 'relu6' must hold 0 numbers"),
        (("leakyrelu",), "got 'leakyrelu'; did you mean 'leaky_relu'?"),
        (("zzz",), "got 'zzz'; add it with register_activation."),
    ],
)
def test_arguments_are_checked(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        activation_law(*arguments)


def test_registration_is_checked() -> None:
    with pytest.raises(ValueError, match="must not be a built-in activation, got 'relu'"):
        register_activation("relu", np.abs)
    with pytest.raises(ValueError, match="is zero everywhere"):
        register_activation("nothing", np.zeros_like)
    with pytest.raises(ValueError, match="must map a float64 array to finite values"):
        register_activation("pole", lambda z: np.where(z > 1.0, np.inf, z))
    with pytest.raises(ValueError, match="add it with register_activation"):
        activation_law("nothing")


@pytest.mark.parametrize("bounds", [(0.0, 5e-324), (-1e-200, 1e-300), (-5e-324, 0.0)])
def test_rrelu_of_slopes_that_vanish_is_relu(bounds: tuple[float, float]) -> None:
    law, relu = activation_law("rrelu", bounds), activation_law("relu")
    assert law.dead_probability == relu.dead_probability
    assert law.c3 == pytest.approx(relu.c3, rel=1e-14)


@pytest.mark.parametrize("bounds", [(-5e-324, 1.0), (0.0, 1e-110), (1e-300, 1e-3)])
def test_rrelu_with_slopes_next_to_none_is_never_dead(bounds: tuple[float, float]) -> None:
    assert activation_law("rrelu", bounds).alive_probability == 1.0
