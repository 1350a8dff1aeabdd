from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_init.inspection.computed_weights import (
    masked_fan_ins,
    masked_fans,
    standardized_gain,
)
from lightning_init.inspection.fans import Fans


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_masked_fan_ins_count_what_reaches_an_output(rows: int, columns: int, seed: int) -> None:
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert masked_fan_ins(mask) == tuple((mask.double() @ torch.ones(columns).double()).tolist())


def test_mean_fans_leave_out_what_is_not_connected() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    assert masked_fan_ins(mask) == (3, 1, 0)
    assert masked_fans(mask) == Fans(2, 1, 1)
    assert masked_fans(torch.zeros(2, 2)) == Fans(1, 1, 1)


def test_a_masked_kernel_counts_its_open_positions() -> None:
    """The first mask of PixelCNN: the pixels above, and those to the left of the centre."""
    mask = torch.zeros(8, 4, 3, 3)
    mask[:, :, 0] = 1
    mask[:, :, 1, 0] = 1
    assert masked_fans(mask) == Fans(16, 32, 9)


def _standardized(raw: Tensor, gain: float) -> Tensor:
    flat = raw.flatten(1)
    rows = flat - flat.mean(1, keepdim=True)
    rows = rows / rows.std(1, correction=0, keepdim=True) * gain / flat.shape[1] ** 0.5
    return rows.reshape(raw.shape)


@given(st.floats(0.1, 10.0), st.floats(1e-3, 1e3), st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_standardized_weights_are_told_at_any_scale(gain: float, scale: float, seed: int) -> None:
    raw = scale * torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
    found = standardized_gain(raw, _standardized(raw, gain))
    assert found == pytest.approx(gain, rel=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw,
        lambda raw: 3.0 * raw,
        lambda raw: raw - raw.mean((1, 2, 3), keepdim=True),
        lambda raw: raw / raw.std(),
        lambda raw: _standardized(raw, 1.0) + 0.1 * raw,
        lambda raw: _standardized(raw, 1.0)[:3],
    ],
)
def test_other_weights_are_not(change) -> None:
    raw = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    assert standardized_gain(raw, change(raw)) is None


def test_what_cannot_be_told_is_not() -> None:
    one_row, constant = torch.randn(1, 9), torch.ones(4, 9)
    assert standardized_gain(one_row, one_row) is None
    assert standardized_gain(constant, constant) is None
    assert standardized_gain(torch.randn(4, 1), torch.randn(4, 1)) is None
