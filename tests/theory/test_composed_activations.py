"""Gated products, pooling and normalized rows against draws, closed forms and mpmath."""

from __future__ import annotations

import math
import pickle
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from law_cases import COMPOSED_CASES, assert_sampled_moments, case_id, oracle
from scipy import integrate, special
from slow_moments import transform_moment

from lightning_init.theory.activation_laws import activation_law, register_activation
from lightning_init.theory.composed_activations import GATES
from lightning_init.theory.elementwise import elementwise_function
from lightning_init.theory.fractional_moments import moment_preserving_std
from lightning_init.theory.log_norm import log_norm_law
from lightning_init.theory.scale_stability import material_depth
from lightning_init.theory.squared_norm import squared_norm_moments

GATED = tuple(GATES)
orders = st.floats(0.0, 2.0)
compositions = st.sampled_from(COMPOSED_CASES).map(lambda case: activation_law(*case))


def _draw(case: tuple, rng: np.random.Generator, count: int, scale: float = 1.0) -> np.ndarray:
    """phi(scale z) of the case, dropout included."""
    name, param, dropout = case
    values = () if param is None else tuple(np.atleast_1d(param).tolist())
    if name == "normalized":
        x = np.ones(count)
    elif name.endswith("max_pool"):
        inner = name.removesuffix("max_pool").rstrip("_") or "linear"
        z = scale * rng.standard_normal((count, int(values[-1])))
        x = elementwise_function(inner, values[:-1])(z).max(1)
    else:
        inner = GATES.get(name, name.removeprefix("gated_"))
        a, b = scale * rng.standard_normal((2, count))
        x = elementwise_function(inner, values)(a) * b
    return x * (rng.random(count) >= dropout) / (1.0 - dropout)


@pytest.mark.parametrize("case", COMPOSED_CASES, ids=case_id)
def test_transforms_by_monte_carlo(case: tuple) -> None:
    law = activation_law(*case)
    x = _draw(case, np.random.default_rng(7), 200_000) ** 2
    assert_sampled_moments(law, x)


@pytest.mark.parametrize("case", COMPOSED_CASES, ids=case_id)
def test_scale_exponent_is_how_the_second_moment_grows(case: tuple) -> None:
    """On common draws at two scales, within 5 standard errors."""
    law = activation_law(*case)
    if case[0] == "normalized":
        assert law.scale_exponent == 0.0
        return
    step = 0.01
    low, high = (
        _draw(case, np.random.default_rng(3), 400_000, math.exp(sign * step / 2)) ** 2
        for sign in (-0.5, 0.5)
    )
    # d log E X / d log q by central differences; the ratio estimator's error by blocks.
    blocks = np.log(high.reshape(100, -1).mean(1) / low.reshape(100, -1).mean(1)) / step
    assert abs(blocks.mean() - law.scale_exponent) <= 0.5 * blocks.std() + 1e-3


@pytest.mark.parametrize("entry", oracle("gated")["entries"], ids=lambda e: case_id((*e.values(),)))
def test_gated_scales_to_thirty_digits(entry: dict) -> None:
    law = activation_law(entry["activation"])
    std = moment_preserving_std(law, entry["fan_in"], float(entry["s"]))
    assert std == pytest.approx(float(entry["sigma"]), rel=1e-12)


@pytest.mark.parametrize("t", [1e-30, 1e-6, 0.02, 1.0, 50.0, 1e8, 1e20])
@pytest.mark.parametrize("name", ["bilinear", "reglu"])
def test_homogeneous_gates_have_the_transform_of_a_product_of_normals(name: str, t: float) -> None:
    """E exp(-t a^2 b^2) = sqrt(2 x / pi) e^x K_0(x) at x = 1 / (8 t)."""
    share = 0.5 if name == "reglu" else 1.0
    deficit, value, _, _ = activation_law(name).laplace(np.array([t]))[:, 0] / share
    x = 1.0 / (8.0 * t)
    if x < 1e8:  # beyond, the Bessel function is 1 to its last digit
        expected = math.sqrt(2.0 * x / math.pi) * special.k0e(x)
        assert value == pytest.approx(expected, rel=1e-13)
    else:
        assert deficit == pytest.approx(t, rel=1e-6)
    assert deficit + value == pytest.approx(1.0, rel=1e-13)


