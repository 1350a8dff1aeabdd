"""What the probe itself costs beside its training steps; run `pytest tests/benchmarks`.

Times are CPU times of one thread of one process, so that other work on the machine counts for
neither side of a ratio. The model is a transformer of 99 million weights with Adam.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer import call
from probe_memory import Large, fit

from lightning_init import FractionalMomentInit, OptimalVarianceInit
from lightning_init.probe import ProbeLimits, run_probe

PROBE_STEPS = 200
PER_BATCH = ("batch", "backward", "optimizer_step", "zero_grad")

pytestmark = pytest.mark.usefixtures("one_thread")


class EnoughError(Exception):
    """The real run need not be trained."""


class Timed(Callback):
    """One probe of a few steps, with the times at its start, first hook, steps and end."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def on_start(*_: Any) -> None:
            self.times.append(time.process_time())

        def on_step(*_: Any) -> bool:
            self.times.append(time.process_time())
            return False

        self.times.append(time.process_time())
        run_probe(trainer, pl_module, on_step, ProbeLimits(4), on_start)
        self.times.append(time.process_time())
        raise EnoughError


@pytest.fixture(scope="module")
def seconds(one_thread: None) -> tuple[float, float]:
    """Of the machinery - snapshot, swap, restore - of one probe, and of one training step."""
    timed = Timed()
    with suppress(EnoughError):
        fit(Large(), timed, steps=4)
    begin, first, *steps, end = timed.times
    machinery = (first - begin) + (end - steps[-1])
    step = median(b - a for a, b in zip(steps[:-1], steps[1:], strict=True))
    print(f"\nmachinery {machinery:.2f} s, step {step:.2f} s of CPU time")
    return machinery, step


def test_the_machinery_is_at_most_five_per_cent_of_a_probe(seconds: tuple[float, float]) -> None:
    machinery, step = seconds
    share = machinery / (PROBE_STEPS * step)
    print(f"{share:.2%} of a probe of {PROBE_STEPS} steps")
    assert share <= 0.05


def test_a_probe_needs_at_most_one_more_copy_of_weights_and_optimizer_state() -> None:
    peaks = {kind: _peak(kind) for kind in ("plain", "probed")}
    weights = sum(p.numel() * p.element_size() for p in Large().parameters())
    extra = (peaks["probed"] - peaks["plain"]) / (3 * weights)  # Adam keeps two moments
    print(
        f"\nweights {weights / 2**20:.0f} MiB, plain {peaks['plain'] / 2**20:.0f} MiB, probed"
        f" {peaks['probed'] / 2**20:.0f} MiB: {extra:.2f} x (weights + optimizer state) more"
    )
    assert extra <= 1.1


def _peak(kind: str) -> int:
    script = Path(__file__).with_name("probe_memory.py")
    finished = subprocess.run(
        [sys.executable, str(script), kind], capture_output=True, text=True, check=True
    )
    return int(finished.stdout.split()[-1])


# The watch, and the comparison of batches with the probe's: both have benchmarks of their own.
HOOKS_PER_BATCH: dict[type[Callback], set[str]] = {
    OptimalVarianceInit: {"on_train_batch_start", "on_train_batch_end"},
    FractionalMomentInit: set(),
}


@pytest.mark.parametrize("kind", HOOKS_PER_BATCH)
def test_no_other_hook_runs_per_batch(kind: type[Callback]) -> None:
    hooks = [n for n, _ in inspect.getmembers(Callback, inspect.isfunction) if n.startswith("on_")]
    per_batch = [name for name in hooks if any(part in name for part in PER_BATCH)]
    assert len(per_batch) >= 12
    own = {name for name in per_batch if getattr(kind, name) is not getattr(Callback, name)}
    assert own == HOOKS_PER_BATCH[kind]


def test_a_fit_without_probe_pays_less_than_a_thousandth_of_a_step(
    seconds: tuple[float, float],
) -> None:
    """What is left is the Trainer's walk over one more callback whose hooks do nothing."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(LightningModule())
    callback = OptimalVarianceInit()
    walked = _walk(trainer, [callback]) - _walk(trainer, [])
    print(f"\n{1e6 * walked:.1f} us per step, {walked / seconds[1]:.5%} of it")
    assert walked < 0.001 * seconds[1]


def _walk(trainer: Trainer, callbacks: list[Callback]) -> float:
    trainer.callbacks = callbacks
    hooks: dict[str, tuple[Any, ...]] = {
        "on_train_batch_start": (None, 0),
        "on_before_zero_grad": (None,),
        "on_before_backward": (None,),
        "on_after_backward": (),
        "on_before_optimizer_step": (None,),
        "on_train_batch_end": (None, None, 0),
    }

    def walk() -> None:
        for name, arguments in hooks.items():
            call._call_callback_hooks(trainer, name, *arguments)

    return min(_cpu_seconds(walk) for _ in range(20))


def _cpu_seconds(work: Callable[[], None], repeats: int = 500) -> float:
    started = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - started) / repeats
