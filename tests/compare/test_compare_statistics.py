"""The statistics of a comparison, on simulated differences and by their invariances."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from lightning_init.compare.quantities import MIN, Quantity, Runs
from lightning_init.compare.rank_tests import holm, sign_p, wilcoxon_p
from lightning_init.compare.records import DIVERGED, FINISHED, RunRecord
from lightning_init.compare.statistics import (
    half_widths,
    mean_interval,
    paired_statistics,
    seeds_needed,
)
from lightning_init.compare.tables import BETTER, IDENTICAL, TOO_FEW, WORSE, decide

Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]
# Mean 0 and, where the size of an effect counts, standard deviation 1.
NORMAL: Draw = lambda rng, shape: rng.standard_normal(shape)  # noqa: E731
SKEWED: Draw = lambda rng, shape: rng.lognormal(0.0, 0.5, shape) - math.exp(0.125)  # noqa: E731
HEAVY: Draw = lambda rng, shape: rng.standard_t(5, shape) / math.sqrt(5 / 3)  # noqa: E731


def differences(first: Mapping[int, float], second: Mapping[int, float]) -> Collection[float]:
    """Those of runs that ended with these losses; one of infinity did not finish."""
    runs = [
        RunRecord(
            name, seed, "full", FINISHED if math.isfinite(loss) else DIVERGED, "", final={"l": loss}
        )
        for name, losses in (("first", first), ("second", second))
        for seed, loss in losses.items()
    ]
    return Runs(runs).differences("first", "second", "both", Quantity("l", MIN)).values()


sizes = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
values = st.lists(
    st.tuples(sizes | st.just(math.inf), sizes | st.just(math.inf)), min_size=1, max_size=12
)


@pytest.mark.parametrize("draw", [NORMAL, SKEWED, HEAVY], ids=["normal", "log-normal", "t5"])
def test_the_interval_covers_the_mean_at_20_seeds(draw: Draw) -> None:
    repeats = 3000  # the standard error of a coverage of 95 % is 0.4 %
    samples = draw(np.random.default_rng(11), (repeats, 20))
    half = np.concatenate([half_widths(part, 0.95) for part in np.split(samples, 12)])
    covered = np.mean(np.abs(samples.mean(axis=1)) <= half)
    assert 0.93 <= covered <= 0.97
    # What is simulated is what a comparison uses.
    one = mean_interval(samples[0])
    assert (one.upper - one.lower) / 2 == pytest.approx(half[0])


def test_equal_schemes_are_called_different_in_at_most_5_percent_of_reports() -> None:
    repeats, schemes, seeds = 4000, 4, 20
    rng = np.random.default_rng(5)
    pairs = list(combinations(range(schemes), 2))
    by_rank = by_sign = called = 0
    for _ in range(repeats):
        runs = rng.standard_normal((schemes, seeds))
        wilcoxon = holm([wilcoxon_p(runs[i] - runs[j]) for i, j in pairs])
        rejected = [(pair, p) for pair, p in zip(pairs, wilcoxon, strict=True) if p < 0.05]
        by_rank += bool(rejected)
        by_sign += min(holm([sign_p(runs[i] - runs[j]) for i, j in pairs])) < 0.05
        called += any(_verdict(runs[i], runs[j], p) in (BETTER, WORSE) for (i, j), p in rejected)
    # The standard error of these rates is 0.35 %.
    assert by_rank / repeats <= 0.05
    assert by_sign / repeats <= 0.05
    assert called <= by_rank
    # Neither is it a test that never rejects.
    assert called / repeats >= 0.03


def _verdict(first: NDArray[np.float64], second: NDArray[np.float64], p: float) -> str:
    return decide(paired_statistics(first - second), True, p)


def _power(draw: Draw, effect: float, seeds: int, level: float, repeats: int = 1200) -> float:
    samples = draw(np.random.default_rng(seeds), (repeats, seeds)) + effect
    seen = np.abs(samples.mean(axis=1)) > half_widths(samples, 0.95)
    return float(np.mean([s and wilcoxon_p(d) < level for s, d in zip(seen, samples, strict=True)]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("draw", "effect", "comparisons"),
    [
        (NORMAL, 0.5, 1),
        (NORMAL, 0.8, 1),
        (NORMAL, 1.2, 1),
        (HEAVY, 0.5, 1),
        (HEAVY, 0.8, 1),
        (NORMAL, 0.5, 10),
        (NORMAL, 0.8, 5),
        (HEAVY, 0.8, 10),
    ],
)
def test_the_seeds_needed_are_within_20_percent_of_simulation(
    draw: Draw, effect: float, comparisons: int
) -> None:
    observed = NORMAL(np.random.default_rng(0), (1, 20))[0]
    observed = (observed - observed.mean()) / observed.std(ddof=1) + effect
    needed = seeds_needed(observed, comparisons)
    level = 0.05 / comparisons
    # The simulated number lies between these two if the power crosses 80 % between them; the
    # standard error of a power of 80 % is 1.2 %, and 20 % of the seeds are worth some 8 %.
    assert _power(draw, effect, math.floor(needed / 1.2), level) < 0.8
    assert _power(draw, effect, math.ceil(needed / 0.8), level) >= 0.8


def test_seeds_needed_at_the_edges() -> None:
    assert seeds_needed(np.zeros(20)) == math.inf
    assert math.isnan(seeds_needed(np.array([1.0])))
    # With fewer than six pairs no two-sided p of a signed-rank test is below 5 %.
    assert seeds_needed(np.array([1.0, 1.0, 1.0])) == 6
    # Nor below 0.5 % with fewer than nine.
    assert seeds_needed(np.array([1.0, 1.0, 1.0]), comparisons=10) == 9
    small = np.array([1.0, -1.0] * 10) + 1e-3
    expected = (2.8016 / (1e-3 / small.std(ddof=1))) ** 2 * math.pi / 3
    assert seeds_needed(small) == pytest.approx(expected, rel=1e-3)


def test_the_two_ways_to_count_the_seeds_meet() -> None:
    base = np.array([1.0, -1.0] * 10)
    base /= base.std(ddof=1)
    threshold = 2.8016 / math.sqrt(1000)
    below, above = (seeds_needed(base + threshold * factor) for factor in (0.9999, 1.0001))
    assert below == pytest.approx(above, rel=4e-3)


@pytest.mark.parametrize("n", [3, 6, 11, 24])
def test_the_signed_rank_test_is_scipys_exact_one_without_ties(n: int) -> None:
    differences = np.random.default_rng(n).standard_normal(n) + 0.3
    expected = stats.wilcoxon(differences, method="exact").pvalue
    assert wilcoxon_p(differences) == pytest.approx(expected, rel=1e-9)


def test_the_signed_rank_test_is_counted_out_with_ties_and_zeros() -> None:
    differences = np.array([0.0, 1.0, 1.0, -1.0, 2.0, 2.0, 3.0, -4.0, 5.0, math.inf])
    ranks = stats.rankdata(np.abs(differences))[1:]
    signs = np.array(np.meshgrid(*[[0, 1]] * 9)).reshape(9, -1)
    sums = ranks @ signs
    observed = min(ranks[differences[1:] > 0].sum(), ranks[differences[1:] < 0].sum())
    assert wilcoxon_p(differences) == pytest.approx(2 * np.mean(sums <= observed))


def test_many_pairs_are_tested_by_scipys_normal_approximation() -> None:
    differences = np.random.default_rng(2).normal(0.1, 1, 400)
    expected = stats.wilcoxon(differences, method="approx", zero_method="pratt").pvalue
    assert wilcoxon_p(differences) == pytest.approx(expected, rel=1e-9)
    # And it meets the exact distribution.
    fewer = differences[:200]
    exact = wilcoxon_p(fewer)
    assert exact == pytest.approx(stats.wilcoxon(fewer, method="approx").pvalue, rel=0.02)


def test_holm_stops_at_the_first_that_is_not_rejected() -> None:
    assert holm([0.04, 0.001, 0.03]) == pytest.approx([0.06, 0.003, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_between_the_raw_p_and_bonferronis(p_values: list[float]) -> None:
    corrected = holm(p_values)
    for raw, p in zip(p_values, corrected, strict=True):
        assert raw <= p <= min(1.0, len(p_values) * raw) + 1e-15
    order = sorted(range(len(p_values)), key=lambda i: (p_values[i], corrected[i]))
    assert [corrected[i] for i in order] == sorted(corrected)


def test_two_identical_schemes_have_an_interval_of_exactly_zero() -> None:
    runs = {seed: 0.1 * seed for seed in range(20)}
    found = paired_statistics(differences(runs, runs))
    assert (found["mean_difference"], found["lower"], found["upper"]) == (0.0, 0.0, 0.0)
    assert found["wilcoxon_p"] == found["sign_p"] == 1.0
    assert decide(found, True, 1.0) == IDENTICAL
    assert found["rank_direction"] == 0


def test_equal_differences_are_an_interval_without_width() -> None:
    interval = mean_interval(np.full(5, 0.25))
    assert (interval.lower, interval.upper) == (0.25, 0.25)
    assert interval.lower > 0


def test_one_difference_or_none_bounds_nothing() -> None:
    alone = mean_interval(np.array([0.3]))
    assert alone.mean == 0.3
    assert math.isnan(alone.lower)
    assert math.isnan(alone.upper)
    nothing = paired_statistics(differences({0: 1.0}, {1: 1.0}))
    assert nothing["pairs"] == 0
    assert math.isnan(nothing["wilcoxon_p"])
    assert math.isnan(nothing["mean_difference"])
    assert decide(nothing, True, math.nan) == TOO_FEW


def test_two_runs_that_did_not_finish_tie_but_have_no_mean() -> None:
    first = {0: math.inf, 1: math.inf, 2: 1.0, 3: 2.0}
    second = {0: math.inf, 1: 1.0, 2: 3.0, 3: 5.0}
    found = paired_statistics(differences(first, second))
    assert (found["pairs"], found["pairs_in_interval"]) == (4, 2)
    assert found["mean_difference"] == -2.5
    two = dict.fromkeys(range(2), math.inf)
    unfinished = paired_statistics(differences(two, two))
    assert decide(unfinished, True, 1.0) != IDENTICAL
    assert unfinished["pairs_in_interval"] == 0


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_seeds_have_an_interval_at_least_as_wide_as_students(n: int) -> None:
    samples = np.random.default_rng(n).standard_normal((50, n))
    student = stats.t.ppf(0.975, n - 1) * samples.std(axis=1, ddof=1) / math.sqrt(n)
    assert np.all(half_widths(samples, 0.95) >= student * (1 - 1e-12))
    assert np.all(np.isfinite(half_widths(samples, 0.95)))


def test_one_run_in_twenty_that_differs_bounds_the_mean_by_a_number() -> None:
    differences = np.zeros(20)
    differences[3] = 1.0
    interval = mean_interval(differences)
    assert interval.lower < 0 < interval.mean < interval.upper < 1


@settings(max_examples=60, deadline=None)
@given(values)
def test_swapping_the_schemes_mirrors_everything(pairs: list[tuple[float, float]]) -> None:
    first, second = ({i: pair[side] for i, pair in enumerate(pairs)} for side in (0, 1))
    here = paired_statistics(differences(first, second))
    there = paired_statistics(differences(second, first))
    for same in ("wilcoxon_p", "sign_p", "pairs", "seeds_needed"):
        np.testing.assert_array_equal(here[same], there[same])
    assert here["rank_direction"] == -there["rank_direction"]
    mirrored = [-there[name] for name in ("upper", "mean_difference", "lower", "median_difference")]
    plain = [here[name] for name in ("lower", "mean_difference", "upper", "median_difference")]
    np.testing.assert_array_equal(plain, mirrored)


@settings(max_examples=60, deadline=None)
@given(values, st.randoms(use_true_random=False))
def test_the_order_of_the_seeds_changes_nothing(
    pairs: list[tuple[float, float]], random: Random
) -> None:
    shuffled = random.sample(pairs, len(pairs))
    found = [
        paired_statistics(
            differences(
                {i: first for i, (first, _) in enumerate(order)},
                {i: second for i, (_, second) in enumerate(order)},
            )
        )
        for order in (pairs, shuffled)
    ]
    assert str(found[0]) == str(found[1])  # nan is equal to itself here


@settings(max_examples=60, deadline=None)
@given(st.lists(sizes, min_size=2, max_size=12), st.sampled_from([0.5, 4.0, 1024.0]))
def test_units_scale_the_interval_and_nothing_else(sample: list[float], unit: float) -> None:
    differences = np.array(sample)
    assume(np.ptp(differences) > 0)
    one, other = mean_interval(differences), mean_interval(unit * differences)
    assert other.upper == pytest.approx(unit * one.upper, rel=1e-9, abs=1e-9)
    assert other.lower == pytest.approx(unit * one.lower, rel=1e-9, abs=1e-9)
    assert wilcoxon_p(differences) == wilcoxon_p(unit * differences)
