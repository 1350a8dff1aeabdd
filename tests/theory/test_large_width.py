from __future__ import annotations

import math

import pytest
from law_cases import oracle

from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.fractional_moments import moment_preserving_std
from lightning_init.theory.large_width import asymptotic_std, authors_std

ENTRIES = oracle("asymptotic")["entries"]


def _law(slope: float):
    return activation_law("leaky_relu", slope) if slope else activation_law("relu")


def test_expansions_and_published_formula_match_the_oracle() -> None:
    for entry in ENTRIES:
        law, m, s = _law(entry["a"]), entry["m"], entry["s"]
        assert asymptotic_std(law, m, s, terms=2) ** 2 == pytest.approx(entry["order2"], rel=1e-14)
        assert asymptotic_std(law, m, s) ** 2 == pytest.approx(entry["order3"], rel=1e-14)
        assert authors_std(law, m, s) ** 2 == pytest.approx(entry["authors"], rel=1e-14)
        assert moment_preserving_std(law, m, s) ** 2 == pytest.approx(entry["exact"], rel=1e-14)


@pytest.mark.parametrize("m", [64, 128, 256, 512, 1024, 2048, 4096])
def test_orders_of_convergence(m: int) -> None:
    law = activation_law("relu")
    exact = moment_preserving_std(law, m, 0.5) ** 2
    third = asymptotic_std(law, m, 0.5) ** 2 / exact - 1
    assert 8.5 <= abs(third) * m**3 <= 9.8
    second = asymptotic_std(law, m, 0.5, terms=2) ** 2 / exact - 1
    assert 3.80 <= abs(second) * m**2 <= 3.92


@pytest.mark.parametrize(
    "case",
    [
        ("linear", None, 0.0),
        ("relu", None, 0.5),
        ("rrelu", None, 0.2),
        ("gelu", None, 0.0),
        ("prelu", (0.1, 0.9), 0.0),
    ],
)
def test_third_order_error_falls_as_the_cube(case: tuple) -> None:
    law = activation_law(*case)
    errors = [
        asymptotic_std(law, m, 1.0) / moment_preserving_std(law, m, 1.0) - 1 for m in (500, 1000)
    ]
    assert errors[0] / errors[1] == pytest.approx(8.0, rel=0.1)


@pytest.mark.parametrize("slope", [0.01, 0.1, 0.2])
@pytest.mark.parametrize("m", [64, 784])
@pytest.mark.parametrize("order", [1.0, 1.5, 2.0])
def test_published_formula_is_close_for_small_slopes(slope: float, m: int, order: float) -> None:
    law = activation_law("leaky_relu", slope)
    exact = moment_preserving_std(law, m, order) ** 2
    assert authors_std(law, m, order) ** 2 == pytest.approx(exact, rel=5e-4)


def test_published_formula_is_wrong_for_large_slopes() -> None:
    law = activation_law("leaky_relu", 1.0)
    exact, kaiming = moment_preserving_std(law, 64, 1.0), moment_preserving_std(law, 64, 2.0)
    assert exact > kaiming  # the correction enlarges the scale,
    assert authors_std(law, 64, 1.0) < kaiming  # theirs shrinks it


def test_schemes_of_the_public_function() -> None:
    law = activation_law("relu")
    for scheme, function in (("asymptotic", asymptotic_std), ("authors", authors_std)):
        assert moment_preserving_std(law, 64, 1.0, scheme=scheme) == function(law, 64, 1.0)
    linear = moment_preserving_std(activation_law("linear"), 64, 1.0, scheme="authors")
    assert linear == pytest.approx(math.sqrt(1 / 64 + 1 / (2 * 64**2)), rel=1e-15)
    default_slope = authors_std(activation_law("leaky_relu"), 64, 1.0)
    assert default_slope == authors_std(activation_law("leaky_relu", 0.01), 64, 1.0)


@pytest.mark.parametrize(
    "case", [("rrelu", None, 0.0), ("gelu", None, 0.0), ("prelu", 0.2, 0.0), ("relu", None, 0.5)]
)
def test_published_formula_is_refused_elsewhere(case: tuple) -> None:
    with pytest.raises(ValueError, match="'authors' must be used with linear, relu or leaky_relu"):
        authors_std(activation_law(*case), 64, 1.0)


def test_too_narrow_for_the_formula() -> None:
    with pytest.raises(ValueError, match="at fan_in 1: too narrow for a large-width formula"):
        authors_std(activation_law("leaky_relu", 1.0), 1, 0.0)
