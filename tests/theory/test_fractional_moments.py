from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from law_cases import (
    ELEMENTWISE_CASES,
    HOMOGENEOUS_CASES,
    case_id,
    dropouts,
    homogeneous_laws,
    oracle,
    oracle_law,
    slopes,
    widths,
)
from slow_moments import (
    leaky_moment,
    linear_moment,
    relu_moment,
    rrelu_deficit,
    single_input_moment,
    transform_moment,
    uniform_power_mean,
    with_dropout,
)
from torch import nn

from lightning_init.theory.activation_laws import ActivationLaw, activation_law
from lightning_init.theory.fractional_moments import (
    dead_inflation,
    dead_layer_warning,
    moment_preserving_std,
)

SIGMA = oracle("sigma")["entries"]
ALL_CASES = HOMOGENEOUS_CASES + ELEMENTWISE_CASES


@pytest.mark.parametrize("activation", sorted({entry["activation"] for entry in SIGMA}))
def test_high_precision_oracle(activation: str) -> None:
    for entry in (entry for entry in SIGMA if entry["activation"] == activation):
        std = moment_preserving_std(oracle_law(entry), entry["fan_in"], entry["s"])
        # The one delicate entry is sigma ~ 2^1000 (ReLU, m = 1, s = 0.001).
        allowed = 1e-12 if std > 1e100 else 5e-15
        assert std == pytest.approx(float(entry["sigma"]), rel=allowed), entry


def test_nonhomogeneous_oracle() -> None:
    for case in oracle("nonhomogeneous")["entries"]:
        std = moment_preserving_std(activation_law(case["activation"]), case["fan_in"], case["s"])
        assert std == pytest.approx(case["sigma"], rel=1e-11), case


