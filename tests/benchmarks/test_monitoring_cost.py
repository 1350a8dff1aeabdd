"""Cost of monitoring per training step at the default interval; run `pytest tests/benchmarks`.

A sample is V of every layer with the detectors' updates and checks; the balance of fluctuation and
dissipation, in every second sample, is counted by itself. Both sides are CPU times of one thread of
one process, so that other work on the machine counts for neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from monitored_models import mlp, resnet, training_step, transformer
from stopwatch import cpu_seconds

from lightning_init import OptimalVarianceInit
from lightning_init.inspection.weights import find_weights
from lightning_init.monitoring.balance_monitor import BalanceMonitor
from lightning_init.monitoring.variance_monitor import VarianceMonitor
from lightning_init.search.probe_phase import BALANCE_EVERY

PROBE_STEPS = 1000

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("make", "samples", "steps"), [(mlp, 100, 100), (resnet, 40, 10), (transformer, 10, 3)]
)
def test_monitoring_costs_at_most_one_per_cent_of_a_step(
    make: Any, samples: int, steps: int
) -> None:
    model, batch = make()
    model.automatic_optimization = True  # as a LightningModule says
    settings = OptimalVarianceInit(max_probe_steps=PROBE_STEPS).settings
    weights = find_weights(model).weights
    interval = settings.interval(PROBE_STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)
    balance = BalanceMonitor(weights)
    step = training_step(model, batch, optimizer)
    step()
    training = min(cpu_seconds(step) for _ in range(steps))

    def per_sample(work: Callable[[int], None]) -> float:
        # The mean over a whole probe's samples, because the detectors' checks are few and dear.
        work(0)
        return sum(cpu_seconds(lambda i=i: work(i)) for i in range(1, samples + 1)) / samples

    def sampling_of_a_probe() -> float:
        monitor = VarianceMonitor(weights, settings.detector, 10_000.0, PROBE_STEPS, interval)
        return per_sample(lambda i: monitor.sample(model, i, [0.1]))

    # The best of three on either side: a loaded machine has colder caches.
    sampling = min(sampling_of_a_probe() for _ in range(3))
    balancing = per_sample(lambda _: balance.sample(model, [optimizer])) / BALANCE_EVERY
    share, share_of_balance = (x / interval / training for x in (sampling, balancing))
    print(
        f"\n{make.__name__}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M weights,"
        f" step {1e3 * training:.1f} ms, sample {1e3 * sampling:.2f} ms every {interval} steps:"
        f" {share:.2%} of a step, and {share_of_balance:.2%} for the balance"
    )
    assert share + share_of_balance <= 0.01
