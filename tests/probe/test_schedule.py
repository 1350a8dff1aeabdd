"""Schedules are foreseen as Lightning would step them, and the originals stay as they are."""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfig
from models import QUIET, Regression, regression_loader
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import lr_scheduler as schedules

from lightning_init.probe.schedule import StepPlan, climb_steps, foresee

Make = Callable[[Optimizer], Any]

STEPS, PER_EPOCH = 24, 8


def warm_up(o: Optimizer) -> Any:
    return schedules.LambdaLR(o, lambda step: min(1.0, step / 5))


def cosine_after_warm_up(o: Optimizer) -> Any:
    parts = [schedules.LinearLR(o, 0.001, total_iters=5), schedules.CosineAnnealingLR(o, 19)]
    return schedules.SequentialLR(o, parts, [5])


def per_group(o: Optimizer) -> Any:
    o.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    return schedules.LambdaLR(o, [lambda step: min(1.0, step / 5), lambda step: 0.9**step])


MAKERS: dict[str, Make] = {
    "constant": lambda o: schedules.ConstantLR(o, 1.0),
    "warm_up": warm_up,
    "one_cycle": lambda o: schedules.OneCycleLR(o, 0.3, total_steps=STEPS),
    "sequential": cosine_after_warm_up,
    "step_decay": lambda o: schedules.StepLR(o, 2, 0.5),
    "chained": lambda o: schedules.ChainedScheduler(
        [schedules.LinearLR(o, 0.2, total_iters=6), schedules.ExponentialLR(o, 0.97)]
    ),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 7),
    "per_group": per_group,
}


class Scheduled(Regression):
    """Notes the learning rate of every optimizer step."""

    def __init__(self, make: Make, interval: str, frequency: int) -> None:
        super().__init__()
        self.make, self.config = make, {"interval": interval, "frequency": frequency}
        self.rates: list[float] = []

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        return [optimizer], [{"scheduler": self.make(optimizer), **self.config}]

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:  # type: ignore[override]
        self.rates.append(float(optimizer.param_groups[0]["lr"]))
        super().optimizer_step(epoch, batch_idx, optimizer, closure)


def parts(make: Make, count: int = 1, **config: Any) -> tuple[list[Optimizer], list[Any]]:
    layer = nn.Linear(4, 4)
    optimizers: list[Optimizer] = [
        SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01) for _ in range(count)
    ]
    return optimizers, [LRSchedulerConfig(make(o), **config) for o in optimizers]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("interval", "frequency"), [("step", 1), ("step", 2), ("epoch", 1)])
@pytest.mark.parametrize("name", MAKERS)
def test_the_rates_of_a_real_run_are_foreseen(
    name: str, interval: str, frequency: int, accumulate: int
) -> None:
    model = Scheduled(MAKERS[name], interval, frequency)
    trainer = Trainer(**QUIET, max_epochs=3, accumulate_grad_batches=accumulate)
    trainer.fit(model, regression_loader())
    optimizers, configs = parts(MAKERS[name], interval=interval, frequency=frequency)
    plan = StepPlan(trainer.global_step, PER_EPOCH, accumulate)
    group = foresee(optimizers, configs, plan).groups[0][0]
    assert [group.at(step)[0] for step in range(trainer.global_step)] == model.rates
    assert group.peak_rate == max(model.rates)
    assert group.peak_step == int(np.argmax(model.rates))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("unforeseen", ["", "manual code"])
@pytest.mark.parametrize("name", [*MAKERS, "plateau"])
def test_the_originals_are_not_touched(name: str, unforeseen: str) -> None:
    make = MAKERS.get(name, schedules.ReduceLROnPlateau)
    optimizers, configs = parts(make, 2, interval="step", reduce_on_plateau=name == "plateau")
    for optimizer in optimizers:  # a state, as after some steps
        optimizer.step(lambda: torch.tensor(0.0))  # type: ignore[arg-type]
    kept = [o.param_groups[0] for o in optimizers]
    stateful = [*optimizers, *(config.scheduler for config in configs)]
    before = pickle.dumps([one.state_dict() for one in stateful])
    foresee(optimizers, configs, StepPlan(STEPS, PER_EPOCH), unforeseen=unforeseen)
    assert pickle.dumps([one.state_dict() for one in stateful]) == before
    assert all(o.param_groups[0] is group for o, group in zip(optimizers, kept, strict=True))