@pytest.mark.parametrize(
    ("name", "param", "dropout", "fan_in", "order", "expected"),
    [
        ("linear", None, 0.0, 64, 1.0, 0.12548921622715733),
        ("relu", None, 0.0, 64, 1.0, 0.17852802866437036),
        ("leaky_relu", 0.01, 0.0, 64, 1.0, 0.17851865607816786),
        ("leaky_relu", 0.2, 0.0, 64, 1.0, 0.17490043761845058),
        ("rrelu", None, 0.0, 64, 1.0, 0.17350410589832062),
        ("relu", None, 0.5, 64, 1.0, 0.12778789189703017),
        ("relu", None, 0.0, 1, 1.0, math.sqrt(2 * math.pi)),
        ("leaky_relu", 0.01, 0.0, 64, 0.0, 0.18034764580255335),
    ],
)
def test_spot_values(
    name: str, param: float | None, dropout: float, fan_in: int, order: float, expected: float
) -> None:
    law = activation_law(name, param, dropout)
    assert moment_preserving_std(law, fan_in, order) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("dropout", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("order", [0.02, 0.7, 1.6, 1.99])
@pytest.mark.parametrize("fan_in", [1, 2, 7, 33, 150, 2000])
def test_closed_sums_beyond_the_oracle_grid(fan_in: int, order: float, dropout: float) -> None:
    moments = {
        ("linear", None): lambda n: linear_moment(n, order),
        ("relu", None): lambda n: relu_moment(n, order),
        ("leaky_relu", -0.37): lambda n: leaky_moment(n, order, 0.37),
        ("leaky_relu", 0.83): lambda n: leaky_moment(n, order, 0.83),
    }
    for (name, param), moment in moments.items():
        if dropout and fan_in == 2000:
            continue  # a sum of 2000 sums of 2000 terms
        expected = with_dropout(moment, fan_in, order, dropout) ** (-1 / order)
        std = moment_preserving_std(activation_law(name, param, dropout), fan_in, order)
        # The closed sums carry the rounding of gammaln(2000) ~ 1e4, divided by the order.
        assert std == pytest.approx(expected, rel=1e-11 / order), (name, param)


@pytest.mark.parametrize(
    ("bounds", "fan_in", "order"),
    [
        ((0.125, 1 / 3), 2, 1.0),
        ((0.0, 0.5), 5, 0.8),
        ((-0.2, 0.3), 64, 1.5),
        ((-0.2, 0.3), 2, 1.0),
        ((-0.4, -0.01), 3, 1.2),
        ((0.04, 0.5), 2, 1.0),
    ],
)
def test_rrelu_against_the_first_order_identity(
    bounds: tuple[float, float], fan_in: int, order: float
) -> None:
    expected = transform_moment(rrelu_deficit(*bounds), fan_in, order) ** (-1 / order)
    std = moment_preserving_std(activation_law("rrelu", bounds), fan_in, order)
    assert std == pytest.approx(expected, rel=1e-9)


@given(slopes, slopes, st.floats(0.05, 1.95), dropouts)
@settings(max_examples=60, deadline=None)
def test_single_input_closed_form(lower: float, upper: float, order: float, dropout: float) -> None:
    lower, upper = sorted((lower, upper))
    assume(upper - lower > 1e-6)
    keep = 1.0 - dropout
    mean = uniform_power_mean(lower, upper, order)
    moment = single_input_moment([(1.0, 0.5 * keep)], order) * (1.0 + mean) * keep**-order
    std = moment_preserving_std(activation_law("rrelu", (lower, upper), dropout), 1, order)
    assert std == pytest.approx(moment ** (-1 / order), rel=1e-9)


@pytest.mark.parametrize("fan_in", [1, 2, 3, 64, 784, 4097])
@pytest.mark.parametrize("slope", [0.01, 0.2, -0.5, 1.3])
def test_order_two_is_kaiming(slope: float, fan_in: int) -> None:
    gain = nn.init.calculate_gain("leaky_relu", slope)
    std = moment_preserving_std(activation_law("leaky_relu", slope), fan_in, 2.0)
    assert std == pytest.approx(gain / math.sqrt(fan_in), rel=1e-15)


@pytest.mark.parametrize("fan_in", [1, 3, 64, 1000])
def test_order_two_is_bit_equal_to_kaiming_and_lecun(fan_in: int) -> None:
    relu = nn.init.calculate_gain("relu") / math.sqrt(fan_in)
    assert moment_preserving_std(activation_law("relu"), fan_in, 2.0) == relu
    linear = nn.init.calculate_gain("linear") / math.sqrt(fan_in)
    assert moment_preserving_std(activation_law("linear"), fan_in, 2.0) == linear


@given(homogeneous_laws(), widths)
@settings(max_examples=60, deadline=None)
def test_order_two_with_dropout_shrinks_by_the_root_of_keep(law: ActivationLaw, m: int) -> None:
    plain = activation_law(law.nonlinearity, law.param or None)
    expected = moment_preserving_std(plain, m, 2.0) * math.sqrt(1.0 - law.dropout)
    assert moment_preserving_std(law, m, 2.0) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("case", ALL_CASES, ids=case_id)
@pytest.mark.parametrize("fan_in", [1, 2, 8, 64, 784])
def test_engine_agrees_with_the_literal_order_two(case: tuple, fan_in: int) -> None:
    """The literal order 2 hides nothing: the integral tends to it."""
    law = activation_law(*case)
    near = moment_preserving_std(law, fan_in, 2.0 - 1e-9)
    assert near == pytest.approx(moment_preserving_std(law, fan_in, 2.0), rel=2e-8)
    assert near > 0


@pytest.mark.parametrize("case", ALL_CASES, ids=case_id)
@pytest.mark.parametrize("fan_in", [1, 2, 8, 64, 784])
def test_strictly_decreasing_in_order(case: tuple, fan_in: int) -> None:
    law = activation_law(*case)
    stds = [moment_preserving_std(law, fan_in, order) for order in np.linspace(0.04, 2.0, 50)]
    assert np.all(np.diff(stds) < 0)


@given(homogeneous_laws(), widths, st.floats(0.05, 2.0))
@settings(max_examples=150, deadline=None)
def test_finite_and_at_least_kaiming(law: ActivationLaw, m: int, order: float) -> None:
    std = moment_preserving_std(law, m, order)
    assert math.isfinite(std)
    assert std >= moment_preserving_std(law, m, 2.0) * (1 - 1e-14)


@given(slopes, widths, st.floats(0.01, 2.0), dropouts)
@settings(max_examples=60, deadline=None)
def test_sign_of_the_slope_does_not_matter(a: float, m: int, order: float, dropout: float) -> None:
    stds = [
        moment_preserving_std(activation_law("leaky_relu", slope, dropout), m, order)
        for slope in (a, -a)
    ]
    assert stds[0] == stds[1]


@given(st.floats(0.01, 100.0), widths, st.floats(0.05, 2.0))
@settings(max_examples=60, deadline=None)
def test_exchanging_the_sides_rescales(a: float, m: int, order: float) -> None:
    """max(z, 0) - a max(-z, 0) is a times the same function of -z with slope 1/a."""
    direct = moment_preserving_std(activation_law("leaky_relu", a), m, order)
    mirrored = moment_preserving_std(activation_law("leaky_relu", 1 / a), m, order)
    assert direct == pytest.approx(mirrored / a, rel=1e-12)


@pytest.mark.parametrize("order", [0.1, 0.5, 1.0, 1.9])
@pytest.mark.parametrize("fan_in", [32, 64, 784, 100_000])
def test_leaky_tends_to_relu(fan_in: int, order: float) -> None:
    leaky = moment_preserving_std(activation_law("leaky_relu", 1e-8), fan_in, order)
    relu = moment_preserving_std(activation_law("relu"), fan_in, order)
    assert leaky == pytest.approx(relu, rel=1e-9)
    zero = moment_preserving_std(activation_law("leaky_relu", 0.0), fan_in, order)
    assert zero == relu


@given(widths, st.floats(0.001, 2.0), dropouts)
@settings(max_examples=60, deadline=None)
def test_slope_one_is_linear_is_abs(m: int, order: float, dropout: float) -> None:
    linear = moment_preserving_std(activation_law("linear", None, dropout), m, order)
    assert moment_preserving_std(activation_law("abs", None, dropout), m, order) == linear
    leaky = moment_preserving_std(activation_law("leaky_relu", 1.0, dropout), m, order)
    assert leaky == pytest.approx(linear, rel=1e-13)


@given(st.floats(0.0, 2.0), widths, st.floats(0.05, 2.0))
@settings(max_examples=40, deadline=None)
def test_degenerate_rrelu_and_prelu_are_leaky(a: float, m: int, order: float) -> None:
    leaky = moment_preserving_std(activation_law("leaky_relu", a), m, order)
    for name, param in (("rrelu", (a, a)), ("prelu", a), ("prelu", (a, a, -a))):
        other = moment_preserving_std(activation_law(name, param), m, order)
        assert other == pytest.approx(leaky, rel=1e-13)


@given(st.floats(0.0, 1.0), st.floats(0.01, 1.0), widths, st.floats(0.05, 2.0))
@settings(max_examples=60, deadline=None)
def test_rrelu_lies_between_its_bounds(lower: float, gap: float, m: int, order: float) -> None:
    upper = lower + gap
    low, random, high = (
        moment_preserving_std(activation_law(name, param), m, order)
        for name, param in (("leaky_relu", lower), ("rrelu", (lower, upper)), ("leaky_relu", upper))
    )
    assert high < random < low


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.3, 0.8])
@pytest.mark.parametrize("order", [0.3, 1.5])
def test_single_input_rrelu_to_the_last_digits(share: float, order: float) -> None:
    """m = 1 is the hardest case for the nodes that stand for the slope."""
    mean = uniform_power_mean(0.5 * share, 0.5, order)
    moment = single_input_moment([(1.0, 0.5)], order) * (1.0 + mean)
    std = moment_preserving_std(activation_law("rrelu", (0.5 * share, 0.5)), 1, order)
    assert std == pytest.approx(moment ** (-1 / order), rel=1e-14)


