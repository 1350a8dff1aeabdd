"""What a plan costs beside its trace, and a trace beside a forward pass; CPU time."""

from __future__ import annotations

import pytest
import torch
from monitored_models import transformer
from stopwatch import cpu_seconds
from torch import Tensor, nn

from lightning_init import fractional_moment_init_
from lightning_init.inspection.activation_tracing import trace_model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_plan_of_500_layers_takes_a_tenth_of_a_second_beside_its_trace() -> None:
    pairs = [(nn.Linear(64, 64), nn.ReLU()) for _ in range(500)]
    model = nn.Sequential(*[module for pair in pairs for module in pair])
    batch = torch.randn(2, 64)
    fractional_moment_init_(model)
    # Without an example nothing is traced; the draw is part of the time.
    planned = min(cpu_seconds(lambda: fractional_moment_init_(model)) for _ in range(5))
    traced = min(cpu_seconds(lambda: trace_model(model, batch)) for _ in range(3))
    print(f"\nplan and draw {1e3 * planned:.0f} ms, trace {1e3 * traced:.0f} ms")
    assert planned <= 0.1


def test_a_trace_takes_at_most_three_forward_passes() -> None:
    model, batch = transformer()
    model.eval()

    def forward() -> Tensor:
        with torch.no_grad():
            output: Tensor = model(batch)
        return output

    forward()
    passes = min(cpu_seconds(forward) for _ in range(3))
    traced = min(cpu_seconds(lambda: trace_model(model, batch)) for _ in range(3))
    print(f"\nforward pass {passes:.2f} s, trace {traced:.2f} s: x{traced / passes:.2f}")
    assert traced <= 3.0 * passes


class Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first, self.second = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        q, k, v = (
            layer(h).unflatten(-1, (16, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        h = self.second(x)
        return x + self.down(nn.functional.silu(self.gate(h)) * self.up(h))


def test_a_billion_parameters_on_the_meta_device_take_two_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with torch.device("meta"):
        blocks = [Block(2048, 5632) for _ in range(20)]
        model = nn.Sequential(
            nn.Embedding(32000, 2048), *blocks, nn.Linear(2048, 32000, bias=False)
        )
        tokens = torch.zeros(1, 16, dtype=torch.long)
    assert sum(parameter.numel() for parameter in model.parameters()) > 1e9

    def plan() -> None:
        fractional_moment_init_(model, example_input=tokens, dry_run=True)

    seconds = min(cpu_seconds(plan) for _ in range(2))
    capsys.readouterr()
    print(f"{seconds:.2f} s")
    assert all(parameter.is_meta for parameter in model.parameters())
    assert seconds <= 2.0
