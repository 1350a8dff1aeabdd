"""Cost of monitoring per training step, over a whole probe; run `pytest tests/benchmarks`.

A sample is V and |w|^2 of every layer with the detectors' updates and checks and the optimizers'
rules; looks ask whether the layers are done; the forces are computed once, at the end. Both sides
are CPU times of one thread of one process, so that other work on the machine counts for neither.
"""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from monitored_models import mlp, resnet, training_step, transformer
from stopwatch import cpu_seconds
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import OptimalVarianceInit
from lightning_init.inspection.weights import find_weights
from lightning_init.monitoring.variance_monitor import VarianceMonitor, sample_steps
from lightning_init.stationarity import ending, looked_at, start, update

PROBE_STEPS = 1000
RUN_STEPS = 10_000
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
        return fmean(
            cpu_seconds(lambda at=at: monitor.sample(model, at, [1e-6], [optimizer]))
            for at in taken[:: max(1, len(taken) // samples)][:samples]
        )

    def forces_of_a_probe() -> float:
        monitor = VarianceMonitor(weights, settings.detector, 10_000.0, PROBE_STEPS, interval)
        moments = [(1.0, 0.0, 1.0)] * len(weights)
        for at in taken:
            monitor._forces.sample(model, at, moments, [optimizer])
        return cpu_seconds(lambda: [monitor.layer_forces(i) for i in range(len(weights))])

    def looks_of_a_probe() -> float:
        # The first layer that is not done ends a look: every look at one layer that moves so little
        # that each asks for a projection, and the dearest look once for each other layer.
        budget = PROBE_STEPS / interval
        state, spent = start(settings.detector, 10_000 / interval, budget), []
        for sample in range(1, int(budget) + 1):
            before, state = looked_at(state), update(state, math.exp(0.06 * sample / budget))
            if looked_at(state) != before:
                asked = partial(ending, state, 1.0, settings.futile_ends, settings.redrawn_from)
                spent.append(cpu_seconds(asked))
        return sum(spent) + (len(weights) - 1) * max(spent)

    # The best of five on either side, in turn: a loaded machine has colder caches.
    rounds = [
        (min(cpu_seconds(step) for _ in range(steps)), sampling_of_a_probe()) for _ in range(ROUNDS)
    ]
    looks, at_end = min(looks_of_a_probe() for _ in range(ROUNDS)), forces_of_a_probe()
    once = looks + at_end
    shares = [
        (len(taken) * sample + once) / (PROBE_STEPS * training) for training, sample in rounds
    ]
    training, sample = (min(values) for values in zip(*rounds, strict=True))
    share = (len(taken) * sample + once) / (PROBE_STEPS * training)
    print(
        f"\n{make.__name__}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M weights,"
        f" step {1e3 * training:.1f} ms, {len(taken)} samples of {1e3 * sample:.2f} ms in"
        f" {PROBE_STEPS} steps, looks {1e3 * looks:.1f} ms, forces {1e3 * at_end:.1f} ms:"
        f" {share:.2%} of a step, median {median(shares):.2%}"
    )
    assert share <= limit


class Trained(LightningModule):
    """One of the models, as a Trainer trains it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.model(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-6, momentum=0.9)


class Timed(OptimalVarianceInit):
    """Watches every `every` steps, and notes the CPU time of a step, a sample and a wait."""

    def __init__(self, every: int, most: int) -> None:
        super().__init__(0, verbose=False)
        self.every, self.interval, self.most = every, 0, most
        self.steps: list[float] = []
        self.samples: list[float] = []
        self.waits: list[float] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        assert self._watching is not None
        self.series = self._watching._series
        self.interval, self.series.interval = self.series.interval, self.every
        self._watching._batches_to_wait = 0
        self._begun = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *rest: Any
    ) -> None:
        before, ended = len(self.series.steps), time.process_time()
        super().on_train_batch_end(trainer, pl_module, outputs, *rest)
        spent = time.process_time() - ended
        (self.samples if len(self.series.steps) > before else self.waits).append(spent)
        self.steps.append(ended - self._begun)
        trainer.should_stop = len(self.steps) >= self.most
        self._begun = time.process_time()


@pytest.mark.parametrize(
    ("make", "every", "steps"), [(mlp, 5, 300), (resnet, 2, 16), (transformer, 2, 6)]
)
def test_watching_a_run_costs_half_a_per_cent_of_a_step(
    make: Any, every: int, steps: int, tmp_path: Path
) -> None:
    """In a training, whose caches a sample finds as the step left them; files are written."""
    model, batch = make()
    callback = Timed(every, steps)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=RUN_STEPS,
        callbacks=[callback],
        logger=[CSVLogger(tmp_path), TensorBoardLogger(tmp_path)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = TensorDataset(batch.repeat(4, *[1] * (batch.dim() - 1)))
    trainer.fit(Trained(model), DataLoader(data, batch_size=len(batch)))
    step, sample, wait = (
        min(times) for times in (callback.steps[1:], callback.samples, callback.waits)
    )
    share = (sample / callback.interval + wait) / step
    print(
        f"\n{make.__name__}: {1e3 * sample:.2f} ms every {callback.interval} steps of"
        f" {1e3 * step:.1f} ms, {1e3 * wait:.3f} ms in each: {share:.2%}"
    )
    assert share <= 0.005