def test_the_two_rrelu_methods_meet() -> None:
    """lower / upper = 0.1 separates Gauss-Legendre slopes from the closed form."""
    below, above = (
        moment_preserving_std(activation_law("rrelu", (lower, 0.5)), 3, 0.7)
        for lower in (0.05 * (1 - 1e-13), 0.05)
    )
    assert below == pytest.approx(above, rel=1e-13)


@pytest.mark.parametrize("name", ["linear", "relu", "leaky_relu", "rrelu", "gelu"])
def test_no_dropout_changes_no_bit(name: str) -> None:
    for order in (0.0, 0.5, 1.0, 2.0):
        plain = moment_preserving_std(activation_law(name), 64, order)
        assert moment_preserving_std(activation_law(name, dropout=0.0), 64, order) == plain


@pytest.mark.parametrize("name", ["linear", "leaky_relu", "rrelu", "tanh", "gelu"])
def test_order_zero_is_the_limit(name: str) -> None:
    law = activation_law(name)
    for fan_in in (1, 8, 64):
        limit = moment_preserving_std(law, fan_in, 0.0)
        assert moment_preserving_std(law, fan_in, 1e-13) == pytest.approx(limit, rel=1e-11)


@pytest.mark.parametrize("case", [("relu", None, 0.0), ("relu", None, 0.5), ("linear", None, 0.9)])
def test_conditional_order_tends_to_order_zero(case: tuple) -> None:
    law = activation_law(*case)
    for fan_in in (1, 2, 8):
        limit = moment_preserving_std(law, fan_in, 0.0)
        near = moment_preserving_std(law, fan_in, 1e-12, conditional=True)
        assert near == pytest.approx(limit, rel=1e-10)


