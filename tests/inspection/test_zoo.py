"""Layer by layer, what stands in front of every weight of the zoo; written by hand.

One line per weight: name, rule, dropout, fan-in, marks. The rule `input` is the linear rule of a
first layer; a `?` in front of a rule says that it is an assumption. How many draws a max pooling
amounts to is measured, and left out.
"""

from __future__ import annotations

from ast import literal_eval

import pytest
import torch
from small_models import traced
from zoo import ZOO

from lightning_init.inspection.activation_tracing import (
    ActivationInFront,
    declared_activations,
)
from lightning_init.inspection.weights import find_weights

FUNCTIONAL_MLP = """
fc1  input            0     6  -
fc2  relu             0.25  8  -
fc3  leaky_relu(0.2)  0     8  -
fc4  relu             0     8  -
fc5  gelu_tanh        0     8  -
"""
TABLES = {
    "functional_mlp": FUNCTIONAL_MLP,
    "compiled": FUNCTIONAL_MLP,
    "lenet": """
conv1  input    0  25   -
conv2  tanh_max_pool  0  150  pooled
fc1    tanh     0  256  pooled
fc2    sigmoid  0  120  -
fc3    sigmoid  0  84   -
""",
    "resnet18": """
conv1                  input  0  147  scale-free
layer1.0.conv1         relu_max_pool  0  36   normalized,pooled,scale-free
layer1.0.conv2         relu   0  36   normalized,scale-free
layer1.1.conv1         relu   0  36   residual,normalized,pooled,scale-free
layer1.1.conv2         relu   0  36   normalized,scale-free
layer2.0.conv1         relu   0  36   residual,normalized,pooled,scale-free
layer2.0.conv2         relu   0  72   normalized,scale-free
layer2.0.downsample.0  relu   0  4    residual,normalized,pooled,scale-free
layer2.1.conv1         relu   0  72   residual,normalized,scale-free
layer2.1.conv2         relu   0  72   normalized,scale-free
layer3.0.conv1         relu   0  72   residual,normalized,scale-free
layer3.0.conv2         relu   0  144  normalized,scale-free
layer3.0.downsample.0  relu   0  8    residual,normalized,scale-free
layer3.1.conv1         relu   0  144  residual,normalized,scale-free
layer3.1.conv2         relu   0  144  normalized,scale-free
layer4.0.conv1         relu   0  144  residual,normalized,scale-free
layer4.0.conv2         relu   0  288  normalized,scale-free
layer4.0.downsample.0  relu   0  16   residual,normalized,scale-free
layer4.1.conv1         relu   0  288  residual,normalized,scale-free
layer4.1.conv2         relu   0  288  normalized,scale-free
fc                     relu   0  32   residual,normalized,pooled
""",
    "preactivation_resnet": """
stem             input  0  27  -
block1.conv1     relu   0  36  normalized,scale-free
block1.conv2     relu   0  36  normalized
block2.conv1     relu   0  36  residual,normalized,scale-free
block2.conv2     relu   0  72  normalized
block2.shortcut  relu   0  4   residual,normalized
fc               relu   0  8   residual,normalized,pooled
""",
    "vgg": """
features.0    input  0    27  -
features.2    relu   0    36  -
features.5    relu_max_pool   0    36  pooled
classifier.0  relu_max_pool   0    32  pooled
classifier.3  relu   0.5  16  -
classifier.6  relu   0.5  16  -
""",
    "mobilenet": """
stem.0           input      0  27  scale-free
blocks.0.conv.0  hardswish  0  4   normalized,scale-free
blocks.0.conv.3  relu6      0  9   normalized,scale-free
blocks.0.conv.6  relu6      0  12  normalized,scale-free
blocks.1.conv.0  linear     0  4   residual,normalized,scale-free
blocks.1.conv.3  relu6      0  9   normalized,scale-free
blocks.1.conv.6  relu6      0  12  normalized,scale-free
classifier.0     linear     0  4   residual,normalized,pooled
classifier.2     hardswish  0  8   -
""",
    "unet": """
down1.0   input    0  9    -
down1.2   relu     0  36   -
down2.0   relu_max_pool     0  36   pooled
down2.2   relu     0  72   -
bottom.0  relu_max_pool     0  72   pooled
bottom.2  relu     0  72   -
up1       relu     0  8    -
dec2.0    relu     0  144  concatenated,pooled
dec2.2    relu     0  72   -
dec1.0    ?linear  0  72   concatenated
dec1.2    relu     0  36   -
head      relu     0  4    -
""",
    "gpt": """
h.0.attn.c_attn  input      0  8   normalized
h.0.attn.c_proj   linear    0  8   attention
h.0.c_fc         linear     0  8   residual,normalized
h.0.c_proj       gelu_tanh  0  32  -
h.1.attn.c_attn  linear     0  8   residual,normalized
h.1.attn.c_proj   linear    0  8   attention
h.1.c_fc         linear     0  8   residual,normalized
h.1.c_proj       gelu_tanh  0  32  -
""",
    "vit": """
patches         input    0    48  -
blocks.0.q      linear   0    8   normalized,scale-free
blocks.0.k      linear   0    8   normalized,scale-free
blocks.0.v      linear   0    8   normalized
blocks.0.proj    linear  0    8   attention
blocks.0.mlp.0  linear   0    8   residual,normalized
blocks.0.mlp.3  gelu     0.2  16  -
blocks.1.q      linear   0    8   residual,normalized,scale-free
blocks.1.k      linear   0    8   residual,normalized,scale-free
blocks.1.v      linear   0    8   residual,normalized
blocks.1.proj    linear  0    8   attention
blocks.1.mlp.0  linear   0    8   residual,normalized
blocks.1.mlp.3  gelu     0.2  16  -
head            linear   0    8   residual,normalized
""",
    "encoder": """
proj                                         input    0    3   -
encoder.layers.0.self_attn.in_proj_weight.q  linear   0    8   -
encoder.layers.0.self_attn.in_proj_weight.k  linear   0    8   -
encoder.layers.0.self_attn.in_proj_weight.v  linear   0    8   -
encoder.layers.0.self_attn.out_proj           linear  0    8   attention
encoder.layers.0.linear1                     linear   0    8   residual,normalized
encoder.layers.0.linear2                     gelu     0.1  16  -
encoder.layers.1.self_attn.in_proj_weight.q  linear   0    8   residual,normalized
encoder.layers.1.self_attn.in_proj_weight.k  linear   0    8   residual,normalized
encoder.layers.1.self_attn.in_proj_weight.v  linear   0    8   residual,normalized
encoder.layers.1.self_attn.out_proj           linear  0    8   attention
encoder.layers.1.linear1                     linear   0    8   residual,normalized
encoder.layers.1.linear2                     gelu     0.1  16  -
head                                         linear   0    8   residual,normalized,pooled
""",
    "lstm": """
lstm.weight_ih_l0.input   input    0    4  -
lstm.weight_ih_l0.forget  input    0    4  -
lstm.weight_ih_l0.cell    input    0    4  -
lstm.weight_ih_l0.output  input    0    4  -
lstm.weight_hh_l0.input   ?linear  0    5  -
lstm.weight_hh_l0.forget  ?linear  0    5  -
lstm.weight_hh_l0.cell    ?linear  0    5  -
lstm.weight_hh_l0.output  ?linear  0    5  -
lstm.weight_ih_l1.input   ?linear  0.2  5  -
lstm.weight_ih_l1.forget  ?linear  0.2  5  -
lstm.weight_ih_l1.cell    ?linear  0.2  5  -
lstm.weight_ih_l1.output  ?linear  0.2  5  -
lstm.weight_hh_l1.input   ?linear  0    5  -
lstm.weight_hh_l1.forget  ?linear  0    5  -
lstm.weight_hh_l1.cell    ?linear  0    5  -
lstm.weight_hh_l1.output  ?linear  0    5  -
head                      ?linear  0.3  5  -
""",
    "generator": """
0  input  0  128  scale-free
3  relu   0  32   normalized,scale-free
6  relu   0  16   normalized
""",
    "two_heads": """
backbone.0  input                    0  6  -
backbone.2  prelu((0.25,0.25,0.25))  0  3  -
classes.0   elu(0.5)                 0  8  -
classes.2   softplus((2.0,20.0))     0  8  -
value.0     elu(0.5)                 0  8  -
value.2     rrelu((0.125,0.3333333333333333))  0  8  -
""",
}
# Matrices that take no part; every other parameter that is left out is a vector.
LEFT_OUT_MATRICES = {
    "gpt": {"wte": (11, 8), "wpe": (5, 8), "lm_head": (11, 8)},
    "vit": {"token": (1, 1, 8), "position": (1, 5, 8)},
    "lstm": {"embedding": (11, 4)},
}
# First layers of a chain that are fed by a forward, not by a declared order.
DECLARED = {
    "vgg": ["features.2", "features.5", "classifier.3", "classifier.6"],
    "generator": ["0", "3", "6"],
    "two_heads": ["backbone.2", "classes.2", "value.2"],
    "lenet": [],
    "gpt": [],
}

