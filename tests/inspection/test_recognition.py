"""What is told by values and not by names: norms, elementwise functions and gated products."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import Between, between, traced
from torch import Tensor, nn

from lightning_init.theory.recognition import SAMPLING_POINTS


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * (x > 0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class RMSNorm(nn.Module):
    """As in transformers, with its change of type and its learned scale."""

    def __init__(self, width: int = 8, *, offset: float = 0.0) -> None:
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.ones(width) - offset), offset

    def forward(self, x: Tensor) -> Tensor:
        kind = x.dtype
        x = x.to(torch.float32)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (self.offset + self.weight) * x.to(kind)


def layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()


def group_norm(x: Tensor) -> Tensor:
    grouped = x.view(x.shape[0], 2, -1)
    spread, mean = torch.std_mean(grouped, dim=-1, keepdim=True)
    return ((grouped - mean) / (spread + 1e-5)).view_as(x)


NORMS = {
    "rms": RMSNorm(),
    "rms of one plus weight": RMSNorm(offset=1.0),
    "layer": layer_norm,
    "group": group_norm,
    "l2": lambda x: x / x.norm(dim=-1, keepdim=True) * math.sqrt(8),
    "l2 by einsum": lambda x: x * 8**0.5 / torch.sqrt((x * x).sum(-1, keepdim=True)),
    "largest": lambda x: 2.0 * x / x.abs().amax(-1, keepdim=True),
    "batch": lambda x: (x - x.mean(0)) / torch.sqrt(x.var(0) + 1e-5),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_in_any_spelling_is_a_norm(name: str) -> None:
    found = between(NORMS[name])
    assert (found.nonlinearity, found.source, found.marks, found.note) == (
        *("linear", "traced", ("normalized",), ""),
    )


@pytest.mark.parametrize("name", NORMS)
def test_an_activation_behind_a_written_norm_is_seen(name: str) -> None:
    found = between(lambda x: F.silu(NORMS[name](x)))
    assert (found.nonlinearity, found.source, found.marks) == ("silu", "traced", ("normalized",))
    formula = between(lambda x: NORMS[name](x) * torch.sigmoid(1.702 * NORMS[name](x)))
    assert formula.source == "assumed" or formula.nonlinearity == "quick_gelu"


def test_a_layer_in_front_of_a_written_norm_is_scale_free() -> None:
    assert "scale-free" in traced(Between(layer_norm), torch.zeros(3, 4))["first"].marks
    both = Between(lambda x: layer_norm(x) + x)
    assert "scale-free" not in traced(both, torch.zeros(3, 4))["first"].marks


def test_a_norm_to_another_length_says_so() -> None:
    found = between(lambda x: x / (x.norm(dim=-1, keepdim=True) * 100.0))
    assert (found.nonlinearity, found.marks) == ("linear", ("normalized",))
    assert "scaled by a factor" in found.note


@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (torch.sin, ("sine", 1.0)),
        (lambda x: torch.sin(30.0 * x), ("sine", 30.0)),
        (lambda x: x.relu() ** 2, ("relu_squared", None)),
        (lambda x: torch.square(F.relu(x)), ("relu_squared", None)),
        (lambda x: torch.where(x > 0, x, 0.1 * x), ("leaky_relu", 0.1)),
        (lambda x: x.masked_fill(x < 0, 0.0), ("relu", None)),
        (lambda x: torch.max(x, torch.zeros(1)), ("relu", None)),
        (lambda x: x * torch.sigmoid(x), ("silu", None)),
        (lambda x: x * torch.sigmoid(1.702 * x), ("quick_gelu", None)),
        (lambda x: x * F.softplus(x).tanh(), ("mish", None)),
        (lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), ("gelu", None)),
        (
            lambda x: (
                0.5
                * x
                * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
            ),
            ("gelu_tanh", None),
        ),
        (lambda x: torch.exp(x.clamp(max=0)) - 1 + x.relu(), ("elu", None)),
        (lambda x: (x + x.abs()) / 2, ("relu", None)),
        (StraightThrough.apply, ("relu", None)),
        (lambda x: x.view(-1).mul(torch.sigmoid(x.view(-1))).view(3, 8), ("silu", None)),
        (lambda x: x.half().sigmoid().float() * x, ("silu", None)),
        (lambda x: x.add_(0.0).sigmoid() * x, ("silu", None)),
    ],
)
def test_an_elementwise_function_is_known_by_its_values(
    function: Callable[[Tensor], Tensor], rule: tuple[str, Any]
) -> None:
    found = between(function)
    assert (found.nonlinearity, found.param) == rule
    assert (found.source, found.note) == ("traced", "")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 1.0 / (1.0 + x.abs()),
        lambda x: x.relu().tanh(),
        lambda x: F.elu(x) + 1,
        lambda x: x + x.tanh(),
        lambda x: torch.exp(-x.square()),
        lambda x: x + torch.sin(2.0 * x) ** 2 / 2.0,
        lambda x: x.sign() * (x.abs() + 1.0).log(),
    ],
)
def test_an_unknown_elementwise_function_brings_its_values(
    function: Callable[[Tensor], Tensor],
) -> None:
    found = between(function)
    assert (found.nonlinearity, found.source) == ("sampled", "traced")
    points = torch.tensor(SAMPLING_POINTS)
    assert torch.allclose(torch.tensor(found.param[2:]).double(), function(points), atol=1e-5)


@pytest.mark.parametrize(
    ("function", "nonlinearity"),
    [
        (lambda a, b: F.silu(a) * b, "swiglu"),
        (lambda a, b: b * a * torch.sigmoid(a), "swiglu"),
        (lambda a, b: F.gelu(a) * b, "geglu"),
        (lambda a, b: b * F.gelu(a, approximate="tanh"), "geglu_tanh"),
        (lambda a, b: a.relu() * b, "reglu"),
        (lambda a, b: a.sigmoid() * b, "glu"),
        (lambda a, b: F.glu(torch.cat([b, a], 1)), "glu"),
        (lambda a, b: a * b, "bilinear"),
        (lambda a, b: a.tanh() * b, "gated_tanh"),
    ],
)
@pytest.mark.parametrize("one_layer", [False, True])
def test_a_gated_product_is_seen(
    function: Callable[[Tensor, Tensor], Tensor], nonlinearity: str, one_layer: bool
) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.value, self.down = (nn.Linear(4, 16 if one_layer else 8),) + (
                nn.Linear(4, 8),
                nn.Linear(8, 2),
            )

        def forward(self, x: Tensor) -> Tensor:
            gate = self.gate(x)
            gate, value = gate.chunk(2, -1) if one_layer else (gate, self.value(x))
            return self.down(F.dropout(function(gate, value), 0.1))

    found = traced(Gated(), torch.zeros(3, 4))["down"]
    assert (found.nonlinearity, found.dropout, found.source) == (nonlinearity, 0.1, "traced")


def test_a_gate_that_may_follow_its_value_is_an_assumption() -> None:
    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.gate, self.down = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.down(x.tanh() * self.gate(x).sigmoid())

    found = traced(Squeeze(), torch.zeros(3, 4))["down"]
    assert (found.nonlinearity, found.source) == ("linear", "assumed")
    assert "a product of two signals" in found.note


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * torch.linspace(0, 1, 8),
        lambda x: x.cumsum(1),
        lambda x: x * x.mean(),
        lambda x: torch.log(x),
    ],
)
def test_what_looks_at_its_neighbours_is_none_of_them(
    function: Callable[[Tensor], Tensor],
) -> None:
    assert between(function).nonlinearity == "linear"
