from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_init.stationarity.decision import Verdict
from lightning_init.stationarity.run_verdict import run_verdict, was_right


def test_a_run_that_relaxed_early_is_stationary() -> None:
    values = 1 + np.exp(-np.arange(400) / 20)
    assert run_verdict(values).verdict is Verdict.STATIONARY
    assert run_verdict(values).variance == pytest.approx(1.0, rel=1e-6)


def test_growth_says_by_how_much() -> None:
    found = run_verdict(np.exp(np.arange(400) / 400))
    assert found.verdict is Verdict.DRIFTING
    assert found.change == pytest.approx(math.exp(0.5 * (1 - 0.125)) - 1, rel=0.01)


def test_noise_that_hides_the_answer_is_inconclusive() -> None:
    noise = np.random.default_rng(0).normal(0, 0.5, 100)
    assert run_verdict(np.exp(noise)).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("length", [0, 1, 2, 39])
def test_too_few_samples_are_inconclusive(length: int) -> None:
    found = run_verdict([2.0] * length)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert math.isnan(found.variance) == (length == 0)
    assert math.isnan(found.change) == (length < 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_values_that_are_no_variance_are_invalid(bad: float) -> None:
    assert run_verdict([1.0] * 50 + [bad]).verdict is Verdict.INVALID


@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 50))
def test_units_do_not_matter(scale: float, seed: int) -> None:
    walk = np.exp(np.random.default_rng(seed).normal(0, 0.02, 80).cumsum())
    one, other = run_verdict(walk), run_verdict(scale * walk)
    assert one.verdict is other.verdict
    assert other.variance == pytest.approx(scale * one.variance)


@pytest.mark.parametrize(
    ("verdict", "moved", "right"),
    [
        (Verdict.STATIONARY, 1.12, True),
        (Verdict.STATIONARY, 1 / 1.14, False),
        (Verdict.DRIFTING, 1.07, False),
        (Verdict.DRIFTING, 0.9, True),
        (Verdict.INCONCLUSIVE, 1.0, None),
        (Verdict.INVALID, 1.0, None),
        (Verdict.STATIONARY, math.nan, None),
        (Verdict.STATIONARY, 0.0, None),
    ],
)
def test_verdicts_in_hindsight(verdict: Verdict, moved: float, right: bool | None) -> None:
    assert was_right(verdict, 0.5, 0.5 * moved) is right
