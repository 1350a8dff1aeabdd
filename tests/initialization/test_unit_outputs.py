"""Scales that once were confident and wrong: unit input, order 2, and the output must be unit too.

Every model is read by a trace and drawn as anyone would draw it. What is asserted is the root mean
square of the outputs over several nets, within 5 % of 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_init import fractional_moment_init_
from lightning_init.initialization.plan import InitPlan

UNIT = 0.05


@torch.no_grad()
def output_scale(make: Callable[[], nn.Module], shape: tuple[int, ...], nets: int) -> float:
    squares = []
    for seed in range(nets):
        torch.manual_seed(seed)
        model = make()
        fractional_moment_init_(model, 2.0, example_input=torch.randn(shape), seed=seed)
        squares.append(float(model(torch.randn(shape)).square().mean()))
    return math.sqrt(sum(squares) / nets)


def drawn(model: nn.Module, example: Tensor, order: float = 2.0) -> InitPlan:
    return fractional_moment_init_(model, order, example_input=example)


# --------------------------------------------------------------------- strides, borders, pooling
@pytest.mark.parametrize(("side", "padding"), [(8, 1), (4, 1), (1, 1), (2, 0)])
def test_four_transposed_convolutions_keep_the_scale(side: int, padding: int) -> None:
    def make() -> nn.Module:
        layers = (nn.ConvTranspose2d(32, 32, 4, stride=2, padding=padding) for _ in range(4))
        return nn.Sequential(*layers)

    assert output_scale(make, (4, 32, side, side), 6) == pytest.approx(1.0, abs=UNIT)


def test_a_grouped_generator_from_one_pixel_counts_one_tap() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(16, 8, 4, groups=4), nn.Tanh(), nn.Conv2d(8, 3, 3))
    plan = drawn(model, torch.randn(2, 16, 1, 1))
    assert [row.weight.fan_in for row in plan.rows] == [4, 72]
    assert plan.rows[0].weight.taps == 1


def stages(width: int = 32, depth: int = 5, activation: nn.Module | None = None) -> nn.Sequential:
    """Conv, activation and max pooling, without those behind the last convolution."""
    layers: list[nn.Module] = []
    for stage in range(depth):
        convolution = nn.Conv2d(width if stage else 3, width, 3, padding=1)
        layers += [convolution, activation or nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers[:-2])


@pytest.mark.slow
@pytest.mark.parametrize("side", [32, 64])
def test_five_stages_of_max_pooling_keep_the_scale(side: int) -> None:
    assert output_scale(stages, (8, 3, side, side), 150) == pytest.approx(1.0, abs=UNIT)


def test_three_stages_of_max_pooling_keep_the_scale() -> None:
    def make() -> nn.Module:
        return stages(24, 3)

    assert output_scale(make, (8, 3, 16, 16), 15) == pytest.approx(1.0, abs=2 * UNIT)


class PooledFirst(nn.Module):
    """Max pooling by a function, in front of the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.max_pool2d(self.first(x), 2).relu())


def test_max_pooling_in_front_of_the_activation_is_the_same_law() -> None:
    model = PooledFirst()
    row = drawn(model, torch.randn(8, 3, 16, 16)).rows[1]
    (draws,) = row.activation.param
    assert (row.activation.nonlinearity, row.activation.source) == ("relu_max_pool", "traced")
    assert 3.0 < draws < 5.0  # neighbours of white noise are independent: four draws
    assert output_scale(PooledFirst, (8, 3, 16, 16), 20) == pytest.approx(1.0, abs=UNIT)


