"""State that cannot be put back: the object is named, and the way out."""

from __future__ import annotations

import re

import pytest
from contract_harness import compare, in_own_process, run
from contract_registry import SCENARIOS
from contract_scenarios_state import ABOUT_STATE, FOUND_BY_OTHERS, TOLD


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if i % 4 else ()) for i, n in enumerate(TOLD)]
)
def test_what_is_not_exact_is_told(name: str) -> None:
    scenario, says = TOLD[name]
    found = compare(scenario)
    assert found
    assert [text for text in found if re.search(rf"changed \([^)]*{re.escape(says)}", text)], found


@pytest.mark.parametrize("name", ["queue_in_c", "queue_between_processes"])
def test_a_queue_is_not_probed(name: str) -> None:
    assert compare(SCENARIOS[name]) == []
    _, _, said = in_own_process(run, SCENARIOS[name], None)
    [told] = [text for text in said if "skipped" in text]
    assert "The training data read a queue (" in told
    assert "probe_dataloaders=" in told


def test_most_scenarios_about_state_were_thought_of() -> None:
    assert FOUND_BY_OTHERS < ABOUT_STATE
    assert len(ABOUT_STATE - FOUND_BY_OTHERS) >= 60
