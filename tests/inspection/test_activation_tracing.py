from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_models import Between, declared, traced
from torch import Tensor, nn


class Attending(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.memory = nn.Linear(4, 8), nn.Linear(4, width)
        self.attention = nn.MultiheadAttention(8, 2, kdim=width, vdim=width)

    def forward(self, x: Tensor) -> Tensor:
        query, memory = self.query(x).relu(), self.memory(x).tanh()
        return self.attention(query, memory, F.dropout(memory, 0.2))[0]


@pytest.mark.parametrize("width", [6, 8])
def test_query_key_and_value_each_keep_their_own_input(width: int) -> None:
    found = traced(Attending(width).eval(), torch.zeros(3, 2, 4))
    attribute = "in_proj_weight.{}" if width == 8 else "{}_proj_weight"
    blocks = {letter: found[f"attention.{attribute.format(letter)}"] for letter in "qkv"}
    rules = {letter: (a.nonlinearity, a.dropout) for letter, a in blocks.items()}
    assert rules == {"q": ("relu", 0.0), "k": ("tanh", 0.0), "v": ("tanh", 0.2)}
    assert found["attention.out_proj"].marks == ("attention",)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.RNN(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(x)[0])


def test_a_plain_rnn_has_the_law_of_its_activation_behind_it() -> None:
    found = traced(Recurrent(), torch.zeros(3, 2, 4))
    assert found["inner.weight_ih_l0"].first_layer
    assert found["inner.weight_hh_l0"].nonlinearity == "tanh"
    assert found["inner.weight_hh_l0"].source == "assumed"
    assert "at every step" in found["inner.weight_hh_l0"].note
    assert (found["head"].nonlinearity, found["head"].source) == ("tanh", "traced")


class Looping(nn.Module):
    """One layer used again and again, one that is never used, one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.unused, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        while x.abs().sum() < 100:
            x = self.cell(x).relu() + 1e3
        return self.head(self.frozen(x))

    def twice(self, x: Tensor) -> Tensor:
        return self.head(self.cell(self.cell(self.cell(x).relu()).relu()))


def test_a_weight_without_an_input_is_said_to_have_none() -> None:
    found = traced(Looping(), torch.zeros(3, 4))
    assert found["unused"].source == "assumed"
    assert found["unused"].note == "not reached by the example input: linear rule used"
    assert not found["unused"].first_layer
    assert found["cell"].first_layer
    assert (found["head"].nonlinearity, found["head"].source) == ("linear", "traced")


def test_several_uses_of_a_weight_take_the_most_frequent_rule(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Looping, "forward", Looping.twice)
    found = traced(Looping(), torch.zeros(3, 4))["cell"]
    assert (found.nonlinearity, found.source, found.first_layer) == ("relu", "assumed", False)
    assert found.note == "used 3 times, behind linear, relu: rule of relu used"


def test_a_reparametrized_weight_is_recognized() -> None:
    first = nn.utils.parametrizations.weight_norm(nn.Linear(4, 8))
    model = nn.Sequential(first, nn.Tanh(), nn.utils.parametrizations.weight_norm(nn.Linear(8, 2)))
    for found in (declared(model), traced(model, torch.zeros(3, 4))):
        assert found["0"].first_layer
        assert found["2"].nonlinearity == "tanh"


def test_two_inputs_of_a_bilinear_layer() -> None:
    class Pair(nn.Module):
        def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.first, self.pair, self.function = nn.Linear(4, 4), nn.Bilinear(4, 4, 2), function

        def forward(self, x: Tensor) -> Tensor:
            return self.pair(self.first(x), self.function(self.first(x)))

    plain = traced(Pair(nn.Identity()), torch.zeros(3, 4))["pair"]
    assert (plain.nonlinearity, plain.source) == ("linear", "traced")
    bent = traced(Pair(torch.relu), torch.zeros(3, 4))["pair"]
    assert (bent.nonlinearity, bent.source) == ("linear", "assumed")


@pytest.mark.parametrize(
    ("function", "scale_free"),
    [
        (lambda x: F.layer_norm(x, (8,)), True),
        (lambda x: F.layer_norm(x.view(3, 2, 4).flatten(1), (8,)), True),
        (lambda x: F.layer_norm(x.relu(), (8,)), False),
        (lambda x: F.layer_norm(x, (8,)) + x, False),
    ],
)
def test_scale_free_means_into_norms_only(
    function: Callable[[Tensor], Tensor], scale_free: bool
) -> None:
    found = traced(Between(function), torch.zeros(3, 4))
    assert ("scale-free" in found["first"].marks) is scale_free
    assert "scale-free" not in found["second"].marks


class Everything(nn.Module):
    """Whatever a forward pass may leave behind."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 2))
        self.register_buffer("calls", torch.zeros(()))
        self.fails = fails

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.calls = self.calls + random.random()
        x.add_(1.0)
        x = self.net(x)
        if self.fails:
            raise RuntimeError("no such\nlayer")
        return self.head(x)


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_changed(fails: bool) -> None:
    model, example_input = Everything(fails=fails), torch.zeros(3, 4)
    model.net[1].eval()
    tensors = dict(model.state_dict(keep_vars=True))
    values = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    versions = {name: tensor._version for name, tensor in tensors.items()}
    modes = {name: module.training for name, module in model.named_modules()}
    states = torch.get_rng_state(), random.getstate()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    if fails:
        with pytest.raises(ValueError, match="could not be run"):
            traced(model, example_input)
    else:
        traced(model, example_input)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(tensors)
    for name, tensor in after.items():
        assert tensor is tensors[name]
        assert torch.equal(tensor, values[name])
        assert tensor._version == versions[name]
        assert tensor.grad is None
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert torch.equal(example_input, torch.zeros(3, 4))
    assert torch.backends.mha.get_fastpath_enabled() == fast_path
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.overrides._get_current_function_mode() is None


def test_a_failing_forward_is_told_in_one_line() -> None:
    with pytest.raises(ValueError, match="example_input") as caught:
        traced(Everything(fails=True), torch.zeros(3, 4))
    assert str(caught.value) == (
        "`example_input` could not be run through Everything: RuntimeError: no such layer; "
        "pass what its forward takes (a tensor, a tuple of arguments or a dict of keywords)."
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_lazy_layer_is_refused_before_anything_runs() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    message = "Parameter '0.weight' is lazy and has no shape yet; run one forward pass on a batch"
    with pytest.raises(ValueError, match=re.escape(message)):
        traced(model, torch.zeros(2, 4))


@pytest.mark.parametrize("form", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"x": x}])
def test_every_form_of_example_input(form: Callable[[Tensor], Any]) -> None:
    assert traced(Between(torch.relu), form(torch.zeros(1, 4)))["first"].first_layer


