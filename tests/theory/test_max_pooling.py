from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.fractional_moments import moment_preserving_std
from lightning_init.theory.max_pooling import effective_draws, pooled_name


@given(
    st.sampled_from([("relu", None), ("leaky_relu", 0.2), ("gelu", None), ("tanh", None)]),
    st.floats(1.01, 1000.0),
)
@settings(max_examples=40, deadline=None)
def test_effective_draws_have_the_measured_moment(case: tuple, draws: float) -> None:
    name, param = case
    if name == "tanh":  # of an odd function, two draws have the second moment of one
        draws += 1.5
    parameters = (draws,) if param is None else (param, draws)
    law = activation_law(pooled_name(name), parameters)
    assert effective_draws(name, param, law.mean) == pytest.approx(draws, rel=1e-6)


@given(st.floats(1.0, 500.0), st.floats(1.001, 2.0), st.integers(1, 64), st.floats(0.0, 2.0))
@settings(max_examples=30, deadline=None)
def test_more_draws_are_larger(draws: float, more: float, fan_in: int, order: float) -> None:
    few, many = (activation_law("relu_max_pool", k) for k in (draws, draws * more))
    assert few.mean < many.mean
    assert few.dead_probability >= many.dead_probability
    stds = [moment_preserving_std(law, fan_in, order, conditional=True) for law in (few, many)]
    if fan_in > 1:  # a single small output, given that it is alive, is a lower order's own matter
        assert stds[0] > stds[1]


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.8])
def test_correlated_draws_amount_to_fewer(correlation: float) -> None:
    """Four draws of equal correlation: the effective law holds at order 1 as well, within 1 %."""
    rng = np.random.default_rng(2)
    shared, own = rng.standard_normal((400_000, 1)), rng.standard_normal((400_000, 4))
    z = math.sqrt(correlation) * shared + math.sqrt(1.0 - correlation) * own
    pooled = np.maximum(z, 0.0).max(1)
    draws = effective_draws("relu", None, float((pooled**2).mean()))
    assert draws == pytest.approx(4.0, rel=0.03) if correlation == 0.0 else draws < 3.9
    law = activation_law("relu_max_pool", draws)
    norms = np.sqrt((pooled.reshape(-1, 16) ** 2).sum(1))
    assert moment_preserving_std(law, 16, 1.0) == pytest.approx(1.0 / norms.mean(), rel=0.01)


def test_what_no_number_of_draws_explains_gets_the_nearest() -> None:
    assert effective_draws("relu", None, 0.1) == 1.0
    assert effective_draws("tanh", None, 2.0) == pytest.approx(1e6, rel=1e-9)
    with pytest.raises(ValueError, match="does not rise from 0 on"):
        effective_draws("sine", 1.0, 0.5)
    with pytest.raises(ValueError, match="must be an activation with pooling, got 'nothing'"):
        effective_draws("nothing", None, 0.5)
