from __future__ import annotations

import math
import re
import warnings

import pytest
import torch
from torch import nn

from lightning_init.functional import (
    fractional_moment_normal_,
    fractional_moment_std,
    log_norm_law,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_std_passes_every_argument_on() -> None:
    assert fractional_moment_std(64) == pytest.approx(0.17852802866437036, rel=1e-15)
    linear = fractional_moment_std(64, 1.0, "linear")
    assert linear == pytest.approx(0.12548921622715733, rel=1e-15)
    dropped = fractional_moment_std(64, dropout=0.5)
    assert dropped == pytest.approx(0.12778789189703017, rel=1e-15)
    random = fractional_moment_std(64, nonlinearity="rrelu", param=(1 / 8, 1 / 3))
    assert random == pytest.approx(0.17350410589832062, rel=1e-15)
    published = fractional_moment_std(64, 1.0, scheme="authors")
    assert published == pytest.approx(math.sqrt(2 / 64 + 5 / (2 * 64**2)), rel=1e-15)


def test_dead_layers_are_warned_about_at_the_caller() -> None:
    with pytest.warns(UserWarning, match="all 4 inputs are zero with probability 0.06") as record:
        fractional_moment_std(4, order=1.0)
    assert record[0].filename == __file__
    with pytest.warns(UserWarning, match="all 4 inputs are zero") as record:
        fractional_moment_normal_(torch.empty(2, 4))
    assert record[0].filename == __file__


@pytest.mark.parametrize(("fan_in", "order"), [(8, 1.0), (4, 0.0), (4, 2.0 - 1e-9)])
def test_no_warning_without_need(fan_in: int, order: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if order > 1.9:  # inflation 0.032
            assert fractional_moment_std(fan_in, order) > 0
        else:
            fractional_moment_std(fan_in, order)
            fractional_moment_std(fan_in, order, "leaky_relu")


@pytest.mark.parametrize("name", ["gelu", "silu", "mish"])
def test_amplifying_activations_are_warned_about(name: str) -> None:
    with pytest.warns(UserWarning, match=f"{name} is not homogeneous and amplifies scale errors"):
        fractional_moment_std(64, nonlinearity=name)


@pytest.mark.parametrize("name", ["tanh", "elu", "selu", "softplus", "linear"])
def test_damping_activations_are_not(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fractional_moment_std(64, nonlinearity=name)


def test_the_way_out_of_the_dead_layer_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        conditional = fractional_moment_std(4, conditional=True)
        weight = fractional_moment_normal_(torch.empty(500, 4), conditional=True)
    with pytest.warns(UserWarning, match="use conditional=True"):
        exact = fractional_moment_std(4)
    assert conditional == pytest.approx(exact * (1 - 2**-4), rel=1e-14)
    assert weight.std().item() == pytest.approx(conditional, rel=4 / math.sqrt(4000))


def test_large_layer_has_the_promised_law() -> None:
    weight = torch.empty(1000, 1000)
    assert fractional_moment_normal_(weight, generator=generator()) is weight
    std = fractional_moment_std(1000)
    assert abs(weight.double().var().item() / std**2 - 1) < 0.01
    assert abs(weight.double().mean().item()) < 4 * std / 1000
    # Fourth moment: 3 sigma^4, standard error sqrt(96 / 1e6).
    kurtosis = (weight.double() / std).pow(4).mean().item()
    assert abs(kurtosis - 3) < 4 * math.sqrt(96 / 1e6)


def test_deterministic_given_a_generator_or_a_seed() -> None:
    first, second = torch.empty(8, 64), torch.empty(8, 64)
    fractional_moment_normal_(first, generator=generator(5))
    fractional_moment_normal_(second, generator=generator(5))
    assert torch.equal(first, second)
    torch.manual_seed(1)
    fractional_moment_normal_(first)
    torch.manual_seed(1)
    fractional_moment_normal_(second)
    assert torch.equal(first, second)


def test_own_generator_leaves_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    fractional_moment_normal_(torch.empty(8, 64), generator=generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_order_two_draws_what_kaiming_draws() -> None:
    ours, theirs = torch.empty(16, 64), torch.empty(16, 64)
    fractional_moment_normal_(ours, order=2.0, generator=generator(2))
    nn.init.kaiming_normal_(theirs, nonlinearity="relu", generator=generator(2))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_and_gradient_flag_are_kept(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.zeros(32, 128, dtype=dtype))
    pointer = weight.data_ptr()
    fractional_moment_normal_(weight, generator=generator())
    assert weight.dtype == dtype
    assert weight.requires_grad
    assert weight.grad_fn is None
    assert weight.data_ptr() == pointer
    std = fractional_moment_std(128)
    assert weight.float().std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * 32 * 128))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_types_are_the_rounded_float32_draw(dtype: torch.dtype) -> None:
    narrow, wide = torch.empty(32, 128, dtype=dtype), torch.empty(32, 128)
    fractional_moment_normal_(narrow, generator=generator())
    fractional_moment_normal_(wide, generator=generator())
    assert torch.equal(narrow, wide.to(dtype))


def test_fan_in_default_and_override() -> None:
    convolution = nn.Conv2d(8, 64, 3, groups=2)
    expected = torch.empty_like(convolution.weight)
    expected.normal_(0.0, fractional_moment_std(4 * 9), generator=generator())
    fractional_moment_normal_(convolution.weight, generator=generator())
    assert torch.equal(convolution.weight, expected)
    transposed = torch.empty(8, 64, 3, 3)
    expected = torch.empty_like(transposed)
    expected.normal_(0.0, fractional_moment_std(8 * 9), generator=generator())
    fractional_moment_normal_(transposed, fan_in=8 * 9, generator=generator())
    assert torch.equal(transposed, expected)


def test_non_contiguous_views_are_filled_in_place() -> None:
    whole = torch.zeros(6, 64)
    fractional_moment_normal_(whole[:3], generator=generator())
    assert torch.all(whole[:3] != 0)
    assert torch.all(whole[3:] == 0)
    fractional_moment_normal_(whole.t(), fan_in=6, generator=generator())
    assert torch.all(whole != 0)


@pytest.mark.parametrize(
    ("tensor", "arguments", "message"),
    [
        (torch.zeros(4), {}, "`tensor` must have at least 2 dimensions, got shape (4,)"),
        (torch.zeros(2, 8, dtype=torch.int64), {}, "must be floating point, got torch.int64"),
        (torch.zeros(2, 8), {"order": 2.5}, "`order` must be in [0, 2], got 2.5; use 2.0"),
        (torch.zeros(2, 8), {"dropout": 1.0}, "`dropout` must be in [0, 1), got 1.0"),
        (torch.zeros(2, 8), {"fan_in": 0}, "`fan_in` must be an integer >= 1, got 0"),
        (torch.zeros(2, 8), {"nonlinearity": "relux"}, "did you mean 'relu'?"),
    ],
)
def test_errors_change_nothing(tensor: torch.Tensor, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        fractional_moment_normal_(tensor, **arguments)
    assert torch.all(tensor == 0)


def test_log_norm_law() -> None:
    step = log_norm_law(64, order=1.0)
    assert (round(step.drift, 6), round(step.variance, 6)) == (-0.010196, 0.020749)
    leaky = log_norm_law(64, 0.5, "leaky_relu", 0.01)
    assert round(leaky.drift, 6) == -0.005141
    assert log_norm_law(64, dropout=0.5).variance > step.variance
