from __future__ import annotations

import re
import warnings

import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from lightning_init.inspection.reasons import (
    ALL_ZERO,
    EMBEDDING,
    FROZEN,
    ON_META_DEVICE,
    UNINITIALIZED,
)
from lightning_init.inspection.weights import effective_weight, find_every_weight, find_weights


def names(model: nn.Module, **patterns: list[str]) -> list[str]:
    return [weight.name for weight in find_weights(model, **patterns).weights]


def reasons(model: nn.Module, **patterns: list[str]) -> dict[str, str]:
    return {one.name: one.reason for one in find_weights(model, **patterns).left_out}


class Zoo(nn.Module):
    """One of nearly everything."""

    def __init__(self) -> None:
        super().__init__()
        self.bare = nn.Parameter(torch.ones(2))
        self.embedding = nn.Embedding(5, 4)
        self.body = nn.Sequential(
            nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Conv1d(4, 8, 3), nn.PReLU()
        )
        self.up = nn.ConvTranspose1d(8, 4, 3)
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.lstm = nn.LSTM(4, 4, num_layers=2, bidirectional=True)
        self.cell = nn.GRUCell(4, 4)
        self.weight_norm = parametrizations.weight_norm(nn.Linear(4, 4))
        self.spectral = parametrizations.spectral_norm(nn.Linear(4, 4))
        self.head = nn.Linear(4, 5)
        self.head.weight = self.embedding.weight
        self.alias = self.body[0]
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_every_parameter_is_accounted_for_once() -> None:
    model = Zoo()
    inventory = find_weights(model)
    elements = 0
    for weight in inventory.weights:
        module = model.get_submodule(weight.module_name)
        elements += effective_weight(model, weight).numel()
        elements += sum(getattr(module, bias).numel() for bias in weight.biases)
    elements += sum(
        torch.Size(one.shape).numel()
        for one in inventory.left_out
        if not one.reason.startswith("tied to")
    )
    magnitudes = 4  # of weight normalization, beside a direction of the weight's own shape
    assert elements + magnitudes == sum(p.numel() for p in model.parameters())


def test_names_are_unique_and_tag_safe_and_ordered_by_module() -> None:
    inventory = find_weights(Zoo())
    every = [one.name for one in (*inventory.weights, *inventory.left_out)]
    assert len(set(every)) == len(every)
    assert all(re.fullmatch(r"[A-Za-z0-9_./-]+", name) for name in every)
    assert names(Zoo())[:6] == [
        "body.0",
        "body.2",
        "up",
        "attention.in_proj_weight.q",
        "attention.in_proj_weight.k",
        "attention.in_proj_weight.v",
    ]
    assert names(Zoo()) == names(Zoo())


def test_a_weight_describes_its_layer() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 6, 3, groups=2))
    (weight,) = find_weights(model).weights
    assert (weight.name, weight.module_name, weight.module_type) == ("1", "1", "Conv2d")
    assert (weight.attribute, weight.rows, weight.shape) == ("weight", None, (6, 2, 3, 3))
    assert (weight.fan_in, weight.fan_out, weight.taps) == (18, 27, 9)
    assert (weight.kind, weight.parametrization, weight.biases) == ("conv", None, ("bias",))


def test_the_root_may_be_a_layer() -> None:
    (weight,) = find_weights(nn.Linear(3, 2)).weights
    assert (weight.name, weight.module_name) == ("weight", "")
    assert names(nn.GRUCell(2, 2))[0] == "weight_ih.reset"


def test_a_stacked_bias_is_listed_on_the_first_block_only() -> None:
    inventory = find_weights(nn.LSTM(3, 4))
    assert [weight.biases for weight in inventory.weights] == [
        ("bias_ih_l0",), (), (), (), ("bias_hh_l0",), (), (), (),
    ]  # fmt: skip
    assert inventory.left_out == ()


def test_a_stacked_bias_is_left_out_when_a_block_of_it_is() -> None:
    model = nn.MultiheadAttention(4, 2)
    inventory = find_weights(model, exclude=["*.k"])
    assert [weight.name for weight in inventory.weights] == [
        "in_proj_weight.q",
        "in_proj_weight.v",
        "out_proj",
    ]
    assert [weight.biases for weight in inventory.weights] == [(), (), ("bias",)]
    assert reasons(model, exclude=["*.k"]) == {
        "in_proj_weight.k": "excluded by pattern '*.k'",
        "in_proj_bias": "bias of 'in_proj_weight.k', which is left out",
    }


