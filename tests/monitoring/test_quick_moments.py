from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_init.monitoring.quick_moments import quick_moments
from lightning_init.monitoring.weight_moments import tensor_moments


def gaussian(*shape: int, mean: float = 0.0) -> Tensor:
    return mean + 0.02 * torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "tensor",
    [
        gaussian(10, 64),
        gaussian(256, 257),
        gaussian(1024, 1024),
        gaussian(300, 300).t()[:, ::2],
        gaussian(64, 64, mean=0.01),
        gaussian(64, 64, mean=10.0),
        1e-22 * gaussian(64, 64),
        gaussian(64, 64).double(),
        gaussian(64, 64).bfloat16(),
        torch.zeros(3, 3),
    ],
)
def test_agrees_with_double_precision(tensor: Tensor) -> None:
    count, mean, m2 = quick_moments(tensor)
    wide = tensor.double()
    assert count == tensor.numel()
    exact = (wide - wide.mean()).square().sum().item()
    assert m2 == pytest.approx(exact, rel=1e-6)
    spread = math.sqrt(exact / count)
    assert mean == pytest.approx(wide.mean().item(), abs=1e-6 * spread + 1e-12 * abs(mean))


def test_values_on_a_coarse_grid_are_off_by_little() -> None:
    signs = 0.1 * torch.randint(0, 2, (1 << 20,), generator=torch.Generator().manual_seed(0))
    signs = signs.float() - 0.05
    assert quick_moments(signs)[2] == pytest.approx(tensor_moments(signs)[2].item(), rel=5e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_what_is_not_finite_stays_visible(value: float) -> None:
    tensor = gaussian(64, 64)
    tensor[3, 5] = value
    assert not quick_moments(tensor)[2] < 1e30
