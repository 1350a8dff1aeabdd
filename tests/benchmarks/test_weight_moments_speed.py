"""Cost of one sample of the moments, in CPU time of one thread; run `pytest tests/benchmarks`."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from lightning_init.monitoring.moment_metric import WeightMoments
from lightning_init.monitoring.weight_moments import tensor_moments

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.benchmark(timer=time.thread_time, min_time=0.0005),
]

SIZES = [64 * 64, 512 * 512, 1_000_000, 12_582_912]
# Nanoseconds per weight. The first is set by the fixed cost of a call, the last by the memory.
LIMITS = {64 * 64: 60.0, 512 * 512: 2.0, 1_000_000: 2.0, 12_582_912: 3.0}


@pytest.mark.parametrize("size", SIZES)
def test_float32(benchmark: Any, size: int) -> None:
    weights = 0.02 * torch.randn(size, generator=torch.Generator().manual_seed(0))
    benchmark(tensor_moments, weights)
    nanoseconds = benchmark.stats["min"] / size * 1e9
    benchmark.extra_info["ns per weight"] = round(nanoseconds, 3)
    assert nanoseconds < LIMITS[size]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_double_precision_path(benchmark: Any, dtype: torch.dtype) -> None:
    weights = (0.02 * torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))).to(dtype)
    benchmark(tensor_moments, weights)
    nanoseconds = benchmark.stats["min"] / 1e6 * 1e9
    benchmark.extra_info["ns per weight"] = round(nanoseconds, 3)
    assert nanoseconds < 5.0


def test_a_sample_of_sixty_layers(benchmark: Any) -> None:
    weights = [torch.randn(128, 128) for _ in range(60)]
    metric = WeightMoments(len(weights))

    def sample() -> list[float]:
        metric.reset()
        metric.update(weights)
        variances: list[float] = metric.compute().variance.tolist()
        return variances

    assert len(benchmark(sample)) == 60
    assert benchmark.stats["min"] < 0.03