def test_compiled_parts_run_eagerly() -> None:
    compiled: list[object] = []

    def backend(graph: Any, _: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    inner = torch.compile(nn.Sequential(nn.Mish(), nn.Linear(8, 2)), backend=backend)
    found = traced(nn.Sequential(nn.Linear(4, 8), inner), torch.zeros(3, 4))
    assert found["1.1"].nonlinearity == "mish"
    assert not compiled


def test_a_batch_of_one_goes_through_batch_norm() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    found = traced(model, torch.zeros(1, 4))
    assert (found["3"].nonlinearity, found["3"].marks) == ("relu", ("normalized",))


def test_the_caller_may_be_in_inference_mode() -> None:
    model = Between(torch.relu)
    with torch.inference_mode():
        assert traced(model, torch.zeros(3, 4))["second"].nonlinearity == "relu"


def test_an_output_that_is_also_returned_is_not_scale_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(model: Between, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = model.first(x)
        return model.second(F.layer_norm(hidden, (8,))), hidden

    monkeypatch.setattr(Between, "forward", forward)
    assert traced(Between(nn.Identity()), torch.zeros(3, 4))["first"].marks == ()


def test_addmm_multiplies_its_second_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(model: Between, x: Tensor) -> Tensor:
        hidden = model.first(x)
        return torch.addmm(hidden[:, :2].tanh(), hidden.relu(), model.second.weight.t())

    monkeypatch.setattr(Between, "forward", forward)
    found = traced(Between(nn.Identity()), torch.zeros(3, 4))["second"]
    assert (found.nonlinearity, found.source) == ("relu", "traced")


def test_behind_an_activation_nothing_is_a_first_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(model: Between, x: Tensor) -> Tensor:
        return model.second(model.first(F.layer_norm(x.relu(), (4,))))

    monkeypatch.setattr(Between, "forward", forward)
    assert not traced(Between(nn.Identity()), torch.zeros(3, 4))["first"].first_layer
