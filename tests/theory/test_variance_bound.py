from __future__ import annotations

import math
import re
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from law_cases import oracle
from scipy import integrate, optimize, stats

from lightning_init.theory.variance_bound import (
    SteadyState,
    excess_kl_per_weight,
    kl_per_weight,
    optimal_initial_variances,
)

positive = st.floats(1e-9, 1e9)
layers_strategy = st.lists(
    st.builds(
        SteadyState,
        count=st.integers(1, 10**6),
        variance=positive,
        base_variance=positive,
    ),
    min_size=1,
    max_size=4,
)


def test_oracle() -> None:
    for entry in oracle("kl")["entries"]:
        excess = excess_kl_per_weight(entry["r"] * 0.3, 0.3)
        assert excess == pytest.approx(entry["excess_kl_per_weight"], rel=1e-12, abs=1e-30)


@given(st.floats(-1e-3, 1e-3))
def test_accurate_near_ratio_one(x: float) -> None:
    x = (1.0 + x) - 1.0  # the ratio that float64 can hold
    series = x**2 / 4 - x**3 / 6 + x**4 / 8 - x**5 / 10 + x**6 / 12
    assert kl_per_weight(1.0 + x, 1.0) == pytest.approx(series, rel=1e-12)


@pytest.mark.parametrize("x", [1e-8, -1e-8, 1e-12, 1e-15])
def test_tiny_deviations_are_not_lost(x: float) -> None:
    x = (1.0 + x) - 1.0
    assert kl_per_weight(1.0 + x, 1.0) == pytest.approx(x * x / 4, rel=2e-8)


@pytest.mark.parametrize("ratio", [0.5, 1.5, 0.4999999, 1.5000001])
def test_series_meets_the_direct_formula(ratio: float) -> None:
    direct = 0.5 * (ratio - 1 - math.log(ratio))
    assert kl_per_weight(ratio, 1.0) == pytest.approx(direct, rel=1e-14)


@pytest.mark.parametrize(("variance", "initial", "mean"), [(1.0, 2.0, 0.0), (0.3, 0.1, 0.2)])
def test_is_the_integral_it_claims_to_be(variance: float, initial: float, mean: float) -> None:
    p, q = stats.norm(mean, math.sqrt(variance)), stats.norm(0, math.sqrt(initial))
    integral, _ = integrate.quad(lambda w: p.pdf(w) * (p.logpdf(w) - q.logpdf(w)), -12, 12)
    assert kl_per_weight(variance, initial, mean) == pytest.approx(integral, rel=1e-9)


@given(positive, positive, positive)
def test_is_scale_free_and_least_at_equality(v: float, initial: float, factor: float) -> None:
    kl = kl_per_weight(v, initial)
    assert kl >= 0
    assert kl_per_weight(v * factor, initial * factor) == pytest.approx(kl, rel=1e-9, abs=1e-24)
    assert kl_per_weight(v, v) == 0.0


def bound(second_moment: float, initial: np.ndarray | float) -> np.ndarray | float:
    """The bound per weight in units of T, without log Z."""
    return 0.5 * (np.log(2 * math.pi * initial) + second_moment / initial)


@given(positive)
def test_the_excess_is_that_of_the_bound_over_its_least_value(v: float) -> None:
    grid = v * np.geomspace(0.1, 10, 201)
    curve = bound(v, grid)
    assert int(curve.argmin()) == 100
    excess = [excess_kl_per_weight(float(value), v) for value in grid]
    np.testing.assert_allclose(curve - curve[100], excess, atol=1e-9)


@given(layers_strategy)
def test_per_layer_optimum_is_the_second_moment(layers: list[SteadyState]) -> None:
    assert optimal_initial_variances(layers) == tuple(layer.variance for layer in layers)


@settings(max_examples=50, deadline=None)
@given(layers_strategy)
def test_shared_optima(layers: list[SteadyState]) -> None:
    d, v, base = np.array([astuple(layer) for layer in layers]).T
    mean = (d @ v) / d.sum()
    shared = optimal_initial_variances(layers, "global")
    assert shared == pytest.approx([mean] * len(layers), rel=1e-12)
    gain = optimal_initial_variances(layers, "gain")
    g = (d @ (v / base)) / d.sum()
    assert gain == pytest.approx((g * base).tolist(), rel=1e-12)


def test_shared_gain_minimises_the_summed_bound() -> None:
    layers = [SteadyState(40, 0.31, 2 / 16), SteadyState(200, 0.02, 2 / 64)]

    def summed(log_gain: float) -> float:
        gain = math.exp(log_gain)
        return sum(d * float(bound(v, gain * base)) for d, v, base in map(astuple, layers))

    best = optimize.minimize_scalar(
        summed, bounds=(-5, 5), method="bounded", options={"xatol": 1e-9}
    )
    optimum = optimal_initial_variances(layers, "gain")
    assert optimum[0] / layers[0].base_variance == pytest.approx(math.exp(best.x), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_variances_are_checked(value: float) -> None:
    message = f"must be positive and finite, got {value}; leave the layer out instead."
    for call in (
        lambda: kl_per_weight(value, 1.0),
        lambda: kl_per_weight(1.0, value),
        lambda: optimal_initial_variances([SteadyState(1, value)]),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


def test_names_are_checked() -> None:
    layers = [SteadyState(1, 1.0)]
    with pytest.raises(
        ValueError, match="`granularity` must be one of layer, global, gain, got 'net'"
    ):
        optimal_initial_variances(layers, "net")
    with pytest.raises(ValueError, match="`layers` must hold at least one layer, got none"):
        optimal_initial_variances([])