def test_a_gated_scale_by_another_integral() -> None:
    """The slow version integrates over the gate at each t, with adaptive quadrature."""
    tanh = elementwise_function("tanh", ())

    def deficit(t: float) -> float:
        def of_gate(a: float) -> float:
            x = 2.0 * t * float(tanh(np.array(a))) ** 2
            return -math.expm1(-0.5 * math.log1p(x)) * math.exp(-a * a / 2)

        spike = 1.0 / math.sqrt(2.0 * t)
        edges = sorted({0.0, *(p for p in (spike, 10 * spike, 1.0, 3.0) if p < 9.0), 9.0})
        pieces = (
            integrate.quad(of_gate, low, high, epsabs=0.0, epsrel=1e-9)[0]
            for low, high in zip(edges[:-1], edges[1:], strict=True)
        )
        return 2.0 * math.fsum(pieces) / math.sqrt(2.0 * math.pi)

    std = moment_preserving_std(activation_law("gated_tanh"), 3, 1.0)
    assert std == pytest.approx(1.0 / transform_moment(deficit, 3, 1.0), rel=1e-7)


@pytest.mark.parametrize(
    ("name", "mean", "chi"),
    [("bilinear", 1.0, 2.0), ("reglu", 0.5, 2.0), ("gated_leaky_relu", 0.50005, 2.0)],
)
def test_homogeneous_gates_are_of_degree_two(name: str, mean: float, chi: float) -> None:
    law = activation_law(name)
    assert law.mean == pytest.approx(mean, rel=1e-13)
    assert law.scale_exponent == chi
    assert not law.homogeneous  # of degree 1, where the moment is preserved at any scale


@pytest.mark.parametrize("name", GATED)
def test_a_gate_multiplies_the_second_moment_of_its_activation(name: str) -> None:
    gate = activation_law(GATES[name])
    law = activation_law(name)
    assert law.mean == pytest.approx(gate.mean, rel=1e-12)
    assert law.dead_probability == gate.dead_probability
    assert law.scale_exponent == pytest.approx(1.0 + gate.scale_exponent, rel=1e-12)
    assert law.c2 + 1 == pytest.approx(3 * (gate.c2 + 1), rel=1e-12)


@given(compositions, st.integers(1, 300), orders, orders)
@example(activation_law("glu"), 1, 1.0, 5e-324)
@settings(max_examples=40, deadline=None)
def test_lower_orders_need_larger_scales(law, fan_in: int, one: float, other: float) -> None:
    lower, higher = sorted((one, other))
    smaller = moment_preserving_std(law, fan_in, higher, conditional=True)
    assert moment_preserving_std(law, fan_in, lower, conditional=True) >= smaller * (1 - 1e-12)


@given(compositions, st.integers(1, 100_000))
@settings(max_examples=40, deadline=None)
def test_order_two_is_the_second_moment(law, fan_in: int) -> None:
    expected = 1.0 / math.sqrt(fan_in * law.mean)
    assert moment_preserving_std(law, fan_in, 2.0) == pytest.approx(expected, rel=1e-14)
    moments = squared_norm_moments(law, fan_in)
    assert float(moments.log_moments(2.0)) == pytest.approx(-moments.log_alive, abs=1e-12)


@given(st.sampled_from(GATED), st.floats(0.01, 0.9), st.integers(1, 64))
@settings(max_examples=20, deadline=None)
def test_dropout_behind_a_gate(name: str, dropout: float, fan_in: int) -> None:
    plain, dropped = activation_law(name), activation_law(name, dropout=dropout)
    keep = 1.0 - dropout
    assert dropped.mean == pytest.approx(plain.mean / keep, rel=1e-12)
    assert dropped.alive_probability == pytest.approx(keep * plain.alive_probability, rel=1e-12)
    one = moment_preserving_std(plain, 1, 1.0)
    assert moment_preserving_std(dropped, 1, 1.0) == pytest.approx(one, rel=1e-12)


@given(st.floats(0.01, 50.0), st.integers(1, 200), orders)
@settings(max_examples=25, deadline=None)
def test_sine_scales_with_its_frequency(frequency: float, fan_in: int, order: float) -> None:
    """Pre-activations of scale 1 / w: the weights are w times smaller, the exponent the same."""
    law, unit = activation_law("sine", frequency), activation_law("sine")
    expected = moment_preserving_std(unit, fan_in, order) / frequency
    assert moment_preserving_std(law, fan_in, order) == pytest.approx(expected, rel=1e-10)
    assert law.scale_exponent == pytest.approx(unit.scale_exponent, rel=1e-10)


def test_closed_second_moments() -> None:
    assert activation_law("relu_squared").mean == pytest.approx(1.5, rel=1e-13)
    assert activation_law("sine", 30.0).mean == pytest.approx(450 * -math.expm1(-2), rel=1e-13)
    for a in (0.3, 1.0, 2.5, 8.0):
        fourth = 3 / 8 - math.exp(-2 * a * a) / 2 + math.exp(-8 * a * a) / 8
        assert activation_law("snake", a).mean == pytest.approx(1 + fourth / a**2, rel=1e-12)


