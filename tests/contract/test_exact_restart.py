"""The run after a probe is bit for bit the run of a fresh Trainer from the redrawn weights."""

from __future__ import annotations

import contract_scenarios_callbacks as contract_scenarios_callbacks
import contract_scenarios_data as contract_scenarios_data
import contract_scenarios_modules as contract_scenarios_modules
import contract_scenarios_training as contract_scenarios_training
import pytest
from contract_harness import compare
from contract_registry import SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_restart_is_exact(name: str) -> None:
    assert compare(SCENARIOS[name])[:10] == []
