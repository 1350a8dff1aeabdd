from __future__ import annotations

import math

import numpy as np
import pytest
from law_cases import ELEMENTWISE_CASES, HOMOGENEOUS_CASES, case_id, oracle, oracle_law
from scipy import special
from slow_moments import log_binomial, rrelu_deficit, transform_mean_log

from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.fractional_moments import moment_preserving_std
from lightning_init.theory.log_norm import (
    LogNormLaw,
    log_norm_law,
)
from lightning_init.theory.squared_norm import squared_norm_moments

ORDERS = (0.5, 1.0, 1.5, 2.0)


@pytest.mark.parametrize(
    "entry", oracle("lognorm")["entries"], ids=lambda e: f"{e['activation']}-{e['width']}"
)
def test_oracle(entry: dict) -> None:
    law, width = oracle_law(entry), entry["width"]
    moments = squared_norm_moments(law, width)
    mean_log = moments.mean_log + math.log(moments.mean)
    assert mean_log == pytest.approx(float(entry["mean_log_Q"]), rel=1e-12, abs=1e-12)
    assert moments.variance_log == pytest.approx(float(entry["var_log_Q"]), rel=1e-10)
    assert moments.dead_probability == pytest.approx(float(entry["p_dead"]), rel=1e-12)
    for order, expected in entry["by_s"].items():
        step = log_norm_law(law, width, float(order))
        assert step.drift == pytest.approx(float(expected["drift"]), rel=1e-9, abs=1e-14)
        assert step.variance == pytest.approx(float(entry["var_per_layer"]), rel=1e-10)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("width", [1, 3, 40, 1500])
def test_closed_sums(width: int, dropout: float) -> None:
    """Given k survivors log Q is log chi2_k; ReLU and dropout only thin the inputs."""
    for name, keep in (("linear", 1 - dropout), ("relu", 0.5 * (1 - dropout))):
        k = np.arange(1, width + 1)
        weights = np.exp(log_binomial(width, keep))[1:]
        weights /= weights.sum()
        means = special.digamma(k / 2) + math.log(2)
        mean = float(weights @ means)
        variance = float(weights @ (special.polygamma(1, k / 2) + (means - mean) ** 2))
        moments = squared_norm_moments(activation_law(name, dropout=dropout), width)
        scale = math.log(moments.mean * (1 - dropout) ** 2)
        assert moments.mean_log + scale == pytest.approx(mean, rel=1e-11, abs=1e-11)
        assert moments.variance_log == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("bounds", [(0.125, 1 / 3), (-0.2, 0.3)])
def test_rrelu_mean_log_by_another_identity(bounds: tuple[float, float]) -> None:
    moments = squared_norm_moments(activation_law("rrelu", bounds), 3)
    expected = transform_mean_log(rrelu_deficit(*bounds), 3)
    assert moments.mean_log + math.log(moments.mean) == pytest.approx(expected, abs=1e-8)


def test_spot_values() -> None:
    step = log_norm_law(activation_law("relu"), 64, 1.0)
    assert (round(step.variance, 6), round(step.drift, 6)) == (0.020749, -0.010196)
    drifts = [round(log_norm_law(activation_law("linear"), 64, order).drift, 6) for order in ORDERS]
    assert drifts == [-0.001979, -0.003947, -0.005905, -0.007853]


@pytest.mark.parametrize("case", HOMOGENEOUS_CASES + ELEMENTWISE_CASES, ids=case_id)
@pytest.mark.parametrize("width", [1, 8, 64, 784])
def test_drift_is_negative_and_vanishes_at_order_zero(case: tuple, width: int) -> None:
    law = activation_law(*case)
    assert abs(log_norm_law(law, width, 0.0).drift) < 1e-14
    # Conditional on survival Jensen holds whatever the dead atom.
    scales = [moment_preserving_std(law, width, order, conditional=True) for order in ORDERS]
    drifts = [log_norm_law(law, width, std=std).drift for std in scales]
    assert all(drift < 0 for drift in drifts)
    assert np.all(np.diff(drifts) < 0)


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0])
def test_drift_is_minus_half_the_order_times_the_variance(order: float) -> None:
    step = log_norm_law(activation_law("relu"), 4096, order)
    assert step.drift == pytest.approx(-order / 2 * step.variance, rel=1e-3)


def test_depth_accumulates() -> None:
    law = activation_law("relu")
    scales = [(width, moment_preserving_std(law, fan_in)) for fan_in, width in ((8, 4), (4, 16))]
    steps = [log_norm_law(law, width, std=std) for width, std in scales]
    both = steps[0] + steps[1]
    assert both.drift == steps[0].drift + steps[1].drift
    assert both.dead_probability == pytest.approx(1 - (1 - 2**-4) * (1 - 2**-16), rel=1e-12)
    repeated = steps[0].repeated(3)
    added = steps[0] + steps[0] + steps[0]
    assert repeated.drift == pytest.approx(added.drift, rel=1e-14)
    assert repeated.dead_probability == pytest.approx(added.dead_probability, rel=1e-12)


def test_small_output_probabilities_match_the_stored_approximation() -> None:
    for key, (sampled, gaussian, _) in oracle("small_output")["entries"].items():
        name, depth, order = key.split("|")
        law = activation_law("leaky_relu", 0.01) if "leaky" in name else activation_law(name)
        total = log_norm_law(law, 64, float(order)).repeated(int(depth))
        below = total.probability_below(0.1)
        assert below == pytest.approx(gaussian, rel=1e-6)
        if depth == "100":
            error = math.sqrt(sampled * (1 - sampled) / 200_000)
            assert abs(below - sampled) < 0.002 + 4 * error
        elif sampled > 2e-4:
            assert 0.5 * sampled < below < 0.85 * sampled  # the documented known error


def test_probability_below_counts_dead_layers_and_degenerate_steps() -> None:
    law = LogNormLaw(drift=0.0, variance=1.0, dead_probability=0.25)
    assert law.probability_below(1.0) == pytest.approx(0.25 + 0.75 * 0.5)
    assert LogNormLaw(0.0, 0.0).probability_below(0.5) == 0.0
    assert LogNormLaw(-1.0, 0.0).probability_below(0.5) == 1.0


def test_errors() -> None:
    law = activation_law("relu")
    with pytest.raises(ValueError, match="`ratio` must be positive, got 0"):
        log_norm_law(law, 8).probability_below(0.0)
    with pytest.raises(ValueError, match="`depth` must be an integer >= 0, got -1"):
        log_norm_law(law, 8).repeated(-1)
    with pytest.raises(ValueError, match="`std` must be positive, got 0"):
        log_norm_law(law, 8, std=0.0)
    with pytest.raises(ValueError, match="`fan_in` must be an integer >= 1, got 0"):
        log_norm_law(law, 0)
    with pytest.raises(ValueError, match="`order` must be in"):
        log_norm_law(law, 8, 3.0)
