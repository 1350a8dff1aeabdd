"""The walk over a dataset of a million small objects: at most a second, there and back."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from stopwatch import cpu_seconds

from lightning_init.probe.object_state import capture

COUNT = 1_000_000


class Sample:
    def __init__(self, index: int) -> None:
        self.index = index
        self.parts = [index]


DATASETS: dict[str, Callable[[], Any]] = {
    "numbers": lambda: list(range(COUNT)),
    "pairs": lambda: [(i, str(i)) for i in range(COUNT)],
    "objects": lambda: [Sample(i) for i in range(COUNT)],
    "dictionaries": lambda: {i: {"a": i} for i in range(COUNT)},
    "nested": lambda: [[Sample(j) for j in range(100)] for _ in range(COUNT // 100)],
}


@pytest.mark.parametrize("kind", DATASETS)
def test_a_million_small_objects_take_a_second(kind: str) -> None:
    data = DATASETS[kind]()
    gc.collect()

    def there_and_back() -> None:
        assert capture({"data": data}).restore() == []

    taken = min(cpu_seconds(there_and_back) for _ in range(3))
    print(f"{kind}: {taken:.2f} s")
    assert taken < 1.0