def test_separate_projections_share_a_bias() -> None:
    inventory = find_weights(nn.MultiheadAttention(4, 2, kdim=3, vdim=5))
    assert [(w.name, w.shape, w.fan_in, w.biases) for w in inventory.weights] == [
        ("q_proj_weight", (4, 4), 4, ("in_proj_bias",)),
        ("k_proj_weight", (4, 3), 3, ()),
        ("v_proj_weight", (4, 5), 5, ()),
        ("out_proj", (4, 4), 4, ("bias",)),
    ]


class Scale(nn.Module):
    """Not a known kind of layer, though its parameter looks like a linear weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))


def frozen() -> nn.Module:
    return nn.Linear(3, 2, bias=False).requires_grad_(False)


def zero() -> nn.Module:
    module = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(module.weight)
    return module


def unfit() -> nn.Module:
    module = nn.Linear(3, 2, bias=False)
    module.weight = nn.Parameter(torch.ones(2, 5))
    return module


def old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(3, 3, bias=False))


def flattened() -> nn.Module:
    module = nn.Linear(3, 2, bias=False)
    module.weight = nn.Parameter(torch.ones(6))
    return module


def other_parametrization() -> nn.Module:
    module = nn.Linear(3, 3, bias=False)
    parametrize.register_parametrization(module, "weight", nn.Softplus())
    return module


def two_parametrizations() -> nn.Module:
    module = parametrizations.weight_norm(nn.Linear(3, 3, bias=False))
    parametrize.register_parametrization(module, "weight", nn.Softplus())
    return module


LEFT_OUT = {
    "frozen": (frozen, FROZEN),
    "zero": (zero, ALL_ZERO),
    "meta": (lambda: nn.Linear(3, 2, bias=False, device="meta"), ON_META_DEVICE),
    "lazy linear": (lambda: nn.LazyLinear(3, bias=False), UNINITIALIZED),
    "lazy conv": (lambda: nn.LazyConv2d(3, 3, bias=False), UNINITIALIZED),
    "embedding": (lambda: nn.Embedding(3, 2), EMBEDDING),
    "embedding bag": (lambda: nn.EmbeddingBag(3, 2), EMBEDDING),
    "layer norm": (lambda: nn.LayerNorm(3, bias=False), "scale of a normalization layer"),
    "rms norm": (lambda: nn.RMSNorm(3), "scale of a normalization layer"),
    "prelu": (nn.PReLU, "slope of an activation"),
    "bare": (Scale, "bare nn.Parameter of Scale; not a known kind of layer"),
    "complex": (
        lambda: nn.Linear(3, 2, bias=False, dtype=torch.complex64),
        "stored as torch.complex64: quantized, integer or complex",
    ),
    "empty": (
        lambda: nn.Linear(0, 2, bias=False),
        "empty: it has no elements, or another process holds them",
    ),
    "unfit": (unfit, "of shape (2, 5), which does not fit the layer's fan-in"),
    "flattened": (flattened, "of shape (6,), which does not fit the layer's fan-in"),
    "spectral_norm": (
        lambda: parametrizations.spectral_norm(nn.Linear(3, 3, bias=False)),
        "spectral_norm: the parametrization fixes the weight's scale",
    ),
    "orthogonal": (
        lambda: parametrizations.orthogonal(nn.Linear(3, 3, bias=False)),
        "orthogonal: the parametrization fixes the weight's scale",
    ),
    "other parametrization": (
        other_parametrization,
        "parametrized by Softplus; only weight_norm alone is known",
    ),
    "two parametrizations": (
        two_parametrizations,
        "parametrized by _WeightNorm, Softplus; only weight_norm alone is known",
    ),
    "old weight_norm": (
        old_weight_norm,
        "old-style weight_norm; use torch.nn.utils.parametrizations.weight_norm",
    ),
    "old spectral_norm": (
        lambda: nn.utils.spectral_norm(nn.Linear(3, 3, bias=False)),
        "old-style spectral_norm: it fixes the weight's scale",
    ),
    "pruned": (
        lambda: prune.l1_unstructured(nn.Linear(3, 3, bias=False), "weight", 0.5),
        "pruned; make it permanent with torch.nn.utils.prune.remove",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", LEFT_OUT)
def test_left_out_with_its_reason(case: str) -> None:
    make, reason = LEFT_OUT[case]
    model = nn.Sequential(nn.Linear(2, 2), make())
    inventory = find_weights(model)
    assert [weight.name for weight in inventory.weights] == ["0"]
    assert {one.reason for one in inventory.left_out} == {reason}


@pytest.mark.parametrize("case", ["frozen", "lazy linear", "meta", "zero"])
def test_a_bias_goes_with_its_weight(case: str) -> None:
    layer = {
        "frozen": nn.Linear(3, 2),
        "lazy linear": nn.LazyLinear(2),
        "meta": nn.Linear(3, 2, device="meta"),
        "zero": nn.Linear(3, 2),
    }[case]
    if case == "zero":
        nn.init.zeros_(layer.weight)
    if case == "frozen":
        layer.weight.requires_grad_(False)
    assert reasons(nn.Sequential(layer))["0.bias"] == "bias of '0', which is left out"


def test_a_frozen_bias_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    model[0].bias.requires_grad_(False)
    assert find_weights(model).weights[0].biases == ()
    assert reasons(model) == {"0.bias": FROZEN}


def test_one_zero_gate_is_left_out_and_the_others_are_not() -> None:
    model = nn.GRUCell(3, 4)
    with torch.no_grad():
        model.weight_hh[4:8] = 0
    assert reasons(model)["weight_hh.update"] == ALL_ZERO
    assert {"weight_hh.reset", "weight_hh.new"} <= set(names(model))


def test_spectral_norm_is_not_evaluated() -> None:
    # Reading the weight in training mode would advance its power iteration.
    model = parametrizations.spectral_norm(nn.Linear(4, 4)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_weights(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_weight_norm_takes_part_through_the_effective_weight() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv1d(3, 4, 5)))
    (weight,) = find_weights(model).weights
    assert (weight.parametrization, weight.module_type) == ("weight_norm", "Conv1d")
    assert (weight.shape, weight.biases) == ((4, 3, 5), ("bias",))
    with torch.no_grad():
        model[0].parametrizations.weight.original0.mul_(3)
    value = effective_weight(model, weight)
    assert torch.equal(value, model[0].weight.detach())
    assert not value.requires_grad


def test_effective_weight_is_a_detached_view_of_the_block() -> None:
    model = nn.LSTM(3, 4)
    weight = next(w for w in find_weights(model).weights if w.name == "weight_hh_l0.cell")
    value = effective_weight(model, weight)
    assert torch.equal(value, model.weight_hh_l0.detach()[8:12])
    assert value.data_ptr() == model.weight_hh_l0[8:].data_ptr()
    assert not value.requires_grad


class Tied(nn.Module):
    def __init__(self, tie: str) -> None:
        super().__init__()
        self.decoder = nn.Linear(4, 6, bias=False)
        self.encoder = nn.Embedding(6, 4) if tie == "embedding" else nn.Linear(4, 6, bias=False)
        self.decoder.weight = self.encoder.weight


def test_tied_weights_count_once_under_the_first_name() -> None:
    assert names(Tied("linear")) == ["decoder"]
    assert reasons(Tied("linear")) == {"encoder": "tied to decoder"}


def test_a_weight_tied_to_an_embedding_is_an_embedding() -> None:
    # Also when the linear layer comes first.
    assert names(Tied("embedding")) == []
    assert reasons(Tied("embedding")) == {"decoder": "tied to encoder", "encoder": EMBEDDING}


def test_a_shared_module_counts_once() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert names(model) == ["0"]
    assert reasons(model) == {"2": "tied to 0", "2.bias": "tied to 0.bias"}


def test_a_layer_owns_a_parameter_that_its_parent_also_holds() -> None:
    class Parent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.ones(2, 3))
            self.layer = nn.Linear(3, 2, bias=False)
            self.layer.weight = self.kernel

    assert names(Parent()) == ["layer"]
    assert reasons(Parent()) == {"kernel": "tied to layer"}


def test_compiled_and_distributed_wrappers_leave_no_trace_in_names() -> None:
    inner = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    model = nn.ModuleDict({"net": torch.compile(inner)})
    weights = find_weights(model).weights
    assert [weight.name for weight in weights] == ["net.0", "net.1"]
    assert weights[0].module_name == "net._orig_mod.0"
    assert effective_weight(model, weights[1]).shape == (2, 3)
    assert names(nn.DataParallel(inner)) == ["0", "1"]
    # An attribute that the user called "module" is no wrapper.
    assert names(nn.ModuleDict({"module": nn.Linear(2, 2)})) == ["module"]


def test_unsafe_characters_are_replaced_and_names_stay_unique() -> None:
    model = nn.ModuleDict({"a b": nn.Linear(2, 2), "a_b": nn.Linear(2, 2), "a:b": nn.Linear(2, 2)})
    weights = find_weights(model).weights
    assert [weight.name for weight in weights] == ["a_b", "a_b_", "a_b__"]
    assert [weight.module_name for weight in weights] == ["a b", "a_b", "a:b"]


class NetworkMetric(torchmetrics.Metric):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(3, 3)

    def update(self) -> None: ...

    def compute(self) -> None: ...


def test_networks_inside_a_metric_do_not_take_part() -> None:
    model = nn.ModuleDict({"metric": NetworkMetric(), "net": nn.Linear(3, 3)})
    assert names(model) == ["net"]
    assert set(reasons(model).values()) == {"inside a torchmetrics metric"}


def mlp() -> nn.Module:
    return nn.ModuleDict(
        {"net": nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3)), "head": nn.Linear(3, 2)}
    )


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({"include": ["net.*"]}, ["net.0", "net.2"]),
        ({"include": ["net.0.weight", "head"]}, ["net.0", "head"]),
        ({"include": ["*"], "exclude": ["net.?"]}, ["head"]),
        ({"exclude": ["head*"]}, ["net.0", "net.2"]),
        # exclude wins over include
        ({"include": ["net.0", "net.2"], "exclude": ["net.0"]}, ["net.2"]),
        ({"exclude": []}, ["net.0", "net.2", "head"]),
    ],
)
def test_patterns(patterns: dict[str, list[str]], expected: list[str]) -> None:
    assert names(mlp(), **patterns) == expected


def test_a_pattern_may_name_the_module_the_parameter_or_the_block() -> None:
    model = nn.ModuleDict({"rnn": nn.LSTM(2, 3), "head": nn.Linear(3, 1)})
    assert names(model, exclude=["rnn"]) == ["head"]
    assert len(names(model, exclude=["rnn.weight_hh_l0"])) == 5
    assert len(names(model, exclude=["*.forget"])) == 7


def test_a_tied_weight_answers_to_all_its_names() -> None:
    assert names(Tied("linear"), include=["encoder"]) == ["decoder"]


def test_reasons_of_patterns() -> None:
    assert reasons(mlp(), exclude=["head*"])["head"] == "excluded by pattern 'head*'"
    assert reasons(mlp(), include=["net*"])["head"] == "matched by no include pattern"
    assert reasons(mlp(), include=["net*"])["head.bias"] == "bias of 'head', which is left out"


@pytest.mark.parametrize("lazy", [nn.LazyLinear(2), nn.Linear(2, 2, device="meta")])
def test_an_excluded_layer_may_be_lazy_or_meta(lazy: nn.Module) -> None:
    model = nn.ModuleDict({"net": nn.Linear(2, 2), "odd": lazy})
    assert reasons(model, exclude=["odd"])["odd"] == "excluded by pattern 'odd'"


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_an_error(argument: str) -> None:
    message = (
        f"`{argument}` pattern 'haed' matches no parameter of the model; "
        "names are net.0, net.2, head and a pattern matches a name as a whole."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        find_weights(mlp(), **{argument: ["haed"]})
    with pytest.raises(ValueError, match="HEAD"):  # case sensitive
        find_weights(mlp(), **{argument: ["HEAD"]})


def test_a_pattern_on_what_is_left_out_anyway_is_no_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    assert names(model, exclude=["1"]) == ["0"]


def test_patterns_of_a_wrong_form() -> None:
    with pytest.raises(TypeError, match=re.escape("`exclude` must be a list of glob patterns")):
        find_weights(mlp(), exclude="head")
    with pytest.raises(ValueError, match=re.escape("`include` must hold at least one")):
        find_weights(mlp(), include=[])


def test_nothing_is_changed() -> None:
    model = Zoo()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    versions = [p._version for p in model.parameters()]
    find_weights(model)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert versions == [p._version for p in model.parameters()]


def pruned() -> nn.Module:
    module = nn.Linear(3, 3, bias=False)
    prune.random_unstructured(module, "weight", 0.3)
    return module


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (pruned, "pruned"),
        (old_weight_norm, "old-style weight_norm"),
        (lambda: nn.utils.spectral_norm(nn.Linear(3, 3, bias=False)), "old-style spectral_norm"),
    ],
    ids=["pruned", "weight_norm", "spectral_norm"],
)
def test_what_a_weight_is_computed_from_is_no_bare_matrix(make: object, word: str) -> None:
    assert callable(make)
    inventory = find_every_weight(make())
    assert inventory.weights == ()
    assert all(word in left.reason for left in inventory.left_out)