class Inception(nn.Module):
    """A pooled branch beside one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3), nn.Conv2d(64, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.last(torch.cat([x, functional.max_pool2d(x, 3, 1, 1)], 1))


def test_pooled_and_other_branches_together_have_their_mean_square() -> None:
    row = drawn(Inception(), torch.randn(8, 3, 16, 16)).rows[1]
    assert (row.activation.nonlinearity, row.activation.source) == ("relu_max_pool", "traced")
    assert output_scale(Inception, (8, 3, 16, 16), 15) == pytest.approx(1.0, abs=UNIT)


def test_what_is_not_measured_is_an_assumption_and_no_chance_rests_on_it() -> None:
    plan = fractional_moment_init_(stages())
    assert [row.activation.source for row in plan.rows] == ["declared"] + 4 * ["assumed"]
    assert "Chance that the output norm" not in str(plan)
    meta = stages().to("meta")
    dry = fractional_moment_init_(
        meta, example_input=torch.randn(2, 3, 32, 32, device="meta"), dry_run=True
    )
    assert [row.activation.source for row in dry.rows] == ["traced"] + 4 * ["assumed"]


@pytest.mark.parametrize(
    ("activation", "law"),
    [
        (nn.LeakyReLU(0.2), "leaky_relu_max_pool"),
        (nn.Softplus(), "softplus_max_pool"),
        (nn.PReLU(4), "prelu"),
    ],
)
def test_the_law_in_front_of_max_pooling_is_part_of_its_name(
    activation: nn.Module, law: str
) -> None:
    row = drawn(stages(4, 2, activation), torch.randn(2, 3, 8, 8)).rows[1]
    assert row.activation.nonlinearity == law
    assert row.activation.source == ("assumed" if law == "prelu" else "traced")


def test_fractional_max_pooling_is_max_pooling() -> None:
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.FractionalMaxPool2d(2, output_ratio=0.5))
    first, last = drawn(nn.Sequential(*layers, nn.Conv2d(8, 4, 3)), torch.randn(2, 3, 8, 8)).rows
    assert (last.activation.nonlinearity, last.activation.source) == ("relu_max_pool", "traced")
    assert first.weight.fan_in < 27  # borders count, as with all max pooling


def test_one_pooling_module_used_twice_is_measured_twice() -> None:
    pooling = nn.MaxPool2d(2)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), pooling, nn.Conv2d(8, 8, 3), nn.ReLU(), pooling)
    rows = drawn(nn.Sequential(*layers, nn.Conv2d(8, 4, 1)), torch.randn(4, 3, 16, 16)).rows
    assert [row.activation.nonlinearity for row in rows[1:]] == 2 * ["relu_max_pool"]


def test_positions_are_counted_whatever_the_precision_and_the_defaults() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    taps = [row.weight.fan_in for row in drawn(plain, torch.randn(2, 3, 4, 4)).rows]
    assert taps == [27, 72]  # Kaiming's convention, where nothing else is measured
    model = nn.Sequential(*plain, nn.MaxPool2d(2))
    fans = [row.weight.fan_in for row in drawn(model, torch.randn(2, 3, 4, 4)).rows]
    assert fans[0] == round(3 * 6.25)
    assert 8 * 6.25 < fans[1] < 8 * 9
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [row.weight.fan_in for row in drawn(model, torch.randn(2, 3, 4, 4)).rows] == fans
    rows = drawn(model.double(), torch.randn(2, 3, 4, 4, dtype=torch.float64)).rows
    assert [row.weight.fan_in for row in rows] == fans


# ------------------------------------------------------------------------------------------ masks
class Masked(nn.Linear):
    """As in MADE: a unit sees the units of no larger degree."""

    def __init__(self, width: int, degrees: int) -> None:
        super().__init__(width, width)
        degree = torch.arange(width) * degrees // width
        self.register_buffer("mask", (degree[:, None] >= degree).float())

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.mask, self.bias)


def masked(depth: int = 8, width: int = 128, degrees: int = 4) -> nn.Sequential:
    return nn.Sequential(*(Masked(width, degrees) for _ in range(depth)))


def test_eight_masked_layers_keep_the_scale() -> None:
    assert output_scale(masked, (64, 128), 12) == pytest.approx(1.0, abs=UNIT)


def test_every_row_of_a_mask_has_a_fan_in_of_its_own() -> None:
    model = masked(1, 64, 2)
    (row,) = drawn(model, torch.randn(2, 64)).rows
    assert row.weight.fan_in == 48
    assert row.weight.row_fans == (32,) * 32 + (64,) * 32
    assert row.row_stds == pytest.approx((32**-0.5,) * 32 + (64**-0.5,) * 32)
    assert row.note == "masked: std by row, 0.125 to 0.177"
    stds = model[0].weight.detach().reshape(2, -1).std(1)
    assert stds.tolist() == pytest.approx([32**-0.5, 64**-0.5], rel=0.1)


def test_a_mask_that_keeps_as_many_in_every_row_needs_no_scale_by_row() -> None:
    class Causal(nn.Conv1d):
        """The last tap is the future."""

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.tensor([1.0, 1.0, 0.0])
            return functional.conv1d(x, self.weight * mask, self.bias)

    (row,) = drawn(Causal(8, 8, 3), torch.randn(2, 8, 9)).rows
    assert (row.weight.fan_in, row.weight.taps, row.row_stds) == (16, 2, ())


# --------------------------------------------------------------------- weights without a scale
class Standardized(nn.Conv2d):
    """Weight standardization of NFNets, with a learned gain."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, 3)
        self.gain = nn.Parameter(torch.ones(width, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        rows = flat - flat.mean(1, keepdim=True)
        rows = rows / (rows.std(1, correction=0, keepdim=True) * rows.shape[1] ** 0.5)
        return functional.conv2d(x, self.gain * rows.reshape(self.weight.shape), self.bias)


def test_no_prediction_rests_on_the_scale_of_a_standardized_weight() -> None:
    model = nn.Sequential(*(Standardized(16), nn.ReLU()) * 3, nn.Flatten(), nn.LazyLinear(4))
    plan = drawn(model, torch.randn(4, 16, 9, 9))
    rows = [row for row in plan.rows if row.weight.module_type == "Standardized"]
    assert all("scale-free" in row.activation.marks for row in rows)
    assert "through 1 weight in a row" in str(plan)
    assert all(math.isnan(one.predicted) for one in plan.log_norms)


# -------------------------------------------------------------------------- unscaled attention
class Attention(nn.Module):
    """Attention that leaves 1/sqrt(d) to its queries, as T5 does, or divides by it."""

    def __init__(self, divide: bool, fused: bool) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(64, 64) for _ in range(3))
        self.divide, self.fused = divide, fused

    def scores(self, x: Tensor) -> Tensor:
        return (self.q(x) @ self.k(x).transpose(1, 2)) * (0.125 if self.divide else 1.0)

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            scale = None if self.divide else 1.0
            parts = self.q(x), self.k(x), self.v(x)
            return functional.scaled_dot_product_attention(*parts, scale=scale)
        return (self.scores(x) + torch.zeros(5, 5)).softmax(-1) @ self.v(x)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("divide", [False, True])
def test_the_scores_of_attention_have_unit_scale(divide: bool, fused: bool) -> None:
    model, x = Attention(divide, fused), torch.randn(64, 5, 64)
    plan = drawn(model, x)
    q, k, v = plan.rows
    assert q.weight.gain == (1.0 if divide else 0.125)
    assert k.weight.gain == v.weight.gain == 1.0
    assert q.std == pytest.approx(q.weight.gain * k.std)
    assert float(model.scores(x).detach().std()) == pytest.approx(1.0, abs=0.1)
    assert q.activation.source == "traced"