def test_conditional_divides_by_the_survivors() -> None:
    law = activation_law("relu")
    for order in (0.5, 1.0, 2.0):
        exact = moment_preserving_std(law, 4, order)
        conditional = moment_preserving_std(law, 4, order, conditional=True)
        assert exact / conditional == pytest.approx((1 - 0.5**4) ** (-1 / order), rel=1e-14)


@pytest.mark.parametrize(
    ("fan_in", "order", "warned"),
    [(4, 1.0, True), (8, 1.0, False), (8, 0.05, True), (4, 0.0, False)],
)
def test_dead_layer_warning(fan_in: int, order: float, warned: bool) -> None:
    law = activation_law("relu")
    sentence = dead_layer_warning(law, fan_in, order)
    assert (sentence is not None) == warned
    if sentence:
        assert f"{0.5**fan_in:.3g}" in sentence


def test_dead_inflation_values() -> None:
    relu = activation_law("relu")
    assert dead_inflation(relu, 4, 1.0) == pytest.approx(-math.log1p(-(0.5**4)), rel=1e-15)
    assert dead_inflation(relu, 64, 1.0) == pytest.approx(0.5**64, rel=1e-12)
    assert dead_inflation(activation_law("leaky_relu"), 1, 0.001) == 0.0
    heavy = activation_law("relu", dropout=0.999)
    assert dead_inflation(heavy, 2, 1.0) == pytest.approx(-math.log(1 - 0.9995**2), rel=1e-12)


@pytest.mark.parametrize("order", [-0.1, 2.0001, math.nan, math.inf])
def test_order_is_checked(order: float) -> None:
    message = f"`order` must be in [0, 2], got {order}; use 2.0 for Kaiming/LeCun."
    with pytest.raises(ValueError, match=re.escape(message)):
        moment_preserving_std(activation_law("relu"), 8, order)


@pytest.mark.parametrize("fan_in", [0, -3, 2.5])
def test_fan_in_is_checked(fan_in: int) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"`fan_in` must be an integer >= 1, got {fan_in}")
    ):
        moment_preserving_std(activation_law("relu"), fan_in)


def test_unknown_scheme() -> None:
    with pytest.raises(ValueError, match="`scheme` must be one of exact, asymptotic, authors"):
        moment_preserving_std(activation_law("relu"), 8, scheme="fast")


def test_infinite_scale_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="use order 0.0 or conditional=True"):
        moment_preserving_std(activation_law("relu"), 1, 1e-4)
    assert moment_preserving_std(activation_law("relu"), 1, 1e-4, conditional=True) < 2
