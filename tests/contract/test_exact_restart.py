"""The run after a probe is bit for bit the run of a fresh Trainer from the redrawn weights."""

from __future__ import annotations

import contract_scenarios_callbacks as contract_scenarios_callbacks
import contract_scenarios_data as contract_scenarios_data
import contract_scenarios_modules as contract_scenarios_modules
import contract_scenarios_state as contract_scenarios_state
import contract_scenarios_surroundings as contract_scenarios_surroundings
import contract_scenarios_training as contract_scenarios_training
import pytest
from contract_harness import Ahead
from contract_registry import SCENARIOS

# Compiling and tracing anomalies take seconds, in both runs.
SLOW = {"compiled_part_aot", "compiled_part_eager", "compiled_in_place", "detect_anomaly"}


@pytest.fixture(scope="module")
def ahead(request: pytest.FixtureRequest) -> Ahead:
    """The selected scenarios, run two at a time in the order of the tests."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    names = [call.params["scenario"] for call in calls if call and "scenario" in call.params]
    return Ahead({name: SCENARIOS[name] for name in names if name in SCENARIOS})


# Two of three are left to `pytest -m slow` too, so that the plain run stays short.
LATER = set(SCENARIOS) - set(list(SCENARIOS)[::3])


@pytest.mark.parametrize(
    "scenario",
    [pytest.param(n, marks=pytest.mark.slow if n in {*SLOW, *LATER} else ()) for n in SCENARIOS],
)
def test_restart_is_exact(scenario: str, ahead: Ahead) -> None:
    assert ahead.result(scenario)[:10] == []


def test_the_list_is_long_enough() -> None:
    assert len(SCENARIOS) >= 240
