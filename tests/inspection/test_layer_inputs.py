"""What enters every layer: with and without origins, and from the trace instead of a second run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lightning_init.initialization.plan as plan_module
from lightning_init import fractional_moment_init_
from lightning_init.inspection.layer_inputs import record_layer_inputs
from lightning_init.inspection.weights import find_weights


class Residual(nn.Module):
    """A trunk that is kept, with a head that is drawn."""

    def __init__(self, *, tail: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 4)
        self.tail = nn.Linear(4, 4) if tail else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + functional.dropout(block(x).relu(), 0.3)
        x = self.head(x)
        return x if self.tail is None else self.tail(x.relu())


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 8)
        self.register_buffer("mask", torch.ones(8, 8).tril())

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return functional.linear(x, self.second.weight * self.mask, self.second.bias)


def runs_again(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Notes every measuring pass."""
    calls: list[Any] = []
    measure = plan_module.measure_log_norms

    def counted(*args: Any) -> Any:
        calls.append(args)
        return measure(*args)

    monkeypatch.setattr(plan_module, "measure_log_norms", counted)
    return calls


def test_a_model_of_which_only_the_head_is_drawn_is_not_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model, batch = Residual(), torch.randn(16, 8)
    calls = runs_again(monkeypatch)
    torch.manual_seed(1)
    plan = fractional_moment_init_(model, example_input=batch)
    assert [row.weight.name for row in plan.rows if row.treatment != "keep"] == ["head"]
    assert not calls
    torch.manual_seed(1)  # for the same dropout
    assert plan.log_norms == plan.measured_on(model, batch).log_norms
    assert len(plan.log_norms) == 4


@pytest.mark.parametrize("make", [Recurrent, lambda: Residual(tail=True)])
def test_what_runs_behind_a_drawn_weight_is_measured_after_the_draw(
    monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    torch.manual_seed(0)
    model = make()
    batch = torch.randn(5, 3, 4) if isinstance(model, Recurrent) else torch.randn(5, 8)
    calls = runs_again(monkeypatch)
    torch.manual_seed(1)
    plan = fractional_moment_init_(model, example_input=batch)
    assert len(calls) == 1
    torch.manual_seed(1)
    assert plan.log_norms == plan.measured_on(model, batch).log_norms


@pytest.mark.parametrize("model", [Masked(), nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())])
def test_log_norms_do_not_depend_on_whether_origins_are_followed(model: nn.Module) -> None:
    batch = torch.randn(5, 4) if isinstance(model, Masked) else torch.randn(2, 4, 6, 6)
    weights = find_weights(model).weights
    with_origins, without = (
        record_layer_inputs(model, weights, batch, origins=origins) for origins in (True, False)
    )
    assert [*with_origins] == [*without] == [weight.name for weight in weights]
    for name, one in with_origins.items():
        assert replace(one, origin=None) == without[name]