def test_a_closure_over_the_module_is_followed_and_the_module_not_copied() -> None:
    class Owner(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def factor(self, step: int) -> float:
            return 1.0 + step

        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("copied")

    owner = Owner()
    optimizer = SGD(owner.parameters(), lr=0.1)
    config = LRSchedulerConfig(schedules.LambdaLR(optimizer, owner.factor), interval="step")
    run = foresee([optimizer], [config], StepPlan(4, 4), shared=[owner])
    assert run.unforeseen == ""
    assert run.groups[0][0].peak_rate == pytest.approx(0.4)


def test_weight_decay_and_momentum_that_a_schedule_moves_are_followed() -> None:
    class DecaySchedule(schedules.LRScheduler):
        def get_lr(self) -> list[float]:
            for group in self.optimizer.param_groups:
                group["weight_decay"] = 0.01 * (1 + self.last_epoch)
            return [group["lr"] for group in self.optimizer.param_groups]

    optimizers, configs = parts(DecaySchedule, interval="step")
    group = foresee(optimizers, configs, StepPlan(5, 5)).groups[0][0]
    assert group.peak_decay == pytest.approx(0.05)
    assert optimizers[0].param_groups[0]["weight_decay"] == pytest.approx(0.01)
    optimizers, configs = parts(MAKERS["one_cycle"], interval="step")
    moved = dict(foresee(optimizers, configs, StepPlan(STEPS, PER_EPOCH)).groups[0][0].at_peak)
    assert moved["momentum"] == pytest.approx(0.85, rel=1e-3)


def test_what_waits_for_a_measurement_or_fails_is_held_and_said() -> None:
    optimizers, configs = parts(lambda o: schedules.ReduceLROnPlateau(o))
    configs[0].reduce_on_plateau = True
    run = foresee(optimizers, configs, StepPlan(STEPS, PER_EPOCH))
    assert "ReduceLROnPlateau" in run.unforeseen
    assert run.groups[0][0].peak_rate == 0.1
    too_short: Make = lambda o: schedules.OneCycleLR(o, 0.3, total_steps=3)  # noqa: E731
    optimizers, configs = parts(too_short, interval="step")
    run = foresee(optimizers, configs, StepPlan(STEPS, PER_EPOCH))
    assert "cannot be stepped ahead (ValueError" in run.unforeseen
    assert run.groups[0][0].peak_rate == optimizers[0].param_groups[0]["lr"]


def test_a_busy_machine_foresees_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    optimizers, configs = parts(cosine_after_warm_up, interval="step")
    assert foresee(optimizers, configs, StepPlan(STEPS, PER_EPOCH)).looked_steps == STEPS


def test_what_manual_optimization_steps_itself_bounds_the_peak() -> None:
    optimizers, configs = parts(warm_up)  # an epoch's interval means nothing here
    run = foresee(optimizers, configs, StepPlan(STEPS, PER_EPOCH), unforeseen="manual code")
    assert run.is_held
    assert run.groups[0][0].peak_rate == pytest.approx(0.1)
    assert run.groups[0][0].rates[0] < 0.1
    too_short: Make = lambda o: schedules.OneCycleLR(o, 0.3, total_steps=3)  # noqa: E731
    run = foresee(*parts(too_short), StepPlan(STEPS, PER_EPOCH), unforeseen="manual code")
    assert (run.unforeseen, run.groups[0][0].peak_rate) == (
        "manual code",
        pytest.approx(0.3, rel=0.01),
    )


@pytest.mark.parametrize("name", ["lambda", "sequential", "one_cycle"])
def test_a_long_run_is_foreseen_in_about_a_second(name: str) -> None:
    steps = 3_000_000
    makers: dict[str, Make] = {
        "lambda": lambda o: schedules.LambdaLR(o, lambda s: 1 - abs(2 * s / steps - 1)),
        "sequential": cosine_after_warm_up,
        "one_cycle": lambda o: schedules.OneCycleLR(o, 0.3, total_steps=steps),
    }
    optimizers, configs = parts(makers[name], interval="step")
    started = time.thread_time()
    run = foresee(optimizers, configs, StepPlan(steps, 10_000))
    assert time.thread_time() - started < 10  # bounded by construction, at 0.8
    group = run.groups[0][0]
    if name == "sequential":
        assert run.looked_steps < steps
        assert group.peak_rate == pytest.approx(0.1)
    else:
        top, at = {"lambda": (0.1, 0.5), "one_cycle": (0.3, 0.3)}[name]
        assert group.peak_rate == pytest.approx(top, rel=1e-3)
        assert group.peak_step == pytest.approx(at * steps, rel=1e-2)


def test_sums_of_rate_and_decay() -> None:
    optimizers, configs = parts(MAKERS["step_decay"], interval="step")
    group = foresee(optimizers, configs, StepPlan(4, 4)).groups[0][0]
    # Rates .1 .1 .05 .05, decay .01, and the factor 10 of a momentum of .9.
    assert group.decay_sum(4) == pytest.approx(10 * 0.3 * 0.01)
    layer = nn.Linear(2, 2)
    decoupled = AdamW(layer.parameters(), lr=0.1, weight_decay=0.2)
    assert foresee([decoupled], [], StepPlan(50, 5)).groups[0][0].decay_sum(50) == pytest.approx(
        1.0
    )


def test_the_climb_takes_a_twentieth_of_the_probe_at_most() -> None:
    group = foresee(*parts(warm_up, interval="step"), StepPlan(STEPS, PER_EPOCH)).groups[0][0]
    assert [climb_steps(group, budget) for budget in (4, 40, 1000)] == [0, 2, 5]
