from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from models import Regression, fit
from torch import Tensor, nn

from lightning_init import OptimalVarianceInit
from lightning_init.monitoring.weight_moments import sample_moments
from lightning_init.search.probe_phase import VarianceProbe

READS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__")
LAYERS = 100


class Reads:
    """Counts what brings numbers of a tensor to the host while it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self._open = False
        for name in READS:
            monkeypatch.setattr(Tensor, name, self._counting(name, getattr(Tensor, name)))

    def _counting(self, name: str, read: Any) -> Any:
        def counted(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            if self._open:
                self.names.append(name)
            return read(tensor, *arguments, **options)

        return counted

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        self.names, self._open = [], True
        yield self.names
        self._open = False


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def deep() -> nn.Module:
    widths = [16, *[8] * (LAYERS - 1), 4]
    return nn.Sequential(*[nn.Linear(a, b) for a, b in itertools.pairwise(widths)])


@pytest.mark.filterwarnings("ignore:.*had not settled")
def test_a_sample_of_a_hundred_layers_reads_twice(
    reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[list[str]] = []
    on_step = VarianceProbe._on_step

    def counted(probe: VarianceProbe, copied: Any, step: int, outputs_of_step: Any) -> bool:
        with reads.counting() as names:
            stops = on_step(probe, copied, step, outputs_of_step)
        counts.append(names)
        return stops

    monkeypatch.setattr(VarianceProbe, "_on_step", counted)
    callback = OptimalVarianceInit(
        16, sample_every_n_steps=1, verbose=False, on_unsettled="use", verify_steps=0, watch=False
    )
    fit(Regression(deep()), callback, max_epochs=2)
    assert callback.report is not None
    assert len(callback.report.layers) == LAYERS
    assert len(counts) == 16
    assert max(map(len, counts[:-1])) <= 2, counts[0]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: torch.randn(40, 40), 1),
        (lambda: torch.randn(300, 300), 1),
        (lambda: torch.randn(600, 600), 1),
        (lambda: torch.randn(300, 300).bfloat16(), 1),
        (lambda: torch.ones(40, 40), 2),
    ],
)
def test_one_copy_however_many_layers_and_one_more_for_the_doubtful(
    make: Any, expected: int, reads: Reads
) -> None:
    tensors = [make() for _ in range(5)]
    with reads.counting() as names:
        sample_moments(tensors)
    assert len(names) == expected
