from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lightning_init import fractional_moment_init_
from lightning_init.initialization.plan import InitPlan
from lightning_init.initialization.prediction import longest_run, predict
from lightning_init.theory.activation_laws import activation_law
from lightning_init.theory.log_norm import log_norm_law


def plan_of(*layers: nn.Module, **arguments: object) -> InitPlan:
    return fractional_moment_init_(nn.Sequential(*layers), **arguments)  # type: ignore[arg-type]


def relu_stack(depth: int, width: int = 64) -> list[nn.Module]:
    return [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]


def test_the_law_is_the_sum_of_the_steps() -> None:
    found = predict(plan_of(*relu_stack(20)).rows, 1.0)
    first = log_norm_law(activation_law("linear"), 64, 1.0)
    rest = log_norm_law(activation_law("relu"), 64, 1.0).repeated(19)
    assert found.depth == 20
    assert found.law.drift == pytest.approx((first + rest).drift, rel=1e-10)
    assert found.law.variance == pytest.approx((first + rest).variance, rel=1e-10)
    assert found.shift == pytest.approx(
        sum(math.log(r.ratio) for r in plan_of(*relu_stack(20)).rows)
    )


def test_a_norm_a_recurrence_and_a_scale_free_weight_end_a_run() -> None:
    plan = plan_of(*relu_stack(3), nn.Linear(64, 64), nn.BatchNorm1d(64), *relu_stack(5))
    # The first of the five stands behind the norm; the one that feeds it goes nowhere.
    assert [row.weight.name for row in longest_run(plan.rows)] == ["8", "10", "12", "14", "16"]
    lstm = fractional_moment_init_(nn.LSTM(4, 4), example_input=torch.randn(2, 1, 4))
    assert longest_run(lstm.rows) == ()
    assert lstm.notes[0].startswith("Every drawn weight feeds a norm or is recurrent")


def test_queries_keys_and_values_count_once() -> None:
    attention = nn.MultiheadAttention(8, 2)
    x = torch.randn(3, 1, 8)
    plan = fractional_moment_init_(attention, example_input=(x, x, x))
    assert len(longest_run(plan.rows)) == 1


def test_wide_nets_are_told_that_kaiming_is_as_good() -> None:
    wide = plan_of(*relu_stack(2, 2048))
    assert wide.notes[0].endswith("no material difference.")
    assert "no material" not in str(plan_of(*relu_stack(30)))


def test_a_contracting_activation_forgets_deviations() -> None:
    layers = [layer for _ in range(60) for layer in (nn.Linear(64, 64), nn.Tanh())]
    found = predict(plan_of(*layers).rows, 1.0)
    chi = activation_law("tanh").scale_exponent
    step = log_norm_law(activation_law("tanh"), 64, 1.0)
    assert found.law.variance == pytest.approx(step.variance / (1 - chi**2), rel=1e-6)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_tables_keep_to_their_width(width: int) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_rather_long_name_for_an_encoder_of_images = nn.Sequential(*relu_stack(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a_rather_long_name_for_an_encoder_of_images(x)

    plan = fractional_moment_init_(Named(), example_input=torch.randn(2, 64))
    for text in (plan.table(width=width), plan.full(width)):
        assert max(map(len, text.splitlines())) <= width
        names = {line.split()[0] for line in text.splitlines() if line.startswith("a_rat")}
        assert len(names) == 4
    for column in ("law at order 1", "std", "change"):
        assert column in plan.table(width=width)
    for column in ("law at order 1", "/ Kaiming", "log-norm", "predicted", "fan_in", "was"):
        assert column in plan.full(width)
    if width == 160:
        assert all(row.weight.name in text for row in plan.rows)


@pytest.mark.parametrize(("bias", "said"), [("keep", True), ("zero", False)])
def test_kept_biases_are_said_to_be_left_out(bias: str, said: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    plan = fractional_moment_init_(model, bias=bias)
    assert any("biases are kept, and left out" in line for line in plan.notes) is said
