from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_init import fractional_moment_init_
from lightning_init.initialization import fill, rollback


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.lstm = nn.Linear(6, 8), nn.LSTM(8, 8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))
        self.last = nn.Linear(8, 3)


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def redraw(model: nn.Module) -> Any:
    return fractional_moment_init_(model, respect="nothing", bias="zero")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["fill_normal_", "fill_orthogonal_", "zero_biases_"])
def test_a_draw_that_fails_on_its_way_leaves_the_model_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, name: str, error: type[BaseException]
) -> None:
    model = Net()
    before = bits(model)
    original, calls = getattr(fill, name), []

    def failing(*args: Any) -> None:
        original(*args)
        calls.append(args)
        if len(calls) == 3:
            raise error("out of memory")

    monkeypatch.setattr(fill, name, failing)
    with pytest.raises(error, match="out of memory"):
        redraw(model)
    assert len(calls) == 3
    assert_unchanged(model, before)


def test_a_weight_that_refuses_to_be_written_is_no_half_draw() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = nn.Parameter(torch.randn(4, 1).expand(4, 4))
    before = bits(model)
    with pytest.raises(RuntimeError, match="single memory location"):
        redraw(model)
    assert_unchanged(model, before)


def test_what_cannot_fail_is_not_copied_where_copies_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback, "_FEW_BYTES", 0)
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
    weights = [row.weight for row in fractional_moment_init_(plain).rows]
    with rollback.Rollback(plain, weights) as before:
        before.keep(weights[0])
    assert not before._before
    model = Net()
    weights = [row.weight for row in redraw(model).rows]
    with rollback.Rollback(model, weights) as before:
        before.keep(weights[0])
    assert len(before._before) == 2
