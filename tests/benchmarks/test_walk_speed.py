"""The walks over a dataset of a million small objects: at most a second in all, there and back."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from stopwatch import cpu_seconds
from torch import nn

from lightning_init.probe.data_state import capture
from lightning_init.probe.refusals import _queue_behind

COUNT = 1_000_000


class Sample:
    def __init__(self, index: int) -> None:
        self.index = index
        self.parts = [index]


@dataclass
class Row:
    index: int
    parts: list[int]


def tree(depth: int) -> Any:
    return [tree(depth - 1) for _ in range(10)] if depth else Sample(1)


DATASETS: dict[str, Callable[[], Any]] = {
    "numbers": lambda: list(range(COUNT)),
    "pairs": lambda: [(i, str(i)) for i in range(COUNT)],
    "objects": lambda: [Sample(i) for i in range(COUNT)],
    "dictionaries": lambda: {i: {"a": i} for i in range(COUNT)},
    "dataclasses": lambda: [Row(i, [i]) for i in range(COUNT)],
    "tuples in tuples": lambda: tuple((i, (i, [i])) for i in range(COUNT)),
    "dictionaries in dictionaries": lambda: {
        i: {j: {"a": j} for j in range(1000)} for i in range(COUNT // 1000)
    },
    "tree": lambda: tree(6),
    "nested": lambda: [[Sample(j) for j in range(100)] for _ in range(COUNT // 100)],
}


@pytest.mark.parametrize("kind", DATASETS)
def test_a_million_small_objects_take_a_second(kind: str) -> None:
    data: Any = SimpleNamespace(dataset=SimpleNamespace(rows=DATASETS[kind]()))
    module: Any = nn.Module()
    gc.collect()

    def there_and_back() -> None:
        assert _queue_behind(data, module) == ""
        assert capture({"train_dataloader": data}).restore() == []

    taken = min(cpu_seconds(there_and_back) for _ in range(3))
    print(f"{kind}: {taken:.2f} s")
    assert taken < 1.0
