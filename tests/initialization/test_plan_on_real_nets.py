"""The theory on real modules: preserved moments, the log-norm walk, convolutions. Fixed seeds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_init import fractional_moment_init_
from lightning_init.initialization.plan import InitPlan

DEPTH, WIDTH, NETS = 100, 64, 150


def deep(depth: int = DEPTH, width: int = WIDTH) -> nn.Sequential:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers)


def plan_of(model: nn.Module, **arguments: Any) -> InitPlan:
    return fractional_moment_init_(model, bias="zero", **arguments)


@torch.no_grad()
def log_growth(model: nn.Sequential, plan: InitPlan, seed: int) -> float:
    """Log-norm behind the last activation over that behind the first, of one net and one input."""
    plan.apply_(model, seed)
    generator = torch.Generator().manual_seed(seed)
    first = model[:2](torch.randn(1, WIDTH, generator=generator))
    return float(torch.log(model[2:](first).norm() / first.norm()))


def growths(order: float) -> Tensor:
    model = deep()
    plan = plan_of(model, order=order)
    return torch.tensor([log_growth(model, plan, seed) for seed in range(NETS)]).double()


def agrees(sample: Tensor, drift: float, variance: float) -> bool:
    """Mean and variance of the sample within 4 standard errors of a normal law's."""
    mean_error = abs(sample.mean().item() - drift) / math.sqrt(variance / len(sample))
    variance_error = abs(sample.var().item() / variance - 1) / math.sqrt(2 / len(sample))
    return mean_error < 4 and variance_error < 4


def test_a_hundred_layers_walk_as_predicted_and_kaiming_does_not() -> None:
    # ReLU, width 64, order 1: drift -.010196 and variance .020749 per layer; Kaiming -.020054.
    steps = DEPTH - 1
    drift, variance = -0.010196 * steps, 0.020749 * steps
    assert agrees(growths(order=1.0), drift, variance)
    kaiming = growths(order=2.0)
    assert not agrees(kaiming, drift, variance)
    assert agrees(kaiming, -0.020054 * steps, variance)


def test_smaller_orders_give_larger_norms_in_every_replicate() -> None:
    model = deep(depth=20)
    plans = [plan_of(model, order=order) for order in (0.5, 1.0, 1.5, 2.0)]
    for seed in range(30):
        norms = [log_growth(model, plan, seed) for plan in plans]
        assert norms == sorted(norms, reverse=True)
        assert len(set(norms)) == 4


def test_the_plan_says_it_before_anyone_trains() -> None:
    model = deep()
    plan = fractional_moment_init_(model, order=1.0)
    line, chance = plan.notes[:2]
    # The first layer, in front of which no activation stands, adds .0039.
    assert line.startswith("Order 1 against Kaiming (order 2): log-norm +0.980 (x2.66) through 100")
    assert chance == (
        "Chance that the output norm falls below a tenth: about 18 % (Kaiming: about 41 %)."
    )


def test_a_measured_deep_net_stays_in_its_band_and_kaiming_leaves_that_of_order_zero() -> None:
    model = deep()
    inside, total = 0, 0
    for seed in range(8):
        example = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(seed))
        plan = fractional_moment_init_(model, order=1.0, seed=seed, example_input=example)
        judged = [one.inside for one in plan.log_norms if one.inside is not None]
        assert len(judged) == DEPTH - 1
        inside, total = inside + sum(judged), total + len(judged)
    # 95 % of each layer's law, strongly dependent along a net: 8 nets, so allow much.
    assert inside / total > 0.75
    last = plan.log_norms[-1]
    assert last.sd == pytest.approx(math.sqrt(99 * 0.020749), rel=1e-4)


def test_a_wrong_scale_is_flagged() -> None:
    model = deep(depth=30)
    example = torch.randn(64, WIDTH)
    plan = fractional_moment_init_(model, example_input=example)
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight.mul_(0.8)
    flagged = plan.measured_on(model, example)
    assert flagged.log_norms[-1].inside is False
    assert "outside 2 sd" in str(flagged)
    assert " !" in str(flagged)


class TestPreservation:
    """E|y| of the last over the first pre-activation, widths 50-32-64-16-48-24-40, order 1."""

    WIDTHS = (50, 32, 64, 16, 48, 24, 40)
    COUNT = 1200

    def ratio(self, activation: list[nn.Module], order: float) -> tuple[float, float]:
        layers: list[nn.Module] = []
        for fan_in, fan_out in zip(self.WIDTHS[:-1], self.WIDTHS[1:], strict=True):
            layers += [nn.Linear(fan_in, fan_out), *activation]
        model = nn.Sequential(*layers[: -len(activation)]).train()
        plan = fractional_moment_init_(model, order=order, bias="keep")
        torch.manual_seed(7)
        first, last = [], []
        with torch.no_grad():
            for seed in range(self.COUNT):
                plan.apply_(model, seed)
                for layer in model:
                    if isinstance(layer, nn.Linear):
                        layer.bias.zero_()
                y = model[0](torch.randn(8, 50))
                first.append(y.abs().mean())
                last.append(model[1:](y).abs().mean())
        a, b = torch.stack(first).double(), torch.stack(last).double()
        ratio = (b.mean() / a.mean()).item()
        return ratio, (b - ratio * a).std().item() / math.sqrt(self.COUNT) / a.mean().item()

    @pytest.mark.parametrize(
        "activation",
        [
            [nn.Identity()],
            [nn.ReLU()],
            [nn.LeakyReLU(0.3)],
            [nn.RReLU()],
            [nn.ReLU(), nn.Dropout(0.5)],
        ],
        ids=["linear", "relu", "leaky", "rrelu", "dropout"],
    )
    def test_order_one_is_preserved(self, activation: list[nn.Module]) -> None:
        ratio, error = self.ratio(activation, order=1.0)
        assert error < 0.025
        assert abs(ratio - 1) < 4 * error

    def test_kaiming_does_not_preserve_it(self) -> None:
        ratio, error = self.ratio([nn.ReLU()], order=2.0)
        assert ratio < 1 - 4 * error
        assert abs(ratio - 0.895) < 4 * error


class TestConvolutions:
    """A constant image under circular padding: the channels are all that is independent."""

    @torch.no_grad()
    def rates(self, conv_width: Any, nets: int = 3000) -> list[float]:
        layers: list[nn.Module] = []
        for _ in range(5):
            layers += [nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"), nn.ReLU()]
        model = nn.Sequential(*layers)
        plan = fractional_moment_init_(model, conv_width=conv_width)
        torch.manual_seed(0)
        sums = torch.zeros(5, dtype=torch.float64)
        for seed in range(nets):
            plan.apply_(model, seed)
            x = torch.randn(1, 8, 1, 1).expand(1, 8, 3, 3)
            for index in range(5):
                y = model[2 * index](x)
                sums[index] += y.abs().mean().double()
                x = model[2 * index + 1](y)
        return (sums[1:] / sums[:-1]).log().tolist()

    def test_counting_channels_preserves_and_counting_taps_does_not(self) -> None:
        assert max(map(abs, self.rates("channels"))) < 0.02
        assert sum(self.rates("taps", nets=1000)) < -4 * 0.05
