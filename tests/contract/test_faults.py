"""A probe that fails leaves everything as it was, and a following fit equals a plain one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_harness import PROBE_STEPS, Setup, build_trainer, fit, in_own_process, probe
from contract_models import MetricNet, SplitData
from contract_record import HookTrace, Recorder, attributes, differences, final_record, plain
from contract_record import random_state as random_state
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from lightning_init.monitoring.variance_monitor import VarianceMonitor

STEPS = {"first": 1, "middle": 10, "last": PROBE_STEPS}
PLACES = ("training_step", "user_hook", "our_code")
KINDS: dict[str, type[BaseException]] = {
    "exception": RuntimeError,
    "interrupt": KeyboardInterrupt,
    "sigterm": SIGTERMException,
}


class Faulty(MetricNet):
    """Fails in the probe, at one optimizer step, in one place."""

    fault: tuple[str, str, int] | None = None
    real: Any = None

    def _fails_at(self, place: str, step: int) -> bool:
        planted = Faulty.fault is not None and Faulty.fault[1:] == (place, step)
        return planted and self is not Faulty.real

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        if self._fails_at("training_step", self.trainer.global_step + 1):
            output["loss"] = output["loss"] * fail()
        return output

    def on_before_zero_grad(self, optimizer: Any) -> None:
        if self._fails_at("user_hook", self.trainer.global_step + 1):
            factor = fail()
            with torch.no_grad():
                self.net[0].weight.mul_(factor)


def fail() -> float:
    """Raise, be signalled or return NaN to multiply with, as the fault's kind says."""
    assert Faulty.fault is not None
    kind = Faulty.fault[0]
    if kind == "nan":
        return float("nan")
    if kind != "sigterm":
        raise KINDS[kind]("planted")
    os.kill(os.getpid(), signal.SIGTERM)
    return 1.0


def break_our_code() -> None:
    """Plant the fault in the measurement."""
    measure, calls = VarianceMonitor.measure, []

    def broken(monitor: VarianceMonitor, module: Any) -> list[float]:
        values = measure(monitor, module)
        calls.append(module)
        # The first call measures the weights before the probe.
        if Faulty.fault is not None and len(calls) - 1 == Faulty.fault[2]:
            factor = fail()
            return [value * factor for value in values]
        return values

    VarianceMonitor.measure = broken  # type: ignore[method-assign]


