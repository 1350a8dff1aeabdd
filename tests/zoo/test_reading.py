"""What is read of architectures that others wrote: every weight, by its law, in at most a trace."""

from __future__ import annotations

import pytest
from architectures import FAMILIES
from architectures import ZOO as TRANSFORMERS
from graphs import GRAPHS

from lightning_init.functional import fractional_moment_init_
from lightning_init.inspection.activation_tracing import Traced, trace_model
from lightning_init.inspection.weights import find_weights

pytest.importorskip("transformers")
pytest.importorskip("torch_geometric")
pytestmark = pytest.mark.slow

DECIDED = 0.95
ZOO = {**TRANSFORMERS, **GRAPHS}


def traced(name: str) -> Traced:
    return trace_model(ZOO[name].build(), ZOO[name].example())


def test_the_tables_are_many() -> None:
    assert len(ZOO) >= 25
    assert sum(len(one.laws()) for one in ZOO.values()) >= 120


@pytest.mark.parametrize("name", ZOO)
def test_the_laws_are_those_of_the_source(name: str) -> None:
    found = traced(name)
    fans = {weight.name: weight.fan_in for weight in found.inventory.weights}
    # Of an inner output, as the source has it: a trace takes off what a border hides.
    fans |= {weight.name: weight.fan_in for weight in find_weights(ZOO[name].build()).weights}
    read = {
        weight: (found.activations[weight].nonlinearity, fans[weight])
        for weight in ZOO[name].laws()
    }
    assert read == ZOO[name].laws()
    sources = {found.activations[weight].source for weight in ZOO[name].laws()}
    assert sources == {"traced"}


@pytest.mark.parametrize("name", ZOO)
def test_names_are_unique_and_every_assumption_has_a_reason(name: str) -> None:
    found = traced(name)
    names = [weight.name for weight in found.inventory.weights]
    assert len(set(names)) == len(names)
    for activation in found.activations.values():
        assert activation.source == "traced" or activation.note
    assert all(left.reason for left in found.inventory.left_out)


@pytest.mark.parametrize("name", FAMILIES)
def test_nearly_every_weight_of_the_families_is_decided(name: str) -> None:
    found = traced(name)
    decided = [one for one in found.activations.values() if one.source == "traced"]
    assert len(decided) >= DECIDED * len(found.inventory.weights)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ZOO)
def test_every_architecture_gets_a_finite_plan(name: str) -> None:
    model = ZOO[name].build()
    plan = fractional_moment_init_(model, example_input=ZOO[name].example())
    assert plan.rows
    for parameter in model.parameters():
        assert bool(parameter.isfinite().all())
