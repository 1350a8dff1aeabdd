"""Generic schemes are told from an author's choice, and not the other way round on small layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_init.inspection.initial_distributions import (
    bias_purpose,
    generic_scheme,
    is_orthogonal,
    sample_all,
    structure,
)

Draw = Callable[[int, int], Tensor]
GENERIC: dict[str, Draw] = {
    "torch's default": lambda m, n: nn.Linear(m, n).weight,
    "kaiming_normal": lambda m, n: nn.init.kaiming_normal_(torch.empty(n, m)),
    "kaiming_uniform": lambda m, n: nn.init.kaiming_uniform_(torch.empty(n, m)),
    "fan_out": lambda m, n: nn.init.kaiming_normal_(torch.empty(n, m), mode="fan_out"),
    "tanh": lambda m, n: nn.init.kaiming_normal_(torch.empty(n, m), nonlinearity="tanh"),
    "xavier_normal": lambda m, n: nn.init.xavier_normal_(torch.empty(n, m)),
    "xavier_uniform": lambda m, n: nn.init.xavier_uniform_(torch.empty(n, m)),
    "lecun": lambda m, n: torch.randn(n, m) / math.sqrt(m),
    "transformer": lambda m, n: torch.randn(n, m) * 0.02,
    "truncated": lambda m, n: nn.init.trunc_normal_(torch.empty(n, m), 0, 0.02, -0.04, 0.04),
    "bfloat16": lambda m, n: nn.Linear(m, n).weight.bfloat16(),
}
ON_PURPOSE: dict[str, Draw] = {
    "SIREN": lambda m, n: (2 * torch.rand(n, m) - 1) * math.sqrt(6 / m) / 30,
    "T5's queries": lambda m, n: torch.randn(n, m) * (m * 16) ** -0.5,
    "actor": lambda m, n: (2 * torch.rand(n, m) - 1) * 3e-3,
    "small head": lambda m, n: torch.randn(n, m) * 0.001,
    "Fixup": lambda m, n: nn.init.kaiming_normal_(torch.empty(n, m)) * 12**-0.5,
    "shifted": lambda m, n: nn.Linear(m, n).weight + 0.5,
    "trained": lambda m, n: 0.7 * nn.Linear(m, n).weight + 0.005 * torch.randn(n, m),
}
SMALL = [(1, 1), (2, 2), (2, 3), (16, 1), (1, 16), (8, 8)]
LARGE = [(64, 16), (64, 64), (512, 100)]


def scheme_of(values: Tensor) -> str | None:
    (sample,) = sample_all([values])
    if structure(sample, values) is not None:
        return None
    return generic_scheme(sample, [(values.shape[1], values.shape[0])])


@pytest.mark.parametrize("shape", SMALL + LARGE)
@pytest.mark.parametrize("name", GENERIC)
def test_a_generic_draw_is_hardly_ever_taken_for_an_authors(
    name: str, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        missed = sum(scheme_of(GENERIC[name](*shape)) is None for _ in range(100))
    assert missed <= 1


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("name", ON_PURPOSE)
def test_an_authors_scale_is_no_generic_one(name: str, shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        taken = sum(scheme_of(ON_PURPOSE[name](*shape)) is not None for _ in range(50))
    assert taken <= 2


def test_a_recurrent_gate_and_a_packed_projection_are_torchs_own() -> None:
    torch.manual_seed(0)
    gate = nn.LSTM(24, 40).weight_ih_l0[:40]
    assert generic_scheme(sample_all([gate])[0], [(24, 40)]) == "torch's default"
    query = nn.MultiheadAttention(32, 4).in_proj_weight[:32]
    assert generic_scheme(sample_all([query])[0], [(32, 32), (32, 96)]) == "Xavier"


def test_a_draw_of_this_rule_is_redrawn_at_every_order() -> None:
    torch.manual_seed(0)
    rule = 0.11
    for factor in (1.0, 1.1, 1.2):
        weight = torch.randn(50, 60) * rule * factor
        assert generic_scheme(sample_all([weight])[0], [(60, 50)], rule) is not None
    assert generic_scheme(sample_all([torch.randn(50, 60) * 0.07])[0], [(60, 50)], rule) is None


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (8, 64), (64, 8), (40, 40), (300, 20)])
def test_orthogonal_matrices_are_told_from_random_ones(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    for gain in (0.01, 1.0, 3.0):
        assert is_orthogonal(nn.init.orthogonal_(torch.empty(shape), gain))
    assert not any(is_orthogonal(torch.randn(shape)) for _ in range(200))
    assert not is_orthogonal(torch.randn(1, shape[1]))


def test_constants_identities_and_sparse_matrices_are_structures() -> None:
    convolution = nn.init.dirac_(torch.empty(8, 8, 3, 3))
    sparse = nn.init.sparse_(torch.empty(50, 40), sparsity=0.8)
    for values in (torch.full((1, 1, 24), 1 / 24), torch.eye(200), convolution, sparse):
        assert structure(sample_all([values])[0], values)
    assert structure(sample_all([torch.ones(1, 1)])[0], torch.ones(1, 1)) is None


@pytest.mark.parametrize("fans", [(4, 1), (2, 2), (64, 10), (64, 512)])
def test_torchs_own_biases_have_no_purpose(fans: tuple[int, int]) -> None:
    torch.manual_seed(0)
    biases = [nn.Linear(*fans).bias.detach() for _ in range(200)]
    assert sum(bias_purpose(one, [fans]) is not None for one in sample_all(biases)) <= 1
    assert bias_purpose(sample_all([torch.zeros(fans[1])])[0], [fans]) is None


@pytest.mark.parametrize("value", [-2.0, 1.0, -4.595])
@pytest.mark.parametrize("size", [1, 2, 64])
def test_gates_and_priors_have_one(value: float, size: int) -> None:
    assert bias_purpose(sample_all([torch.full((size,), value)])[0], [(64, size)])
