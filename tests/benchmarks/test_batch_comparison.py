"""The comparison of the run's batches with the probe's: .1 % of a step, whatever a step costs."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from lightning_init.probe.fingerprints import fingerprint_of
from lightning_init.probe.real_batches import SHARE_OF_TIME, BatchComparison

SHORTEST_RUN, LONGEST_PROBE = 3.0, 1000

BATCHES: dict[str, Any] = {
    "images": [torch.randn(32, 3, 32, 32), torch.zeros(32, dtype=torch.long)],
    "tokens": {name: torch.ones(16, 128, dtype=torch.long) for name in "abcd"},
    "transposed": [torch.randn(32, 32, 3, 32).permute(0, 2, 1, 3)],
}


def wait(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.fixture(scope="module")
def passing() -> float:
    """Seconds for a batch whose turn it is not, as the mean over a whole probe."""
    batch = torch.zeros(1)
    expected = [fingerprint_of(batch, number) for number in range(LONGEST_PROBE)]
    # The clock is read, and no time goes by: nothing is looked at after the first batch.
    comparison = BatchComparison(expected, lambda: time.perf_counter() and 1.0)
    comparison.see(batch)
    comparison._spent = 1.0
    began = time.perf_counter()
    for _ in range(LONGEST_PROBE - 2):
        comparison.see(batch)
    return (time.perf_counter() - began) / LONGEST_PROBE


@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("milliseconds", [0.3, 1, 5, 20, 100])
def test_comparing_takes_a_thousandth_of_the_steps(
    milliseconds: float, kind: str, passing: float
) -> None:
    batch = BATCHES[kind]
    steps = min(LONGEST_PROBE, int(SHORTEST_RUN / milliseconds * 1000))
    comparison = BatchComparison([fingerprint_of(batch, i) for i in range(steps)])
    longest, began = 0.0, time.perf_counter()
    for _ in range(steps):
        before = comparison._spent
        comparison.see(batch)
        longest = max(longest, comparison._spent - before)
        wait(milliseconds / 1000)
    taken = time.perf_counter() - began
    looks, rest = comparison._spent / taken, passing * steps / taken
    print(
        f"{kind}, steps of {milliseconds} ms: {looks:.3%} looking, {rest:.3%} passing;"
        f" {comparison.compared} of {steps} compared; the longest took {1e6 * longest:.0f} us"
    )
    assert comparison.identical == comparison.compared
    assert comparison._spent - longest < SHARE_OF_TIME * taken
    assert rest < SHARE_OF_TIME
