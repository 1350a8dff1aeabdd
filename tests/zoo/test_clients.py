"""Libraries that train with Lightning: either callback takes what it is given, or tells why not."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clients import CLIENTS, STEPS

from lightning_init import FractionalMomentInit, OptimalVarianceInit

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
# What a trace follows through to the last weight.
TRACED = {"gluonts SimpleFeedForward", "Lightning Transformer", "Lightning README"}


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fractional() -> FractionalMomentInit:
    return FractionalMomentInit(verbose=False)


def optimal() -> OptimalVarianceInit:
    return OptimalVarianceInit(max_probe_steps=10, on_unsettled="use", verbose=False)


TOGETHER: dict[str, Callable[[], list[Any]]] = {
    "fractional": lambda: [fractional()],
    "optimal": lambda: [optimal()],
    "both": lambda: [fractional(), optimal()],
}


def whole(callback: FractionalMomentInit) -> set[str]:
    """Check that every weight of the plan has a rule or a reason; the sources of the rules."""
    plan = callback.plan
    assert plan is not None
    assert plan.rows
    assert all(row.activation.source != "assumed" or row.activation.note for row in plan.rows)
    return {row.activation.source for row in plan.rows}


@pytest.mark.parametrize("together", TOGETHER)
@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_is_stopped(client: str, together: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ran = CLIENTS[client](TOGETHER[together]())
    assert ran.steps == STEPS
    # A client may train with copies of what it was given.
    kinds = {type(one) for one in ran.callbacks}
    for callback in ran.callbacks:
        if isinstance(callback, FractionalMomentInit):
            sources = whole(callback)
            assert sources == {"traced"} or client not in TRACED
        if isinstance(callback, OptimalVarianceInit):
            assert callback.report is not None
            assert callback.report.layers
    expected = {type(one) for one in TOGETHER[together]()}
    assert expected <= kinds
    assert not [one for one in caught if "was skipped" in str(one.message)]
