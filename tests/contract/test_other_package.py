"""Exact restart, resume and faults, with Trainer and modules of `pytorch_lightning`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from other_package import under_the_other_name

harness = under_the_other_name("contract_harness")
exact = under_the_other_name("test_exact_restart")
resume = under_the_other_name("test_resume")
faults = under_the_other_name("test_faults")

SCENARIOS = exact.SCENARIOS
EARLY = set(list(SCENARIOS)[4::9]) - exact.SLOW


@pytest.fixture(scope="module")
def ahead(request: pytest.FixtureRequest) -> Any:
    """The selected scenarios, run two at a time in the order of the tests."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    names = [call.params["other"] for call in calls if call and "other" in call.params]
    return exact.Ahead({name: SCENARIOS[name] for name in names})


@pytest.mark.parametrize(
    "other",
    [pytest.param(n, marks=() if n in EARLY else pytest.mark.slow) for n in SCENARIOS],
)
def test_restart_is_exact(other: str, ahead: Any) -> None:
    assert ahead.result(other)[:10] == []


def test_the_scenarios_are_of_the_other_package() -> None:
    setup = SCENARIOS["adam"]()
    assert setup.make_trainer.__module__.startswith("pytorch_lightning")
    assert any(kind.__module__.startswith("pytorch_lightning") for kind in type(setup.model).mro())
    assert not any(kind.__module__.startswith("lightning.") for kind in type(setup.model).mro())


@pytest.mark.parametrize("ours", resume.OURS)
@pytest.mark.parametrize(
    "route",
    [
        pytest.param(route, id=route.__name__, marks=pytest.mark.slow if index % 3 else ())
        for index, route in enumerate(resume.ROUTES)
    ],
)
def test_a_resumed_run_keeps_its_weights(route: Callable[[Any], None], ours: str) -> None:
    harness.in_own_process(route, resume.OURS[ours])


@pytest.mark.parametrize("kind", faults.KINDS)
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(p, marks=() if p == "training_step" else pytest.mark.slow)
        for p in faults.PLACES
    ],
)
def test_a_failed_probe_leaves_no_trace(kind: str, place: str) -> None:
    state, following, wrong = harness.in_own_process(faults.failing_run, (kind, place, 1), False)
    reference, following_reference, _ = harness.in_own_process(
        faults.failing_run, (kind, "", 0), True
    )
    assert wrong == []
    assert faults.differences(state, reference)[:5] == []
    assert faults.differences(following, following_reference)[:5] == []


LATE_IMPORT = """
import sys
from lightning_init import FractionalMomentInit, OptimalVarianceInit
assert "pytorch_lightning" not in sys.modules
import pytorch_lightning
from lightning.pytorch import Callback
for kind in (FractionalMomentInit, OptimalVarianceInit):
    assert issubclass(kind, pytorch_lightning.Callback) and issubclass(kind, Callback)
assert not [f for f in sys.meta_path if "lightning_init" in type(f).__module__]
"""


def test_importing_us_does_not_import_the_other_package() -> None:
    done = subprocess.run([sys.executable, "-c", LATE_IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


COMMAND_LINE = """
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.demos.boring_classes import BoringModel
LightningCLI(
    BoringModel,
    args=["fit", "--trainer.max_epochs=2", "--trainer.limit_train_batches=8",
          "--trainer.callbacks=lightning_init.OptimalVarianceInit",
          "--trainer.callbacks.max_probe_steps=6", "--trainer.accelerator=cpu",
          "--trainer.callbacks.on_probe_failure=raise",
          "--trainer.callbacks.on_unsettled=use"],
)
"""


def test_the_command_line_of_the_other_package(tmp_path: Any) -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND_LINE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "restart verified: first 2 steps identical" in done.stdout
