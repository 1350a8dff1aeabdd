from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_init.inspection.fans import (
    Fans,
    weight_blocks,
)

# Fan-in and fan-out counted by hand from the definition of each layer.
SINGLE = {
    "linear": (nn.Linear(7, 5), Fans(7, 5), "linear"),
    "bilinear": (nn.Bilinear(3, 4, 5), Fans(12, 5), "bilinear"),
    "conv1d": (nn.Conv1d(4, 6, 5), Fans(20, 30, 5), "conv"),
    "conv2d": (nn.Conv2d(3, 8, (2, 3)), Fans(18, 48, 6), "conv"),
    "conv3d": (nn.Conv3d(2, 4, 3), Fans(54, 108, 27), "conv"),
    "grouped": (nn.Conv2d(8, 16, 3, groups=4), Fans(18, 36, 9), "conv"),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8), Fans(9, 9, 9), "conv"),
    "depthwise, two outputs a channel": (nn.Conv1d(4, 8, 5, groups=4), Fans(5, 10, 5), "conv"),
    "transposed 1d": (nn.ConvTranspose1d(6, 2, 4), Fans(24, 8, 4), "conv_transpose"),
    "transposed 2d": (nn.ConvTranspose2d(8, 4, 3), Fans(72, 36, 9), "conv_transpose"),
    "transposed 3d": (nn.ConvTranspose3d(2, 3, 2), Fans(16, 24, 8), "conv_transpose"),
    "transposed, stride 2": (
        nn.ConvTranspose2d(8, 4, 4, stride=2),
        Fans(32, 64, 4),
        "conv_transpose",
    ),
    "transposed, uneven phases": (
        nn.ConvTranspose2d(8, 4, 3, stride=2),
        Fans(18, 36, 2),
        "conv_transpose",
    ),
    "transposed, strides of its own": (
        nn.ConvTranspose2d(8, 4, (4, 3), stride=(2, 1)),
        Fans(48, 48, 6),
        "conv_transpose",
    ),
    "transposed, with gaps": (
        nn.ConvTranspose1d(6, 2, 1, stride=3),
        Fans(2, 2, 1),
        "conv_transpose",
    ),
    "transposed, grouped": (
        nn.ConvTranspose2d(8, 4, 3, groups=2),
        Fans(36, 18, 9),
        "conv_transpose",
    ),
}


@pytest.mark.parametrize("case", SINGLE)
def test_fans_of_layers_with_one_weight(case: str) -> None:
    module, fans, kind = SINGLE[case]
    (block,) = weight_blocks(module)
    assert (block.fans, block.kind, block.attribute, block.rows) == (fans, kind, "weight", None)
    assert block.biases == ("bias",)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(8, 16, 3, padding=1, groups=4), (1, 8, 9, 9)),
        (nn.ConvTranspose2d(8, 4, 3, padding=1), (1, 8, 9, 9)),
        (nn.ConvTranspose2d(8, 4, 3, padding=1, groups=2), (1, 8, 9, 9)),
        (nn.Conv1d(4, 8, 5, padding=2, groups=4), (1, 4, 9)),
        (nn.Linear(7, 5), (1, 7)),
    ],
)
def test_fan_in_is_the_number_of_products_in_an_inner_output(
    module: nn.Module, shape: tuple[int, ...]
) -> None:
    # With all weights and inputs one, an output away from the border is its own fan-in.
    (block,) = weight_blocks(module)
    nn.init.ones_(module.weight)
    nn.init.zeros_(module.bias)
    with torch.no_grad():
        assert module(torch.ones(shape)).max() == block.fans.fan_in


def test_fan_in_of_a_bilinear_layer_counts_the_products() -> None:
    module = nn.Bilinear(3, 4, 5, bias=False)
    nn.init.ones_(module.weight)
    with torch.no_grad():
        assert (
            module(torch.ones(1, 3), torch.ones(1, 4)).max() == weight_blocks(module)[0].fans.fan_in
        )


def test_packed_attention_is_three_projections() -> None:
    blocks = weight_blocks(nn.MultiheadAttention(8, 2))
    assert [(b.label, b.rows, b.fans, b.kind) for b in blocks] == [
        ("q", (0, 8), Fans(8, 8), "attention"),
        ("k", (8, 16), Fans(8, 8), "attention"),
        ("v", (16, 24), Fans(8, 8), "attention"),
    ]
    assert {b.attribute for b in blocks} == {"in_proj_weight"}


def test_attention_with_other_key_and_value_sizes_has_three_parameters() -> None:
    blocks = weight_blocks(nn.MultiheadAttention(8, 2, kdim=3, vdim=5))
    assert [(b.attribute, b.label, b.rows, b.fans.fan_in) for b in blocks] == [
        ("q_proj_weight", "", None, 8),
        ("k_proj_weight", "", None, 3),
        ("v_proj_weight", "", None, 5),
    ]


@pytest.mark.parametrize(
    ("module", "gates"),
    [
        (nn.LSTM(3, 5), ["input", "forget", "cell", "output"]),
        (nn.LSTMCell(3, 5), ["input", "forget", "cell", "output"]),
        (nn.GRU(3, 5), ["reset", "update", "new"]),
        (nn.GRUCell(3, 5), ["reset", "update", "new"]),
        (nn.RNN(3, 5), [""]),
        (nn.RNNCell(3, 5), [""]),
    ],
)
def test_recurrent_gates(module: nn.Module, gates: list[str]) -> None:
    blocks = weight_blocks(module)
    assert [b.label for b in blocks] == gates * 2
    inputs, hidden = blocks[: len(gates)], blocks[len(gates) :]
    assert {(b.fans, b.kind) for b in inputs} == {(Fans(3, 5), "recurrent_input")}
    assert {(b.fans, b.kind) for b in hidden} == {(Fans(5, 5), "recurrent_hidden")}
    if len(gates) > 1:
        assert [b.rows for b in inputs] == [(5 * i, 5 * i + 5) for i in range(len(gates))]


def test_stacked_bidirectional_projected_lstm_matches_the_tensors_of_torch() -> None:
    module = nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2)
    blocks = weight_blocks(module)
    shapes = {name: p.shape for name, p in module.named_parameters() if "weight" in name}
    assert {b.attribute for b in blocks} == set(shapes)
    for block in blocks:
        assert block.fans.fan_in == shapes[block.attribute][1]
    # The second layer reads both directions' projections of size 2.
    second = [b for b in blocks if b.attribute == "weight_ih_l1_reverse"]
    assert {b.fans for b in second} == {Fans(4, 5)}
    projection = [b for b in blocks if b.attribute == "weight_hr_l0"]
    assert [(b.fans, b.rows, b.biases) for b in projection] == [(Fans(5, 2), None, ())]


class _MyLinear(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("module", "count"),
    [(_MyLinear(2, 3), 1), (nn.LazyLinear(3), 1), (nn.LayerNorm(3), 0), (nn.Embedding(3, 2), 0)],
)
def test_known_kinds_are_told_by_isinstance(module: nn.Module, count: int) -> None:
    assert len(weight_blocks(module)) == count
