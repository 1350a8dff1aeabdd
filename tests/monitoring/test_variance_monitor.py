from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from models import NoisyQuadratic, fit
from torch import nn

from lightning_init import OptimalVarianceInit, Verdict
from lightning_init.inspection.weights import find_weights
from lightning_init.monitoring.variance_monitor import VarianceMonitor
from lightning_init.stationarity import DetectorSettings

LAYER = nn.Linear(10, 10, bias=False)


def with_moments(variance: float, mean: float = 0.0) -> nn.Module:
    """A layer whose weights have this variance and mean: half of them on either side."""
    signs = torch.ones(100).reshape(10, 10)
    signs[5:] = -1
    with torch.no_grad():
        LAYER.weight.copy_(mean + math.sqrt(variance) * signs)
    return LAYER


def monitor(budget: int = 400, **options: Any) -> VarianceMonitor:
    weights = find_weights(LAYER).weights
    return VarianceMonitor(weights, DetectorSettings(), float(budget), budget, 1, **options)


def noise(count: int) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    return (0.002 * torch.randn(count, generator=generator)).tolist()


class TestMoment:
    def test_raw_counts_the_squared_mean_and_central_does_not(self) -> None:
        module = with_moments(0.04, mean=0.1)
        assert monitor().measure(module) == [pytest.approx(0.04, rel=1e-6)]
        raw = monitor(moment="raw")
        assert raw.measure(module) == [pytest.approx(0.05, rel=1e-6)]
        assert raw.means == [pytest.approx(0.1, rel=1e-6)]


class TestLearningRate:
    def feed(self, rates: list[float], values: list[float]) -> VarianceMonitor:
        watched = monitor(len(values))
        for step, (rate, value) in enumerate(zip(rates, values, strict=True), start=1):
            watched.sample(with_moments(value), step, [rate])
        return watched

    def test_no_window_straddles_a_drop(self) -> None:
        # The series has fired on its first plateau, at V = 1, when the rate is halved.
        kicks = noise(400)
        levels = [1.0] * 200 + [0.5 + 0.5 * math.exp(-t / 5) for t in range(200)]
        values = [v * math.exp(e) for v, e in zip(levels, kicks, strict=True)]
        before = self.feed([0.1] * 200, values[:200])
        assert before.settled == 1
        watched = self.feed([0.1] * 200 + [0.05] * 200, values)
        (decision,) = watched.decisions()
        assert watched.resets == [201]
        assert decision.samples == 200
        assert decision.verdict is Verdict.STATIONARY
        assert watched.fired_at_step(decision) == 200 + (decision.fired_at or 0)
        assert (decision.fired_at or 0) >= 40
        assert decision.estimate == pytest.approx(0.5, rel=0.01)

    def test_right_after_a_drop_nothing_is_settled_and_v_is_the_newest_sample(self) -> None:
        watched = self.feed([0.1] * 200 + [0.05], [1.0] * 200 + [0.9])
        (decision,) = watched.decisions()
        assert watched.settled == 0
        assert decision.verdict is Verdict.INCONCLUSIVE
        assert watched.fired_at_step(decision) is None
        assert decision.estimate == pytest.approx(0.9, rel=1e-6)
        assert len(watched.history([1.0]).steps) == 202

    def test_a_schedule_that_moves_at_every_step_restarts_every_few_per_cent(self) -> None:
        # 1 % a step: a restart when the rate is 5 % below the one at which the series began.
        rates = [0.1 * 0.99**step for step in range(200)]
        watched = self.feed(rates, [1.0] * 200)
        gaps = {b - a for a, b in zip(watched.resets, watched.resets[1:], strict=False)}
        assert gaps == {5}
        assert watched.settled == 0

    @pytest.mark.parametrize("change", [1.0, 1.04, 0.96])
    def test_a_change_below_half_the_tolerance_restarts_nothing(self, change: float) -> None:
        assert self.feed([0.1] * 50 + [0.1 * change] * 50, [1.0] * 100).resets == []

    @pytest.mark.parametrize(("first", "second"), [(0.1, 0.106), (0.106, 0.1), (0.0, 1e-9)])
    def test_either_direction_and_a_start_at_zero_count(self, first: float, second: float) -> None:
        assert self.feed([first] * 50 + [second] * 50, [1.0] * 100).resets == [51]

    def test_the_slow_start_of_a_cosine_over_a_long_run_restarts_nothing(self) -> None:
        rates = [0.05 * (1 + math.cos(math.pi * step / 4000)) for step in range(400)]
        watched = self.feed(rates, [1.0] * 400)
        assert watched.resets == []
        assert watched.settled == 1


class Stepped(NoisyQuadratic):
    """The learning rate falls to a fifth after 60 steps."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 1.0 if step < 60 else 0.2
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@pytest.mark.filterwarnings("ignore:.*had not settled")
class TestOnARun:
    def test_a_schedule_that_is_kept_restarts_the_series(self) -> None:
        callback = OptimalVarianceInit(
            300,
            probe_lr="schedule",
            horizon=300,
            sample_every_n_steps=1,
            verbose=False,
            seed=1,
            on_unsettled="use",
        )
        fit(Stepped(lr=0.2, momentum=0.0), callback, max_epochs=6)
        assert callback.report is not None
        layer = callback.report["layer"]
        # Without momentum V = lr C / (h (2 - lr h)).
        assert layer.variance == pytest.approx(0.04 / 1.96, rel=0.03)
        assert any("after step 60" in note for note in callback.report.notes)

    def test_a_rate_that_is_held_restarts_nothing(self) -> None:
        callback = OptimalVarianceInit(80, verbose=False, on_unsettled="use")
        fit(Stepped(lr=0.2, momentum=0.0), callback, max_epochs=2)
        assert callback.report is not None
        assert not [note for note in callback.report.notes if "changed during" in note]