Row = tuple[str, object, float, bool, str, frozenset[str], int]


def hand_written(table: str) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for line in table.strip().splitlines():
        name, rule, dropout, fan_in, marks = line.split()
        source = "assumed" if rule.startswith("?") else "traced"
        nonlinearity, _, param = rule.removeprefix("?").partition("(")
        rows[name] = (
            "linear" if nonlinearity == "input" else nonlinearity,
            literal_eval(param.removesuffix(")")) if param else None,
            float(dropout),
            nonlinearity == "input",
            source,
            frozenset(() if marks == "-" else marks.split(",")),
            int(fan_in),
        )
    return rows


def row(found: ActivationInFront, fan_in: int) -> Row:
    return (
        found.nonlinearity,
        None if found.nonlinearity.endswith("max_pool") else found.param,
        found.dropout,
        found.first_layer,
        found.source,
        frozenset(found.marks),
        fan_in,
    )


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_every_weight_agrees_with_the_hand_written_table(kind: str) -> None:
    model = ZOO[kind].build()
    inventory = find_weights(model)
    found = traced(model, ZOO[kind].example())
    table = {weight.name: row(found[weight.name], weight.fan_in) for weight in inventory.weights}
    assert table == hand_written(TABLES[kind])
    assert list(found) == [weight.name for weight in inventory.weights]


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_a_note_says_what_was_assumed(kind: str) -> None:
    model = ZOO[kind].build()
    found = traced(model, ZOO[kind].example())
    for name, activation in found.items():
        if activation.source == "assumed":
            assert "rule" in activation.note, name
        else:
            assert not activation.note or {"residual", "attention"} & {*activation.marks}, name


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_no_parameter_is_unaccounted_for(kind: str) -> None:
    model = ZOO[kind].build()
    inventory = find_weights(model)
    taking_part = {
        f"{weight.module_name}.{attribute}".lstrip(".").replace("_orig_mod.", "")
        for weight in inventory.weights
        for attribute in (weight.attribute, *weight.biases)
    }
    left_out = {left.name for left in inventory.left_out}
    for name, _ in model.named_parameters():
        name = name.replace("_orig_mod.", "")
        assert name in taking_part or {name, name.removesuffix(".weight")} & left_out, name
    matrices = {left.name: left.shape for left in inventory.left_out if len(left.shape) > 1}
    assert matrices == LEFT_OUT_MATRICES.get(kind, {})


@pytest.mark.parametrize("kind", sorted(DECLARED))
def test_what_is_declared_agrees_with_what_is_traced(kind: str) -> None:
    model = ZOO[kind].build()
    inventory = find_weights(model)
    declared = declared_activations(model, inventory)
    seen_in_run = traced(model, ZOO[kind].example())
    assert sorted(declared) == sorted(DECLARED[kind])
    for name, activation in declared.items():
        seen = row(seen_in_run[name], 0)
        if seen[0] == "relu_max_pool":  # only a run tells how much the largest of a window is
            assert activation.source == "assumed"
            seen = ("relu", *seen[1:])
        else:
            assert activation.source == "declared"
        assert row(activation, 0)[:4] == seen[:4]
        assert activation.marks == seen_in_run[name].marks


@pytest.mark.parametrize("kind", sorted(ZOO))
def test_tracing_leaves_every_model_as_it_was(kind: str) -> None:
    model = ZOO[kind].build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    traced(model, ZOO[kind].example())
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert before.keys() == after.keys()
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())
