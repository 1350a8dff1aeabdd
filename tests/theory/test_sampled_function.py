from __future__ import annotations

import pickle
import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.elementwise import ELEMENTWISE, FIXED_SLOPE, elementwise_function
from lightning_init.theory.fractional_moments import moment_preserving_std
from lightning_init.theory.recognition import SAMPLING_POINTS, rule_of_values
from lightning_init.theory.sampled_function import SampledFunction

NAMES = (*FIXED_SLOPE, *ELEMENTWISE)


def _sampled(function: Callable[[np.ndarray], np.ndarray]) -> SampledFunction:
    values = tuple(function(SAMPLING_POINTS).tolist())
    return SampledFunction(float(SAMPLING_POINTS[0]), float(SAMPLING_POINTS[-1]), values)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_met_between_the_nodes(name: str) -> None:
    function = elementwise_function(name, ())
    z = np.random.default_rng(0).uniform(-9.5, 9.5, 20_000)
    # 3e-6 where only the curvature jumps, as of ELU and softplus, 1e-8 elsewhere.
    np.testing.assert_allclose(_sampled(function)(z), function(z), rtol=0.0, atol=4e-6)


@pytest.mark.parametrize("precision", [np.float64, np.float32])
@pytest.mark.parametrize("name", NAMES)
def test_laws_from_values_are_the_closed_laws(name: str, precision: type) -> None:
    values = elementwise_function(name, ())(SAMPLING_POINTS).astype(precision)
    law = activation_law("sampled", (-10.0, 10.0, *values.astype(float).tolist()))
    closed = activation_law(name)
    for fan_in in (4, 64):
        for order in (0.0, 0.5, 1.0, 2.0):
            std = moment_preserving_std(closed, fan_in, order)
            assert moment_preserving_std(law, fan_in, order) == pytest.approx(std, rel=1e-7)
    assert law.scale_exponent == pytest.approx(closed.scale_exponent, abs=1e-7)
    assert law.dead_probability == pytest.approx(closed.dead_probability, abs=1e-6)


@given(st.floats(-3.0, 3.0), st.floats(-2.0, 2.0), st.floats(-2.0, 2.0))
@settings(max_examples=60, deadline=None)
def test_a_kink_is_found_wherever_it_lies(place: float, below: float, above: float) -> None:
    def function(z: np.ndarray) -> np.ndarray:
        return np.where(z < place, below * (z - place), above * (z - place)) + np.tanh(z)

    sampled = _sampled(function)
    z = np.concatenate([np.linspace(-9.5, 9.5, 5001), place + np.linspace(-0.05, 0.05, 501)])
    np.testing.assert_allclose(sampled(z), function(z), rtol=0.0, atol=1e-4)
    if abs(above - below) > 0.5:
        assert min(abs(point - place) for point in sampled.breakpoints) < 1e-6


def test_a_jump_is_known_to_its_cell() -> None:
    sampled = _sampled(lambda z: np.where(z > 0.123, z, -1.0))
    assert sampled.breakpoints == pytest.approx((0.125,))
    assert sampled(np.array([0.1, 0.13])) == pytest.approx([-1.0, 0.13], abs=1e-12)


def test_smooth_functions_have_no_kinks() -> None:
    for name in ("gelu", "silu", "tanh", "mish", "sigmoid", "softplus", "snake", "linear"):
        assert _sampled(elementwise_function(name, ())).breakpoints == (), name
    assert _sampled(lambda z: np.sin(30.0 * z)).breakpoints == ()