class Fails(Callback):
    """The reference: fails at once, without a probe."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise self.error("planted")


class Inspector(Callback):
    """Holds what the Trainer and the strategy referred to before and after the failure."""

    def __init__(self) -> None:
        self.before: dict[str, int] = {}
        self.after: dict[str, int] = {}
        self.changed: list[str] = []
        self.errors: list[str] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = self._held(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.errors.append(type(exception).__name__)
        self.after = self._held(trainer)
        changed = {k for k in self.before.keys() | self.after.keys() if self._differs(k)}
        self.changed += sorted(changed)

    def _differs(self, key: str) -> bool:
        return self.before.get(key) != self.after.get(key)

    @staticmethod
    def _held(trainer: Trainer) -> dict[str, int]:
        held = {f"trainer.{k}": id(v) for k, v in vars(trainer).items()}
        held |= {f"strategy.{k}": id(v) for k, v in vars(trainer.strategy).items()}
        loop = trainer.fit_loop
        held |= {f"loop.{k}": id(v) for k, v in vars(loop).items()}
        return held | {f"epoch_loop.{k}": id(v) for k, v in vars(loop.epoch_loop).items()}


def failing_run(fault: tuple[str, str, int], reference: bool) -> tuple[Any, Any, list[str]]:
    """State after a failed fit, the record of a following one, and what else is wrong."""
    seed_everything(7, verbose=False)
    ours: Callback = Fails(KINDS[fault[0]]) if reference else probe()
    inspector, recorder = Inspector(), Recorder()
    setup = Setup(
        Faulty(),
        {"logger": CSVLogger(".")},
        datamodule=_Data(),
        before=[inspector],
        callbacks=[EarlyStopping("val_loss"), ModelCheckpoint(".", monitor="val_loss"), recorder],
    )
    trainer = build_trainer(setup, [ours])
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)]
    break_our_code()
    Faulty.fault = None if reference else fault
    expected = SystemExit if fault[0] == "interrupt" else KINDS[fault[0]]
    with pytest.raises(expected):
        fit(trainer, setup)
    wrong = list(inspector.changed)
    if [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGUSR1)] != handlers:
        wrong.append("signal handlers")
    state = (
        final_record(trainer, setup.model, recorder)
        | {"errors": inspector.errors, "grad": torch.is_grad_enabled()}
        | {"modules": attributes(setup.model), "random": random_state()}
        | {"trainer": plain(vars(trainer), 1)}
    )
    Faulty.fault = None
    trainer.callbacks.remove(ours)
    trace = HookTrace(setup.model)
    fit(trainer, setup)
    return state, final_record(trainer, setup.model, recorder) | {"hooks": trace.calls}, wrong


class _Data(SplitData):
    """May be set up again for the second fit."""

    def setup(self, stage: str) -> None:
        self.setups = 0
        super().setup(stage)


@pytest.mark.parametrize(
    # The plain run takes the first step alone, to stay short.
    "step",
    [pytest.param(name, marks=pytest.mark.slow if name != "first" else ()) for name in STEPS],
)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_probe_leaves_no_trace(
    kind: str, place: str, step: str, reference_of: Callable[[str], Any]
) -> None:
    state, following, wrong = in_own_process(failing_run, (kind, place, STEPS[step]), False)
    expected_state, expected_following, _ = reference_of(kind)
    assert wrong == []
    assert differences(state, expected_state)[:5] == []
    assert differences(following, expected_following)[:5] == []


@pytest.fixture(scope="module")
def reference_of() -> Callable[[str], Any]:
    """The failing reference of each kind, run once."""
    known: dict[str, Any] = {}

    def find(kind: str) -> Any:
        if kind not in known:
            known[kind] = in_own_process(failing_run, (kind, "", 0), True)
        return known[kind]

    return find


def diverging_run(fault: tuple[str, str, int] | None) -> tuple[Any, str, set[str]]:
    """A run whose probe meets NaN, or one without a probe; what the report says of it."""
    seed_everything(7, verbose=False)
    ours, recorder = probe(), Recorder()
    others = [EarlyStopping("val_loss"), ModelCheckpoint(".", monitor="val_loss"), recorder]
    setup = Setup(Faulty(), {"logger": CSVLogger(".")}, datamodule=_Data(), callbacks=others)
    trainer = build_trainer(setup, [] if fault is None else [ours])
    break_our_code()
    Faulty.fault, Faulty.real = fault, setup.model
    trace = HookTrace(setup.model)
    fit(trainer, setup)
    record = final_record(trainer, setup.model, recorder) | {"hooks": trace.calls}
    if ours.report is None:
        return record, "", set()
    return record, ours.report.divergence, {row.verdict.value for row in ours.report.layers}


@pytest.mark.parametrize(
    "step",
    [pytest.param(name, marks=pytest.mark.slow if name != "first" else ()) for name in STEPS],
)
@pytest.mark.parametrize("place", PLACES)
def test_a_probe_that_meets_nan_changes_nothing(place: str, step: str) -> None:
    found, reason, verdicts = in_own_process(diverging_run, ("nan", place, STEPS[step]))
    expected, _, _ = in_own_process(diverging_run, None)
    assert "not finite" in reason
    assert verdicts == {"invalid"}
    assert differences(found, expected)[:5] == []


def _killed_run(directory: str) -> None:
    os.chdir(directory)
    seed_everything(7, verbose=False)
    setup = Setup(_Killed(), {"logger": CSVLogger(".")}, datamodule=_Data())
    fit(build_trainer(setup, setup.ours), setup)


class _Killed(MetricNet):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.trainer.global_step == 10:
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_probe_leaves_no_file(tmp_path: Path) -> None:
    process = get_context("fork").Process(target=_killed_run, args=(str(tmp_path),))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    time.sleep(0.01)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == []
