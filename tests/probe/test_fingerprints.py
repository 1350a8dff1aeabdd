"""Checksums of batches: alike for the same data, unlike for other data, of anything in a batch."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_init.probe.fingerprints import SAMPLED_ENTRIES, Fingerprint, fingerprint_of
from lightning_init.probe.real_batches import SHARE_OF_TIME, BatchComparison

Pair = namedtuple("Pair", ["x", "y"])


@dataclass
class Sample:
    x: Any
    name: str


BATCHES: list[Any] = [
    torch.arange(200.0),
    [torch.ones(3), torch.zeros(2)],
    (torch.ones(3), torch.zeros(2), None),
    {"x": torch.ones(3, dtype=torch.bfloat16), "label": 3},
    Pair(torch.ones(2), 1),
    Sample(torch.ones(2), "a"),
    SimpleNamespace(inner=SimpleNamespace(x=torch.ones(4))),
    np.arange(100),
    ["text", b"bytes", 1.5],
    torch.randn(8, 9, 10).permute(2, 0, 1),
    torch.tensor(float("nan")),
    torch.zeros(0),
    torch.eye(3).to_sparse(),
]


@pytest.mark.parametrize("index", range(len(BATCHES)))
def test_a_batch_equals_itself_and_no_other(index: int) -> None:
    own = Fingerprint(BATCHES[index])
    for other, batch in enumerate(BATCHES):
        assert own.equals(Fingerprint(batch)) is (other == index)


@given(st.integers(0, SAMPLED_ENTRIES - 1), st.integers(1, SAMPLED_ENTRIES))
def test_a_small_tensor_counts_whole(position: int, length: int) -> None:
    tensor = torch.zeros(length)
    before = Fingerprint([tensor])
    tensor[position % length] = 1.0
    assert not before.equals(Fingerprint([tensor]))


def test_other_draws_of_a_large_tensor_are_seen() -> None:
    first, second = torch.randn(64, 784), torch.randn(64, 784)
    assert not Fingerprint(first).equals(Fingerprint(second))
    assert Fingerprint(first).equals(Fingerprint(first.clone()))
    # The same samples in another order, as after another shuffle.
    assert not Fingerprint(first).equals(Fingerprint(first.flip(0)))


def test_most_later_batches_are_not_looked_at() -> None:
    kept = [fingerprint_of(torch.zeros(1), number) is not None for number in range(1000)]
    assert all(kept[:32])
    assert sum(kept) < 160


class Clock:
    """Read twice by each comparison, which takes ``look`` seconds; and once by a step left out."""

    def __init__(self, look: float, step: float) -> None:
        self.now, self.look, self.step, self.spent = 1.0, look, step, 0.0
        self.looking = False

    def __call__(self) -> float:
        if self.looking:
            self.now += self.look
            self.spent += self.look
        self.looking = not self.looking
        return self.now

    def take_a_step(self) -> None:
        self.looking = False
        self.now += self.step


@given(look=st.floats(1e-6, 1e-2), step=st.floats(1e-4, 10.0), steps=st.integers(1, 400))
def test_comparing_never_takes_more_than_its_share_and_one_look(
    look: float, step: float, steps: int
) -> None:
    clock = Clock(look, step)
    batch = torch.zeros(1)
    comparison = BatchComparison([Fingerprint(batch)] * 400, clock)
    for _ in range(steps):
        comparison.see(batch)
        clock.take_a_step()
        assert clock.spent <= SHARE_OF_TIME * (clock.now - 1.0) + look * (1 + 1e-9)
    comparison.close()
    # What time there is, is used: another look would have been too much, but for the last step.
    most = 1 + int(SHARE_OF_TIME * (clock.now - 1.0 - step) / look)
    assert min(steps, most) - 1 <= comparison.compared == comparison.identical <= steps


def test_slow_steps_compare_every_batch() -> None:
    clock = Clock(look=1e-5, step=0.1)
    comparison = BatchComparison([Fingerprint(torch.zeros(1))] * 100, clock)
    for _ in range(100):
        comparison.see(torch.zeros(1))
        clock.take_a_step()
    assert comparison.compared == 100


def test_a_comparison_tells_the_first_difference_once() -> None:
    batches = [torch.full((3,), float(i)) for i in range(6)]
    expected = [fingerprint_of(b, i) for i, b in enumerate(batches)]
    comparison = BatchComparison(expected, clock=Clock(look=0.0, step=0.0))
    for batch in (*batches[:2], torch.zeros(3), *batches[3:], torch.zeros(1)):
        comparison.see(batch)
    assert comparison.closed
    assert (comparison.identical, comparison.compared) == (5, 6)
    assert comparison.news() == 3
    assert comparison.news() == 0
    assert BatchComparison(()).closed
