"""Gated products: unit input, order 2, and the output must be unit too, within 5 %."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lightning_init.theory.activation_laws import ActivationLaw, activation_law
from lightning_init.theory.fractional_moments import moment_preserving_std

UNIT = 0.05


def _std(law: ActivationLaw, fan_in: int) -> float:
    return moment_preserving_std(law, fan_in, order=2.0)


def _normal(shape: torch.Size | tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _root_mean_square(values: list[Tensor]) -> float:
    return math.sqrt(sum(float(value.square().mean()) for value in values) / len(values))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("name", ["bilinear", "reglu", "swiglu", "geglu", "glu"])
def test_gated_products_behind_a_norm_keep_the_scale(name: str, generator: torch.Generator) -> None:
    """RMSNorm, two projections, phi(a) b, one projection: the output of each of 8 blocks."""
    gates = {
        "bilinear": lambda a: a,
        "reglu": torch.relu,
        "swiglu": functional.silu,
        "geglu": functional.gelu,
        "glu": torch.sigmoid,
    }
    width, hidden, outputs = 128, 256, []
    stream = _normal((64, width), generator)
    for _ in range(8):
        rows = stream / stream.square().mean(1, keepdim=True).sqrt()
        inner = _std(activation_law("normalized"), width)
        a, b = (inner * rows @ _normal((width, hidden), generator) for _ in range(2))
        output = (gates[name](a) * b) @ _normal((hidden, width), generator)
        outputs.append(_std(activation_law(name), hidden) * output)
        stream = stream + outputs[-1]
    assert _root_mean_square(outputs) == pytest.approx(1.0, abs=UNIT)
