from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_init.stationarity.buffer import INITIAL_CAPACITY, AppendOnlySeries


@given(st.lists(st.floats(allow_nan=False), max_size=3 * INITIAL_CAPACITY))
def test_holds_what_was_appended(values: list[float]) -> None:
    series = AppendOnlySeries()
    for value in values:
        series = series.append(value)
    assert series.values.tolist() == values
    assert series.length == len(values)


@pytest.mark.parametrize("length", [0, 1, INITIAL_CAPACITY - 1, INITIAL_CAPACITY, 200])
def test_branches_do_not_disturb_each_other(length: int) -> None:
    trunk = AppendOnlySeries()
    for value in range(length):
        trunk = trunk.append(float(value))
    left = trunk.append(-1.0).append(-2.0)
    right = trunk.append(7.0)
    assert trunk.values.tolist() == list(range(length))
    assert left.values.tolist() == [*range(length), -1.0, -2.0]
    assert right.values.tolist() == [*range(length), 7.0]


def test_values_are_read_only() -> None:
    series = AppendOnlySeries().append(1.0)
    with pytest.raises(ValueError, match="read-only"):
        series.values[0] = 2.0


def test_a_long_chain_costs_linear_time() -> None:
    series, began = AppendOnlySeries(), time.process_time()
    for value in range(100_000):
        series = series.append(float(value))
    assert time.process_time() - began < 2.0  # copying each time would take minutes
