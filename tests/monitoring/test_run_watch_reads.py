from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from lightning_init.inspection.weights import find_every_weight
from lightning_init.monitoring.weight_moments import measured_variances

READS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__")


def test_a_sample_of_a_watched_run_reads_at_most_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [nn.Embedding(9, 8, padding_idx=0), *[nn.Linear(8, 8) for _ in range(50)]]
    model = nn.Sequential(*layers)
    nn.init.constant_(layers[-1].weight, 0.5)  # takes the second pass
    weights = find_every_weight(model).weights
    reads: list[str] = []

    def counting(name: str, read: Any) -> Any:
        def counted(tensor: Tensor, *arguments: Any, **options: Any) -> Any:
            reads.append(name)
            return read(tensor, *arguments, **options)

        return counted

    for name in READS:
        monkeypatch.setattr(Tensor, name, counting(name, getattr(Tensor, name)))
    variances = measured_variances(model, weights)
    assert len(variances) == 51
    assert variances[-1] == 0.0
    assert 1 <= len(reads) <= 2
