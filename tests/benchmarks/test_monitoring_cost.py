"""Cost of monitoring per training step at the default interval; run `pytest tests/benchmarks`.

Both sides are CPU times of one thread of one process, so that other work on the machine counts for
neither. The sample includes the detectors' updates and checks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from monitored_models import mlp, resnet, training_step, transformer

from lightning_init import OptimalVarianceInit
from lightning_init.callbacks.variance_monitor import VarianceMonitor
from lightning_init.inspection.weights import find_weights

PROBE_STEPS = 1000


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def cpu_seconds(work: Callable[[], Any]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


@pytest.mark.parametrize(
    ("make", "samples", "steps"), [(mlp, 100, 100), (resnet, 40, 10), (transformer, 10, 3)]
)
def test_monitoring_costs_at_most_one_per_cent_of_a_step(
    make: Any, samples: int, steps: int
) -> None:
    model, batch = make()
    settings = OptimalVarianceInit(max_probe_steps=PROBE_STEPS).settings
    weights = find_weights(model).weights
    interval = settings.interval(PROBE_STEPS)
    monitor = VarianceMonitor(weights, settings.detector, 10_000.0, PROBE_STEPS, interval)
    step = training_step(model, batch)
    step()
    training = statistics.median(cpu_seconds(step) for _ in range(steps))
    monitor.sample(model, 0, [0.1])
    # The mean over a whole probe's samples, because the detectors' checks are few and dear.
    total = sum(cpu_seconds(lambda: monitor.sample(model, 1, [0.1])) for _ in range(samples))
    sampling = total / samples
    share = sampling / interval / training
    print(
        f"\n{make.__name__}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M weights,"
        f" step {1e3 * training:.1f} ms, sample {1e3 * sampling:.2f} ms every {interval} steps:"
        f" {share:.2%} of a step"
    )
    assert share <= 0.01
