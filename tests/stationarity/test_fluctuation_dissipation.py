from __future__ import annotations

import math
import re

import numpy as np
import pytest

from lightning_init.stationarity import Verdict
from lightning_init.stationarity.fluctuation_dissipation import (
    Balance,
    BalanceState,
    balance,
    start_balance,
    update_balance,
)
from lightning_init.stationarity.steady_state import steady_state_variance

LEARNING_RATE = 0.05
WEIGHTS = 400


def train(
    momentum: float, weight_decay: float, start_std: float, steps: int, seed: int = 0
) -> tuple[BalanceState, list[float]]:
    """SGD on a quadratic of curvature 1 as torch.optim.SGD does it; also every |w|^2."""
    generator = np.random.default_rng(seed)
    weights = start_std * generator.standard_normal(WEIGHTS)
    buffer = np.zeros(WEIGHTS)
    state = start_balance(LEARNING_RATE, momentum)
    squares = [float(weights @ weights)]
    for _ in range(steps):
        gradient = (1 + weight_decay) * weights + generator.standard_normal(WEIGHTS)
        buffer = momentum * buffer + gradient
        state = update_balance(state, float(weights @ gradient), float(buffer @ buffer))
        weights = weights - LEARNING_RATE * buffer
        squares.append(float(weights @ weights))
    return state, squares


def steady_std(momentum: float, weight_decay: float) -> float:
    return math.sqrt(
        steady_state_variance(LEARNING_RATE, 1.0, momentum, weight_decay, noise_variance=1.0)
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_balances_at_the_steady_state(momentum: float, weight_decay: float) -> None:
    start = steady_std(momentum, weight_decay)
    result = balance(train(momentum, weight_decay, start, steps=2000)[0])
    assert result.verdict is Verdict.STATIONARY
    assert abs(result.imbalance) < 4 * result.standard_error
    assert result.standard_error < 0.02


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_dissipation_wins_while_the_weights_shrink(momentum: float) -> None:
    result = balance(train(momentum, 0.0, 100 * steady_std(momentum, 0.0), steps=40)[0])
    assert result.verdict is Verdict.DRIFTING
    assert result.imbalance > 0.5


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_fluctuation_wins_while_the_weights_grow(momentum: float) -> None:
    # Curvature near zero: V grows for hundreds of steps.
    generator = np.random.default_rng(1)
    weights, buffer = np.zeros(WEIGHTS), np.zeros(WEIGHTS)
    state = start_balance(LEARNING_RATE, momentum)
    for _ in range(300):
        gradient = 0.001 * weights + generator.standard_normal(WEIGHTS)
        buffer = momentum * buffer + gradient
        state = update_balance(state, float(weights @ gradient), float(buffer @ buffer))
        weights = weights - LEARNING_RATE * buffer
    result = balance(state)
    assert result.verdict is Verdict.DRIFTING
    assert result.imbalance < -0.5


def test_imbalance_of_consecutive_steps_is_the_drift_of_the_weights() -> None:
    # The telescoping identity in the module's docstring, without its end terms at momentum 0.
    state, squares = train(0.0, 0.1, 10 * steady_std(0.0, 0.1), steps=100)
    window = slice(-50, None)
    difference = float((state.dissipation.values[window] - state.fluctuation.values[window]).sum())
    drift = (squares[-51] - squares[-1]) / (2 * LEARNING_RATE)
    assert difference == pytest.approx(drift, rel=1e-9)


def test_momentum_matters() -> None:
    # With the formula for momentum 0 a run with momentum .9 seems far out of balance.
    start = steady_std(0.9, 0.0)
    state, _ = train(0.9, 0.0, start, steps=1000)
    wrong = start_balance(LEARNING_RATE, 0.0)
    scale = LEARNING_RATE * 1.9 / 2
    pairs = zip(state.dissipation.values, state.fluctuation.values / scale, strict=True)
    for weight_dot_gradient, buffer_squares in pairs:
        wrong = update_balance(wrong, weight_dot_gradient, buffer_squares)
    assert balance(wrong).imbalance == pytest.approx(0.9, abs=0.1)


def constant(weight_dot_gradient: float, buffer_squares: float, samples: int = 40) -> Balance:
    state = start_balance(0.1)
    for _ in range(samples):
        state = update_balance(state, weight_dot_gradient, buffer_squares)
    return balance(state)


def test_too_few_samples_are_inconclusive() -> None:
    result = constant(0.5, 10.0, samples=39)
    assert result.verdict is Verdict.INCONCLUSIVE
    assert math.isnan(result.imbalance)


def test_no_gradient_at_all_is_inconclusive() -> None:
    assert constant(0.0, 0.0).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_samples_are_invalid(bad: float) -> None:
    assert constant(bad, 10.0).verdict is Verdict.INVALID
    assert constant(0.5, bad).verdict is Verdict.INVALID


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: start_balance(0.0), "`learning_rate` must be positive and finite, got 0.0"),
        (lambda: start_balance(0.1, 1.0), "`momentum` must be in [0, 1), got 1.0"),
        (lambda: balance(start_balance(0.1), tolerance=0.0), "`tolerance` must be positive"),
        (lambda: balance(start_balance(0.1), confidence=1.0), "`probability` must be in [0.5, 1)"),
    ],
)
def test_bad_arguments_are_errors(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()  # type: ignore[operator]
