"""Two hundred steps from the author's first weights and from ours; docs/models.md has the table."""

from __future__ import annotations

import pytest
import torch
from harm_study import CASES, Case, difference, first_model, leaves_all, losses_of

# What is left of the author's weights by the defaults, bit for bit: the run is the author's own.
UNCHANGED = ["SIREN", "Fixup", "DDPG actor", "spline flow", "N-BEATS", "MAF", "T5", "Mamba"]
BETTER = ["GPT-NeoX", "Llama", "LSTM language model", "gMLP", "focal-loss head"]
OF_TRANSFORMERS = {"T5", "GPT-NeoX", "Llama", "Mamba"}


def case_of(name: str) -> Case:
    if name in OF_TRANSFORMERS:
        pytest.importorskip("transformers", reason="pip install '.[zoo]'")
    return CASES[name]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in UNCHANGED if name not in OF_TRANSFORMERS])
def test_what_was_set_by_hand_stays_bit_for_bit(name: str) -> None:
    assert leaves_all(case_of(name), "order 1", seed=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(OF_TRANSFORMERS & set(UNCHANGED)))
def test_transformers_that_were_set_by_hand_stay_bit_for_bit(name: str) -> None:
    assert leaves_all(case_of(name), "order 1", seed=0)


@pytest.mark.filterwarnings("ignore")
def test_the_gates_of_a_highway_network_stay_closed() -> None:
    model = first_model(case_of("highway network"), "order 1", seed=0)
    assert all(bool((gate.bias == -2.0).all()) for gate in model.gates)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("order", ["order 1", "order 2"])
@pytest.mark.parametrize("name", BETTER)
def test_the_gains_stay(name: str, order: str) -> None:
    torch.set_num_threads(1)
    found = losses_of(case_of(name), ["author", order])
    ours, author = found[order], found["author"]
    assert isinstance(ours, list)
    assert isinstance(author, list)
    mean, half = difference(ours, author)
    assert mean < -half