def test_many_zeros_stay_cheap() -> None:
    values = np.sin(25.0 * SAMPLING_POINTS)
    law = activation_law("sampled", (-10.0, 10.0, *values.tolist()))
    assert law.mean == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize("precision", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (lambda x: x, ("linear", None)),
        (lambda x: np.maximum(x, x.dtype.type(0)), ("relu", None)),
        (np.abs, ("abs", None)),
        (lambda x: x / (1 + np.exp(-x)), ("silu", None)),
        (lambda x: x / (1 + np.exp(-x * x.dtype.type(1.702))), ("quick_gelu", None)),
        (
            lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
            ("gelu_tanh", None),
        ),
        (lambda x: np.maximum(x, 0) ** 2, ("relu_squared", None)),
        (lambda x: x + np.sin(x) ** 2, ("snake", None)),
        (lambda x: np.where(x > 0, x, x * x.dtype.type(0.1)), ("leaky_relu", 0.1)),
        (lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)) * 0.7), ("elu", 0.7)),
        (lambda x: np.clip(x, -0.5, 2.0), ("hardtanh", (-0.5, 2.0))),
        (lambda x: np.clip(x, 0.0, 6.0), ("relu6", None)),
        (lambda x: np.sin(x * x.dtype.type(30)), ("sine", 30.0)),
        (np.sin, ("sine", 1.0)),
        (np.tanh, ("tanh", None)),
    ],
)
def test_named_activations_are_told_from_their_values(
    function: Callable[[np.ndarray], np.ndarray], rule: tuple, precision: type
) -> None:
    values = function(SAMPLING_POINTS.astype(precision))
    assert rule_of_values(values) == rule


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 2.0 * x,
        lambda x: x + 1.0,
        lambda x: x / (1.0 + np.abs(x)),
        lambda x: 1.7 * np.maximum(x, 0.0),
        np.cos,
        np.ones_like,
        lambda x: np.log1p(np.abs(x)),
    ],
)
def test_other_functions_are_sampled(function: Callable[[np.ndarray], np.ndarray]) -> None:
    name, param = rule_of_values(function(SAMPLING_POINTS))
    assert name == "sampled"
    law = activation_law(name, param)
    z = np.random.default_rng(1).standard_normal(400_000)
    squares = function(z) ** 2
    assert abs(law.mean - squares.mean()) <= 5 * squares.std() / len(z) ** 0.5 + 1e-7


def test_a_multiple_of_relu_has_its_factor_in_the_law() -> None:
    law = activation_law(*rule_of_values(1.7 * np.maximum(SAMPLING_POINTS, 0.0)), dropout=0.1)
    expected = moment_preserving_std(activation_law("relu", dropout=0.1), 16, 1.0) / 1.7
    assert moment_preserving_std(law, 16, 1.0) == pytest.approx(expected, rel=1e-9)
    assert law.scale_exponent == pytest.approx(1.0, abs=1e-9)


def test_sampled_functions_gate_and_are_pooled() -> None:
    values = (-10.0, 10.0, *np.maximum(SAMPLING_POINTS, 0.0).tolist())
    gated, pooled = activation_law("gated_sampled", values), activation_law("reglu")
    assert moment_preserving_std(gated, 8, 1.0) == pytest.approx(
        moment_preserving_std(pooled, 8, 1.0), rel=1e-9
    )
    largest = activation_law("sampled_max_pool", (*values, 4.0))
    assert largest.mean == pytest.approx(activation_law("relu_max_pool", 4.0).mean, rel=1e-9)


def test_laws_of_values_are_equal_by_value() -> None:
    values = np.arctan(SAMPLING_POINTS)
    law = activation_law(*rule_of_values(values))
    assert activation_law(*rule_of_values(values.copy())) is law
    assert pickle.loads(pickle.dumps(law)) == law
    assert activation_law(*rule_of_values(np.nextafter(values, 9.0))) != law


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ((), "`param` of 'sampled' must be (first, last, values...), got ()"),
        ((-10.0, 10.0, 1.0, 2.0), "`values` must be at least 64 on a grid that covers"),
        ((-9.0, 9.0, *range(100)), "got 100 on [-9, 9]"),
    ],
)
def test_sampled_parameters_are_checked(param: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        activation_law("sampled", param)


def test_values_are_checked() -> None:
    with pytest.raises(ValueError, match="must be 2001 finite numbers"):
        rule_of_values(np.zeros(7))
    with pytest.raises(ValueError, match="must be 2001 finite numbers"):
        rule_of_values(np.full(2001, np.inf))
    with pytest.raises(ValueError, match="is zero everywhere"):
        activation_law(*rule_of_values(np.zeros(2001)))
