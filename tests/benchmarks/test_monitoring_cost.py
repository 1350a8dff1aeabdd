"""Cost of monitoring per training step, over a whole probe; run `pytest tests/benchmarks`.

A sample is V and |w|^2 of every layer with the detectors' updates and checks and the optimizers'
rules; the forces are computed once, at the end. Both sides are CPU times of one thread of one
process, so that other work on the machine counts for neither.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from monitored_models import mlp, resnet, training_step, transformer
from stopwatch import cpu_seconds

from lightning_init import OptimalVarianceInit
from lightning_init.inspection.weights import find_every_weight, find_weights
from lightning_init.monitoring.run_watch import RunWatch
from lightning_init.monitoring.sampling import sample_steps
from lightning_init.monitoring.variance_monitor import VarianceMonitor
from lightning_init.reporting.run_files import RunFiles

PROBE_STEPS = 1000
ROUNDS = 5

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("make", "samples", "steps", "limit"),
    [(mlp, 100, 100, 0.006), (resnet, 40, 10, 0.003), (transformer, 10, 3, 0.003)],
)
def test_monitoring_costs_a_fraction_of_a_per_cent_of_a_step(
    make: Any, samples: int, steps: int, limit: float
) -> None:
    model, batch = make()
    settings = OptimalVarianceInit(max_probe_steps=PROBE_STEPS).settings
    weights = find_weights(model).weights
    interval = settings.interval(PROBE_STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=1e-4)
    step = training_step(model, batch, optimizer)
    step()
    taken = sample_steps(PROBE_STEPS, interval)

    def sampling_of_a_probe() -> float:
        # The mean over a whole probe's samples, because the detectors' checks are few and dear.
        monitor = VarianceMonitor(weights, settings.detector, 10_000.0, PROBE_STEPS, interval)
        monitor.sample(model, 0, [1e-6], [optimizer])
        spent = sum(
            cpu_seconds(lambda at=at: monitor.sample(model, at, [1e-6], [optimizer]))
            for at in taken[:: max(1, len(taken) // samples)][:samples]
        )
        return spent / samples

    def forces_of_a_probe() -> float:
        monitor = VarianceMonitor(weights, settings.detector, 10_000.0, PROBE_STEPS, interval)
        moments = [(1.0, 0.0, 1.0)] * len(weights)
        for at in taken:
            monitor._forces.sample(model, at, moments, [optimizer])
        return cpu_seconds(lambda: [monitor.layer_forces(i) for i in range(len(weights))])

    # The best of five on either side, in turn: a loaded machine has colder caches.
    rounds = [
        (min(cpu_seconds(step) for _ in range(steps)), sampling_of_a_probe()) for _ in range(ROUNDS)
    ]
    at_end = forces_of_a_probe()
    shares = [
        (len(taken) * sample + at_end) / (PROBE_STEPS * training) for training, sample in rounds
    ]
    training, sample = (min(values) for values in zip(*rounds, strict=True))
    share = (len(taken) * sample + at_end) / (PROBE_STEPS * training)
    print(
        f"\n{make.__name__}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M weights,"
        f" step {1e3 * training:.1f} ms, {len(taken)} samples of {1e3 * sample:.2f} ms in"
        f" {PROBE_STEPS} steps, forces {1e3 * at_end:.1f} ms:"
        f" {share:.2%} of a step, median {median(shares):.2%}"
    )
    assert share <= limit


@pytest.mark.parametrize(
    ("make", "samples", "steps"), [(mlp, 100, 100), (resnet, 20, 6), (transformer, 5, 2)]
)
def test_watching_a_run_costs_half_a_per_cent_of_a_step(
    make: Any, samples: int, steps: int, tmp_path: Path
) -> None:
    """Measuring, the row of the file and the event in TensorBoard, every so many steps."""
    model, batch = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)
    step = training_step(model, batch, optimizer)
    watch = RunWatch(find_every_weight(model).weights, PROBE_STEPS)
    files = RunFiles([CSVLogger(tmp_path), TensorBoardLogger(tmp_path)], watch.series.layers)

    def sampling() -> float:
        return cpu_seconds(
            lambda: [files.write(at, watch.sample(model, at)) for at in range(samples)]
        )

    step()
    sampling()
    rounds = [(min(cpu_seconds(step) for _ in range(steps)), sampling()) for _ in range(3)]
    training, sample = (min(values) for values in zip(*rounds, strict=True))
    share = sample / samples / (watch.series.interval * training)
    print(
        f"\n{make.__name__}: {1e3 * sample / samples:.2f} ms every {watch.series.interval} steps of"
        f" {1e3 * training:.1f} ms: {share:.2%}"
    )
    assert share <= 0.005