def test_siren_ranges_are_the_large_width_limit() -> None:
    """Sitzmann et al. draw from U(-sqrt(6/m)/w, sqrt(6/m)/w): standard deviation sqrt(2/m)/w.

    They take the sine's second moment for 1/2; at unit scale it is (1 - e^-2) / 2.
    """
    std = moment_preserving_std(activation_law("sine", 30.0), 256, 2.0)
    assert std == pytest.approx(math.sqrt(2 / 256) / 30 / math.sqrt(1 - math.exp(-2)), rel=1e-12)


@pytest.mark.parametrize("draws", [1, 2, 3, 5, 49])
def test_pooled_moments_are_those_of_the_largest_draw(draws: int) -> None:
    def integral(power: int, low: float) -> float:
        return float(
            integrate.quad(
                lambda z: z**power * draws * special.ndtr(z) ** (draws - 1) * _pdf(z), low, 12
            )[0]
        )

    assert activation_law("max_pool", draws).mean == pytest.approx(integral(2, -12), rel=1e-9)
    relu = activation_law("relu_max_pool", draws)
    assert relu.mean == pytest.approx(integral(2, 0), rel=1e-9)
    assert relu.dead_probability == pytest.approx(0.5**draws, rel=1e-9)
    assert relu.homogeneous
    assert relu.scale_exponent == 1.0


def _pdf(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def test_one_draw_pools_nothing() -> None:
    for name in ("relu", "leaky_relu", "gelu", "tanh"):
        plain, pooled = activation_law(name), activation_law(f"{name}_max_pool", 1.0)
        for order in (0.0, 1.0, 2.0):
            expected = moment_preserving_std(plain, 8, order)
            assert moment_preserving_std(pooled, 8, order) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "hardswish"])
@pytest.mark.parametrize("draws", [2, 4])
def test_a_dip_below_zero_hardly_matters_to_the_largest(name: str, draws: int) -> None:
    """The law is of phi of the largest draw, the layer takes the largest phi."""
    z = np.random.default_rng(0).standard_normal((400_000, draws))
    function = elementwise_function(name, ())
    largest = (function(z).max(1) ** 2).mean()
    assert 0.0 <= (function(z.max(1)) ** 2).mean() / largest - 1.0 < 0.002


@pytest.mark.parametrize("order", [0.0, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("width", [1, 7, 64, 10_000])
def test_behind_a_norm_every_order_is_lecun(order: float, width: int) -> None:
    law = activation_law("normalized")
    assert moment_preserving_std(law, width, order) == pytest.approx(width**-0.5, rel=1e-14)
    step = log_norm_law(law, width, order)
    assert abs(step.drift) < 1e-14
    assert abs(step.variance) < 1e-14


def test_a_product_squares_the_deviations_of_its_scale() -> None:
    """chi = 2: the moments of a deep stack of products run away within a few layers."""
    depths = [material_depth(activation_law(name), 64) for name in ("bilinear", "swiglu", "gelu")]
    assert depths[0] is not None
    assert depths[1] is not None
    assert depths[0] <= depths[1] < depths[2]


def test_registered_activations_can_gate_and_be_pooled() -> None:
    register_activation("doubled", lambda z: 2.0 * np.maximum(z, 0.0))
    assert activation_law("gated_doubled").mean == pytest.approx(2.0, rel=1e-12)
    pooled = activation_law("doubled_max_pool", 3.0)
    assert pooled.mean == pytest.approx(4.0 * activation_law("relu_max_pool", 3.0).mean, rel=1e-12)


@pytest.mark.parametrize("case", COMPOSED_CASES, ids=case_id)
def test_equal_arguments_give_the_same_law(case: tuple) -> None:
    law = activation_law(*case)
    assert activation_law(*case) is law
    assert pickle.loads(pickle.dumps(law)) == law


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("max_pool",), "`param` of 'max_pool' must end with the number of draws, got ()"),
        (("relu_max_pool", 0.0), "must end with the number of draws, got (0.0,)"),
        (("sine_max_pool", (1.0, 4.0)), "'sine' does not rise from 0 on"),
        (("leaky_relu_max_pool", (-0.5, 4.0)), "'leaky_relu' does not rise from 0 on"),
        (("sine", -1.0), "`param` of 'sine' must start with a positive number"),
        (("swiglu", 1.0), "`param` of 'silu' must hold 0 numbers, got (1.0,)"),
        (("gated_nothing",), "got 'gated_nothing'; "),
        (("nothing_max_pool", 2.0), "got 'nothing_max_pool'; "),
        (("normalized", 1.0), "'normalized' takes no `param`, got (1.0,)"),
        (("swigu",), "did you mean 'swiglu'?"),
    ],
)
def test_arguments_are_checked(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        activation_law(*arguments)


@pytest.mark.parametrize("name", ["swiglu", "max_pool", "sampled", "normalized", "sine"])
def test_built_in_names_cannot_be_registered(name: str) -> None:
    with pytest.raises(ValueError, match=f"must not be a built-in activation, got {name!r}"):
        register_activation(name, np.abs)
