"""What was there before the draw: kept where an author meant it, and said in the plan."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_init import fractional_moment_init_
from lightning_init.initialization.plan import InitPlan


def kept(plan: InitPlan) -> dict[str, str]:
    return {row.weight.name: row.author for row in plan.rows if row.author}


def chain(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Residual(nn.Module):
    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(16, 32), nn.Linear(32, 20)
        self.first = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))
        self.last = nn.ModuleList(nn.Linear(32, 32) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for first, last in zip(self.first, self.last, strict=True):
            x = x + last(first(x).relu())
        return self.head(x)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_generic_schemes_are_redrawn_and_the_change_is_said() -> None:
    model = chain(16, 64, 64, 20)
    before = [layer.weight.square().mean().sqrt().item() for layer in model[::2]]
    plan = fractional_moment_init_(model)
    assert kept(plan) == {}
    assert [row.before for row in plan.rows] == pytest.approx(before, rel=0.1)
    assert plan.notes[-1].startswith("Against what was there: 3 of 3 weights redrawn, standard")
    assert plan.notes[-1].endswith("3 biases set to zero.")
    assert not any(layer.bias.any() for layer in model[::2])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda w: nn.init.uniform_(w, -3e-3, 3e-3), "near zero on purpose"),
        (lambda w: nn.init.normal_(w, std=0.6), "no generic scheme's scale"),
        (lambda w: nn.init.orthogonal_(w, gain=0.5), "orthogonal"),
        (nn.init.eye_, "mostly zeros: an identity, or sparse"),
        (lambda w: nn.init.constant_(w, 1 / 64), "constant: every entry is 0.0156"),
    ],
)
def test_what_was_set_on_purpose_is_kept_bit_for_bit(change: Any, reason: str) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model = nn.Sequential(*model, nn.Tanh())
    other = nn.Linear(64, 64)
    net = nn.ModuleDict({"body": model, "head": other})
    change(other.weight)
    values = other.weight.detach().clone()

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = net["body"], net["head"]

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    plan = fractional_moment_init_(Both(), example_input=torch.randn(2, 64))
    assert kept(plan) == {"head": reason}
    assert torch.equal(other.weight, values)
    assert f"1 kept (1 {reason.partition(':')[0]})" in plan.notes[-1]
    assert f"kept ({reason})"[:30] in str(plan)
    redrawn = fractional_moment_init_(Both(), example_input=torch.randn(2, 64), respect="nothing")
    assert kept(redrawn) == {}
    assert not torch.equal(other.weight, values)


def test_a_stack_is_kept_where_one_of_its_layers_tells() -> None:
    actor = chain(8, 64, 64, 20)
    nn.init.uniform_(actor[-1].weight, -3e-3, 3e-3)
    before = {name: value.clone() for name, value in actor.state_dict().items()}
    plan = fractional_moment_init_(actor)
    assert kept(plan)["0"] == kept(plan)["2"] == "like its siblings"
    assert all(torch.equal(before[name], value) for name, value in actor.state_dict().items())
    assert plan.notes[-1].startswith("Against what was there: 0 of 3 weights redrawn; 3 kept")


def test_branches_are_kept_and_the_head_behind_them_is_drawn() -> None:
    model = Residual()
    bias = model.head.bias.detach().clone()
    plan = fractional_moment_init_(model, example_input=torch.randn(2, 16))
    reasons = kept(plan)
    assert set(reasons) >= {f"{place}.{block}" for place in ("first", "last") for block in range(3)}
    assert torch.equal(model.head.bias, bias)  # no plain chain


def test_scaled_by_the_depth() -> None:
    model = Residual(depth=8)
    for last in model.last:
        nn.init.normal_(last.weight, std=0.02 / math.sqrt(2 * 8))
    plan = fractional_moment_init_(model, example_input=torch.randn(2, 16))
    assert {kept(plan)[f"last.{block}"] for block in range(8)} == {"scaled by the depth"}


@pytest.mark.parametrize(("bias", "left"), [("auto", -2.0), ("keep", -2.0), ("zero", 0.0)])
def test_biases(bias: Any, left: float) -> None:
    model = chain(16, 64, 20)
    nn.init.constant_(model[0].bias, -2.0)
    plain = model[2].bias.detach().clone()
    fractional_moment_init_(model, bias=bias)
    assert (model[0].bias == left).all()
    assert torch.equal(model[2].bias, plain) == (bias == "keep")


def test_recurrent_layers_keep_theirs() -> None:
    model = nn.LSTM(20, 30)
    with torch.no_grad():
        model.bias_hh_l0[30:60] = 1.0
    before = {name: value.clone() for name, value in model.named_parameters()}
    fractional_moment_init_(model, example_input=torch.randn(4, 2, 20))
    assert torch.equal(model.bias_ih_l0, before["bias_ih_l0"])
    assert torch.equal(model.bias_hh_l0, before["bias_hh_l0"])
    assert not torch.equal(model.weight_ih_l0, before["weight_ih_l0"])


def test_a_second_draw_of_ours_is_no_authors_choice() -> None:
    model = chain(8, 8, 64, 20)
    for order in (2.0, 0.5, 1.0):
        assert kept(fractional_moment_init_(model, order=order)) == {}


def test_a_measuring_pass_that_fails_is_a_remark() -> None:
    class Once(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.calls = chain(16, 64, 4), 0

        def forward(self, x: Tensor) -> Tensor:
            if not self.net[0].bias.any():
                raise RuntimeError("one value per channel")
            return self.net(x)

    plan = fractional_moment_init_(Once(), example_input=torch.randn(2, 16))
    assert any("Not measured" in note and "one value per channel" in note for note in plan.notes)


def test_a_loss_that_more_than_doubles_is_warned_of() -> None:
    plan = fractional_moment_init_(chain(16, 64, 4), dry_run=True)
    assert "Loss of the first batch: 2 before, 3 after." in plan.with_losses(2.0, 3.0).notes
    assert plan.with_losses(2.0, 3.0).warnings == plan.warnings
    (sentence,) = plan.with_losses(2.0, 5.0).warnings
    assert sentence.startswith("the loss of the first batch went from 2 to 5")
    assert plan.with_losses(2.0, None) == plan


def test_names_in_a_table_stay_apart() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_transformer_with_a_long_name = nn.ModuleList(
                nn.ModuleDict({"self_attention_of_queries": nn.Linear(8, 8)}) for _ in range(12)
            )

        def forward(self, x: Tensor) -> Tensor:
            for block in self.a_transformer_with_a_long_name:
                x = block["self_attention_of_queries"](x).relu()
            return x

    plan = fractional_moment_init_(Deep(), example_input=torch.randn(2, 8))
    lines = str(plan).splitlines()[2:14]
    assert len({line.split()[0] for line in lines}) == 12
