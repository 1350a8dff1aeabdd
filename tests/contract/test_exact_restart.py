"""The run after a probe is bit for bit the run of a fresh Trainer from the redrawn weights."""

from __future__ import annotations

import contract_scenarios_training
import pytest
from contract_harness import compare

SCENARIOS = contract_scenarios_training.SCENARIOS


@pytest.mark.parametrize("name", SCENARIOS)
def test_restart_is_exact(name: str) -> None:
    assert not compare(SCENARIOS[name])
