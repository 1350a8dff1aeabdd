"""The split of |w|^2's motion: laws, and the steady states of simulated training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_init.stationarity.forces import (
    DriveLaw,
    Forces,
    decay_per_step,
    noise_steady_state,
    split_forces,
)

SGD = json.loads((Path(__file__).parents[1] / "oracles" / "sgd.json").read_text())["entries"]
STEPS = list(range(0, 1001, 10))
DECAY = 2e-3


def relaxing(start: float, end: float, decay: float = DECAY, power: int = 1) -> list[float]:
    """S^power goes from `start` to `end`, both given as S, as fast as decay lets it."""
    kept = (1 - decay) ** power
    low, high = end**power, start**power
    return [(low + (high - low) * kept**step) ** (1 / power) for step in STEPS]


def split(squares: list[float], decay: float = DECAY, memory: float = 0.0) -> Forces:
    return split_forces(STEPS, squares, [decay] * len(squares), memory)


class TestLaws:
    @given(st.floats(0.1, 10), st.floats(0.01, 100))
    def test_a_constant_drive_relaxes_by_decay_alone(self, start: float, scale: float) -> None:
        if abs(math.log(start)) < 0.1:
            return
        found = split([scale * value for value in relaxing(start, 1.0)])
        assert found.law is DriveLaw.CONSTANT
        assert found.relaxation_steps == pytest.approx(1 / DECAY, rel=2e-3)
        assert found.steady_ratio * relaxing(start, 1.0)[-1] == pytest.approx(1.0, rel=1e-6)

    @given(st.floats(0.1, 10))
    def test_an_inverse_drive_relaxes_twice_as_fast(self, start: float) -> None:
        if abs(math.log(start)) < 0.1:
            return
        series = relaxing(start, 1.0, power=2)
        found = split(series)
        assert found.law is DriveLaw.INVERSE
        assert found.relaxation_steps == pytest.approx(0.5 / DECAY, rel=2e-3)
        assert found.steady_ratio * series[-1] == pytest.approx(1.0, rel=1e-6)

    @pytest.mark.parametrize("decay", [0.0, 5e-4])
    @pytest.mark.parametrize("start", [0.1, 7.0])
    def test_curvature_relaxes_at_a_rate_of_its_own(self, start: float, decay: float) -> None:
        series = relaxing(start, 1.0, decay=4e-3)
        found = split(series, decay)
        assert found.law is DriveLaw.LINEAR
        assert found.relaxation_steps == pytest.approx(1 / 4e-3, rel=3e-3)
        assert found.steady_ratio * series[-1] == pytest.approx(1.0, rel=1e-6)

    def test_without_decay_a_steady_growth_never_ends(self) -> None:
        found = split([1 + 1e-3 * step for step in STEPS], decay=0.0)
        assert found.law is DriveLaw.UNKNOWN
        assert found.relaxation_steps == math.inf
        assert math.isnan(found.steady_ratio)
        assert found.drive == pytest.approx(1e-3 / 1.75, rel=1e-3)
        assert found.decay == 0.0

    def test_what_is_balanced_has_equal_forces_and_what_is_idle_none(self) -> None:
        balanced, idle = split([3.0] * len(STEPS)), split([3.0] * len(STEPS), decay=0.0)
        assert balanced.drive == pytest.approx(balanced.decay) == pytest.approx(DECAY)
        assert balanced.steady_ratio == pytest.approx(1.0)
        assert idle.drive == idle.decay == 0.0


class TestInvariances:
    @given(st.floats(1e-12, 1e12))
    def test_a_common_factor_changes_nothing(self, factor: float) -> None:
        series = [v * (1 + 1e-3 * math.sin(7 * i)) for i, v in enumerate(relaxing(3.0, 1.0))]
        one, other = split(series), split([factor * value for value in series])
        assert one.law is other.law
        for name in ("drive", "decay", "relaxation_steps", "steady_ratio"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-6)

    def test_forces_are_the_rate_of_log_v(self) -> None:
        series = relaxing(3.0, 1.0)
        found = split(series)
        rate = math.log(series[-1] / series[50]) / (STEPS[-1] - STEPS[50])
        assert found.drive - found.decay == pytest.approx(rate, rel=0.02)

    def test_denser_samples_at_the_start_change_little(self) -> None:
        dense = sorted({*range(0, 100, 3), *STEPS})
        kept = 1 - DECAY
        squares = [1 + 2 * kept**step for step in dense]
        found = split_forces(dense, squares, [DECAY] * len(dense))
        assert found.law is DriveLaw.CONSTANT
        assert found.steady_ratio * squares[-1] == pytest.approx(1.0, rel=2e-3)

    @pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
    def test_what_is_not_positive_and_finite_is_unknown(self, bad: float) -> None:
        series = relaxing(3.0, 1.0)
        series[40] = bad
        assert split(series).law is DriveLaw.UNKNOWN
        assert math.isnan(split(series).drive)

    @pytest.mark.parametrize("count", range(10))
    def test_short_series_say_what_they_can(self, count: int) -> None:
        found = split_forces(STEPS[:count], relaxing(3.0, 1.0)[:count], [DECAY] * count)
        assert math.isnan(found.drive) == (count < 3)
        assert found.steady_ratio > 0 or math.isnan(found.steady_ratio)


class TestClosedForms:
    @given(st.floats(1e-5, 0.1), st.floats(1e-3, 1.0), st.floats(0.0, 0.99))
    def test_decay_is_what_one_step_without_gradient_takes(
        self, rate: float, decay: float, momentum: float
    ) -> None:
        weight = 1 - rate * decay
        assert decay_per_step(rate, decay) == pytest.approx(1 - weight**2, rel=1e-6, abs=1e-15)
        coupled = decay_per_step(rate, decay, momentum, coupled=True)
        assert coupled == pytest.approx(decay_per_step(rate / (1 - momentum), decay))

    @given(st.floats(1e-5, 0.1), st.floats(1e-3, 1.0))
    def test_noise_of_unit_steps_and_decay_balance(self, rate: float, decay: float) -> None:
        variance = noise_steady_state(rate, decay)
        after = (1 - rate * decay) ** 2 * variance + rate**2
        assert after == pytest.approx(variance, rel=1e-9)

    def test_without_decay_there_is_no_steady_state(self) -> None:
        assert math.isnan(noise_steady_state(0.1, 0.0))
        assert math.isnan(noise_steady_state(0.0, 0.1))


# ------------------------------------------------------------------- simulated training
# Series of two relaxation times, from a quarter of the steady variance and from four times it. The
# sizes make the chance fluctuation of |w|^2, sqrt(2/d) of it, small beside what is asked.
# Five paths a case; the plain suite runs the first.
every_path = pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))]
)


def observed(
    weights: torch.Tensor,
    step: Callable[[], None],
    relaxation: float,
    decay: float,
    memory: float,
) -> tuple[Forces, float]:
    """Forces from a series of two relaxation times, and the squared weights at its end."""
    count = round(2 * relaxation)
    every = max(1, count // 100)
    steps, squares = [0], [weights.double().square().sum().item()]
    for number in range(1, count + 1):
        step()
        if number % every == 0:
            steps.append(number)
            squares.append(weights.double().square().sum().item())
    return split_forces(steps, squares, [decay] * len(steps), memory), squares[-1]


def assert_predicted(found: Forces, at_end: float, steady: float, relaxation: float) -> None:
    assert found.steady_ratio * at_end == pytest.approx(steady, rel=0.03)
    assert found.relaxation_steps == pytest.approx(relaxation, rel=0.05)


def quadratic_under_sgd(
    rate: float, curvature: float, momentum: float, decay: float
) -> tuple[float, float]:
    """Variance for unit gradient noise (Liu, Ziyin & Ueda 2021, arXiv 2012.03636), relaxation."""
    stiffness = curvature + decay
    damping = (1 - momentum) * stiffness
    variance = rate / (damping * (2 - rate * stiffness / (1 + momentum)))
    return variance, (1 - momentum) / (2 * rate * stiffness)


@pytest.mark.parametrize("entry", [entry for entry in SGD if "curvature" in entry])
def test_the_quadratic_matches_the_oracle(entry: dict) -> None:
    law = entry["lr"], entry["curvature"], entry["momentum"], entry["weight_decay"]
    variance, relaxation = quadratic_under_sgd(*law)
    assert variance * entry["noise_var"] == pytest.approx(entry["V"], rel=1e-13)
    assert relaxation == pytest.approx(entry["relaxation_steps"], rel=1e-13)


@every_path
@pytest.mark.parametrize("start", [0.25, 4.0])
@pytest.mark.parametrize(
    ("rate", "momentum", "decay"), [(0.005, 0.0, 0.0), (0.005, 0.0, 0.5), (2e-4, 0.9, 0.0)]
)
def test_the_quadratic(start: float, rate: float, momentum: float, decay: float, seed: int) -> None:
    size, curvature = 200_000, 1.0
    variance, relaxation = quadratic_under_sgd(rate, curvature, momentum, decay)
    steady = size * variance
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(size, generator=generator) * math.sqrt(start * steady / size)
    buffer, noise = torch.zeros(size), torch.empty(size)

    def step() -> None:
        noise.normal_(generator=generator)
        buffer.mul_(momentum).add_(weights, alpha=curvature + decay).add_(noise)
        weights.sub_(buffer, alpha=rate)

    per_step = decay_per_step(rate, decay, momentum, coupled=True)
    found, at_end = observed(weights, step, relaxation, per_step, 1 / (1 - momentum))
    assert found.law is DriveLaw.LINEAR
    assert_predicted(found, at_end, steady, relaxation)


@every_path
@pytest.mark.parametrize("start", [0.25, 4.0])
def test_noise_under_adamw(start: float, seed: int) -> None:
    size, rate, decay = 100_000, 1e-3, 1.0
    steady = size * noise_steady_state(rate, decay)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(size, generator=generator) * math.sqrt(start * steady / size)
    weights = torch.nn.Parameter(first)
    weights.grad = torch.empty(size)
    optimizer = torch.optim.AdamW([weights], lr=rate, weight_decay=decay)

    def step() -> None:
        assert weights.grad is not None
        weights.grad.normal_(generator=generator)
        optimizer.step()

    relaxation = 1 / (2 * rate * decay)
    found, at_end = observed(
        weights.detach(), step, relaxation, decay_per_step(rate, decay), memory=10.0
    )
    assert found.law is DriveLaw.CONSTANT
    assert_predicted(found, at_end, steady, relaxation)


@every_path
@pytest.mark.parametrize("start", [0.25, 4.0])
@pytest.mark.parametrize(("rate", "momentum", "decay"), [(0.05, 0.0, 0.02), (2e-3, 0.9, 0.02)])
def test_a_scale_invariant_weight_under_sgd(
    start: float, rate: float, momentum: float, decay: float, seed: int
) -> None:
    size = 5_000
    effective = rate / (1 - momentum)
    # The gradient at unit norm has unit variance in each of the directions along the sphere.
    steady = math.sqrt(effective * (size - 1) / (2 * decay))
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(size, generator=generator)
    weights = torch.nn.Parameter(first * math.sqrt(start * steady) / first.norm())
    optimizer = torch.optim.SGD([weights], lr=rate, momentum=momentum, weight_decay=decay)

    def step() -> None:
        with torch.no_grad():
            norm = weights.norm()
            kick = torch.randn(size, generator=generator)
            kick -= (kick @ weights) / norm**2 * weights
        weights.grad = kick / norm
        optimizer.step()

    relaxation = 1 / (4 * effective * decay)
    per_step = decay_per_step(rate, decay, momentum, coupled=True)
    memory = 1 / (1 - momentum)
    found, at_end = observed(weights.detach(), step, relaxation, per_step, memory)
    assert found.law is DriveLaw.INVERSE
    assert_predicted(found, at_end, steady, relaxation)


def test_a_stationary_series_predicts_itself() -> None:
    generator = np.random.default_rng(0)
    level, series = 0.0, []
    for _ in STEPS:
        level = 0.98 * level + 0.002 * generator.standard_normal()
        series.append(math.exp(level))
    found = split(series)
    assert found.steady_ratio * series[-1] == pytest.approx(1.0, rel=0.03)
    assert found.law is DriveLaw.CONSTANT
