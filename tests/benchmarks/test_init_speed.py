"""Whole models: beside a loop of `kaiming_normal_`, and beside LSUV and AnyInit. CPU time, ratios.

Wall time is at the mercy of whatever else runs; every limit is a ratio of process CPU times taken
alternately in one run, or far above what is measured.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_init import fractional_moment_init_
from lightning_init.theory.squared_norm import squared_norm_moments


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.c_attn(self.ln_1(x)).split(x.shape[-1], dim=-1)
        x = x + self.c_proj(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True))
        return x + self.c_out(nn.functional.gelu(self.c_fc(self.ln_2(x))))


class GPT(nn.Module):
    """Twelve blocks of width 768 and an untied head: 124 M parameters in weight matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.h = nn.Embedding(64, 768), nn.Sequential(*(Block(768) for _ in range(12)))
        self.ln_f, self.head = nn.LayerNorm(768), nn.Linear(768, 50257, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.ln_f(self.h(self.wte(tokens))))


def deep_mlp() -> nn.Sequential:
    layers = [layer for _ in range(20) for layer in (nn.Linear(64, 64), nn.ReLU())]
    return nn.Sequential(*layers)


def cpu_seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def kaiming_loop(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        nn.init.kaiming_normal_(tensor, nonlinearity="relu")


@pytest.mark.filterwarnings("ignore:gelu is not homogeneous")
def test_gpt_of_124_million_parameters(benchmark: Any) -> None:
    model = GPT()
    tokens = torch.zeros(1, 4, dtype=torch.long)
    plan = fractional_moment_init_(model, example_input=tokens)
    tensors = [model.get_submodule(row.weight.module_name).weight for row in plan.rows]
    assert sum(tensor.numel() for tensor in tensors) > 123e6
    assert all(row.activation.source in ("traced", "assumed") for row in plan.rows)

    def ours() -> None:
        fractional_moment_init_(model, nonlinearity="gelu")

    ratios = []
    for _ in range(7):
        squared_norm_moments.cache_clear()
        ratios.append(cpu_seconds(ours) / cpu_seconds(lambda: kaiming_loop(tensors)))
    benchmark.extra_info["ratio_to_kaiming_loop"] = statistics.median(ratios)
    benchmark.pedantic(ours, rounds=2, warmup_rounds=0)
    assert statistics.median(ratios) <= 1.10


def test_mlp_of_20_layers(benchmark: Any) -> None:
    model = deep_mlp()

    def ours() -> None:
        squared_norm_moments.cache_clear()
        fractional_moment_init_(model)

    ours()
    benchmark(ours)
    assert min(cpu_seconds(ours) for _ in range(10)) <= 10e-3


def lsuv() -> Callable[[nn.Module], Any]:
    package = pytest.importorskip("lsuv", reason="lsuv is not installed: nothing to compare with")
    batch = torch.randn(128, 64)
    return lambda model: package.lsuv_with_singlebatch(model, batch, verbose=False)


def anyinit(mode: str, given: Any) -> Callable[[nn.Module], Any]:
    package = pytest.importorskip("anyinit", reason="anyinit is not installed: nothing to compare")
    return lambda model: package.initialize(model, mode=mode, input_spec=given)


# Medians of CPU-time ratios, the making of the model not counted, our cache of solved laws emptied
# while theirs stay: 13-16 (LSUV), 47-57 (AnyInit with data), 7.5-8.0 (AnyInit's closed form, which
# runs the model once to check itself); with our cache kept 15-18, 53-60 and 8.4-9.1. The aim is
# 10, which the last of them misses.
@pytest.mark.parametrize(
    ("peer", "least"),
    [
        (lsuv, 10),
        (lambda: anyinit("empirical", torch.randn(128, 64)), 30),
        (lambda: anyinit("analytic", (64,)), 6),
    ],
    ids=["lsuv", "anyinit-empirical", "anyinit-analytic"],
)
def test_mlp_beside_its_peers(benchmark: Any, peer: Callable[[], Any], least: float) -> None:
    initialize, model = peer(), deep_mlp()

    def ours() -> None:
        squared_norm_moments.cache_clear()
        fractional_moment_init_(model)

    def one_ratio() -> float:
        fresh = deep_mlp()  # making it is nobody's initialization
        return cpu_seconds(lambda: initialize(fresh)) / cpu_seconds(ours)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours()
        initialize(deep_mlp())
        ratio = statistics.median(one_ratio() for _ in range(9))
    benchmark.extra_info["times_faster"] = ratio
    benchmark(ours)
    assert ratio >= least
