from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_init.stationarity import ForgettingVerdict, ProbeEnd, compare_starts

positive = st.floats(0.01, 100)


def ornstein_uhlenbeck_end(start: float, memory: float, settled: float) -> float:
    return start * memory + settled * (1 - memory)


@given(first=positive, ratio=st.floats(1.1, 100), memory=st.floats(0, 0.99), settled=positive)
def test_fixed_point_is_exact_on_the_ornstein_uhlenbeck_map(
    first: float, ratio: float, memory: float, settled: float
) -> None:
    starts = (first, first * ratio)
    ends = [ornstein_uhlenbeck_end(start, memory, settled) for start in starts]
    result = compare_starts(ProbeEnd(starts[0], ends[0]), ProbeEnd(starts[1], ends[1]))
    assert result.fixed_point == pytest.approx(settled, rel=1e-8)


@pytest.mark.parametrize("factor", [1 / 20, 1 / 4, 4, 20])
def test_plain_rounds_need_many_probes_where_two_starts_need_two(factor: float) -> None:
    # e = .5: every round halves the distance to the fixed point, as the map says.
    rounds = {1 / 4: 7, 1 / 20: 7, 4: 9, 20: 11}[factor]
    variance = factor
    for _ in range(rounds):
        end = ornstein_uhlenbeck_end(variance, 0.5, 1.0)
        assert abs(end - 1) == pytest.approx(abs(variance - 1) / 2)
        variance = end
    assert abs(math.log(ornstein_uhlenbeck_end(variance, 0.5, 1.0) / variance)) < 0.01
    first = ProbeEnd(factor, ornstein_uhlenbeck_end(factor, 0.5, 1.0))
    second = ProbeEnd(first.end, ornstein_uhlenbeck_end(first.end, 0.5, 1.0))
    assert compare_starts(first, second).fixed_point == pytest.approx(1.0, rel=1e-12)


def test_fixed_point_of_simulated_weights_within_five_percent() -> None:
    generator = np.random.default_rng(4)
    learning_rate, steps, weights = 0.05, 20, 40_000
    settled = learning_rate / (2 - learning_rate)  # curvature 1, noise variance 1, no momentum
    probes = []
    for start in (settled / 4, 4 * settled):
        weight = math.sqrt(start) * generator.standard_normal(weights)
        for _ in range(steps):
            weight = (1 - learning_rate) * weight
            weight = weight - learning_rate * generator.standard_normal(weights)
        end = weight.var()
        probes.append(ProbeEnd(start, end, end * math.sqrt(2 / weights)))
    result = compare_starts(*probes)
    assert result.fixed_point == pytest.approx(settled, rel=0.05)


def test_the_standard_error_is_that_of_the_sampling_distribution() -> None:
    generator = np.random.default_rng(5)
    results = [
        compare_starts(
            ProbeEnd(0.5, 1.2 + 0.01 * generator.standard_normal(), 0.01),
            ProbeEnd(2.0, 1.5 + 0.02 * generator.standard_normal(), 0.02),
        )
        for _ in range(2000)
    ]
    spread = np.std([result.surviving_share for result in results])
    claimed = np.mean([result.standard_error for result in results])
    assert claimed == pytest.approx(spread, rel=0.08)


@pytest.mark.parametrize(
    ("share", "error", "verdict"),
    [
        (0.0, 0.01, "forgotten"),
        (0.05, 0.02, "forgotten"),
        (0.05, 0.05, "inconclusive"),
        (0.0, 0.10, "inconclusive"),
        (0.15, 0.05, "inconclusive"),
        (0.3, 0.05, "remembers"),
        (1.0, 0.02, "remembers"),
        (-0.3, 0.05, "remembers"),
    ],
)
def test_verdict_is_an_equivalence_test(share: float, error: float, verdict: str) -> None:
    distance = math.log(4)
    end = 4**share
    result = compare_starts(ProbeEnd(1.0, 1.0), ProbeEnd(4.0, end, end * error * distance))
    assert result.surviving_share == pytest.approx(share, abs=1e-12)
    assert result.standard_error == pytest.approx(error)
    assert result.verdict is ForgettingVerdict(verdict)


@given(scale=st.floats(1e-6, 1e6))
def test_units_do_not_matter(scale: float) -> None:
    plain = compare_starts(ProbeEnd(1.0, 1.1, 0.01), ProbeEnd(4.0, 1.4, 0.02))
    scaled = compare_starts(
        ProbeEnd(scale, 1.1 * scale, 0.01 * scale),
        ProbeEnd(4 * scale, 1.4 * scale, 0.02 * scale),
    )
    assert scaled.verdict is plain.verdict
    assert scaled.surviving_share == pytest.approx(plain.surviving_share)
    assert scaled.fixed_point == pytest.approx(scale * plain.fixed_point)


def test_order_of_the_probes_does_not_matter() -> None:
    probes = (ProbeEnd(1.0, 1.1, 0.01), ProbeEnd(4.0, 1.4, 0.02))
    forward, backward = compare_starts(*probes), compare_starts(*reversed(probes))
    assert backward.verdict is forward.verdict
    assert backward.surviving_share == pytest.approx(forward.surviving_share)
    assert backward.fixed_point == pytest.approx(forward.fixed_point)


@pytest.mark.parametrize("ends", [(1.0, 4.0), (1.0, 6.0), (2.0, 8.0), (0.5, 3.4)])
def test_no_fixed_point_where_the_slope_is_one_or_the_root_negative(
    ends: tuple[float, float],
) -> None:
    result = compare_starts(ProbeEnd(1.0, ends[0]), ProbeEnd(4.0, ends[1]))
    assert math.isnan(result.fixed_point)


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
@pytest.mark.parametrize("place", ["start", "end"])
def test_a_bad_start_or_end_is_inconclusive(place: str, bad: float) -> None:
    result = compare_starts(replace(ProbeEnd(1.0, 1.0), **{place: bad}), ProbeEnd(4.0, 1.0))
    assert result.verdict is ForgettingVerdict.INCONCLUSIVE
    assert math.isnan(result.surviving_share)
