from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from models import NoisyQuadratic, Regression, fit, mlp
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_init import OptimalVarianceInit
from lightning_init.inspection.weights import effective_weight, find_weights
from lightning_init.monitoring.force_monitor import ForceMonitor, step_rule
from lightning_init.monitoring.variance_monitor import VarianceMonitor
from lightning_init.monitoring.weight_moments import sample_moments
from lightning_init.stationarity import DetectorSettings

pytestmark = pytest.mark.filterwarnings("ignore:.*had not settled")


def rule_of(make: Any, **options: Any) -> Any:
    optimizer = make([nn.Parameter(torch.ones(2))], lr=0.01, weight_decay=0.1, **options)
    return step_rule(optimizer, optimizer.param_groups[0])


class TestStepRule:
    @pytest.mark.parametrize(
        ("make", "options"),
        [
            (torch.optim.SGD, {}),
            (torch.optim.SGD, {"momentum": 0.9}),
            (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
            (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.9}),
            (torch.optim.AdamW, {}),
            (torch.optim.NAdam, {"decoupled_weight_decay": True}),
            (torch.optim.RAdam, {"decoupled_weight_decay": True}),
        ],
    )
    def test_decay_is_what_the_optimizer_takes_when_there_is_no_gradient(
        self, make: Any, options: dict[str, Any]
    ) -> None:
        weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
        optimizer = make([weight], lr=1e-4, weight_decay=0.1, **options)
        weight.grad = torch.zeros_like(weight)
        squares = []
        for _ in range(400):
            optimizer.step()
            squares.append(weight.detach().square().sum().item())
        taken = 1 - (squares[-1] / squares[199]) ** (1 / 200)
        rule = step_rule(optimizer, optimizer.param_groups[0])
        assert rule.decay == pytest.approx(taken, rel=2e-3)

    @pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
    def test_decay_that_is_normalised_away_belongs_to_the_drive(self, make: Any) -> None:
        assert rule_of(make).decay == 0.0

    def test_the_closed_form_is_adamws(self) -> None:
        assert rule_of(torch.optim.AdamW).adam_like
        assert rule_of(torch.optim.NAdam, decoupled_weight_decay=True).adam_like
        assert not rule_of(torch.optim.Adam).adam_like
        assert not rule_of(torch.optim.SGD).adam_like

    def test_memory_is_that_of_the_moving_average(self) -> None:
        assert rule_of(torch.optim.SGD).memory_steps == 1.0
        assert rule_of(torch.optim.SGD, momentum=0.9).memory_steps == pytest.approx(10)
        assert rule_of(torch.optim.AdamW, betas=(0.95, 0.99)).memory_steps == pytest.approx(20)

    def test_an_optimizer_of_ones_own_needs_a_learning_rate_only(self) -> None:
        class Own(torch.optim.Optimizer):
            def __init__(self, parameters: Any) -> None:
                super().__init__(parameters, {"lr": 0.1})

        optimizer = Own([nn.Parameter(torch.ones(2))])
        rule = step_rule(optimizer, optimizer.param_groups[0])
        assert (rule.decay, rule.memory_steps, rule.adam_like) == (0.0, 1.0, False)


class TestGroups:
    def sampled(self, module: nn.Module, *optimizers: Any, samples: int = 5) -> ForceMonitor:
        weights = find_weights(module).weights
        monitor = ForceMonitor(weights)
        for step in range(1, samples + 1):
            moments = sample_moments([effective_weight(module, weight) for weight in weights])
            monitor.sample(module, step, moments, optimizers)
        return monitor

    def test_every_layer_has_the_decay_of_its_own_group(self) -> None:
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
        first = torch.optim.SGD(
            [{"params": net[0].parameters(), "weight_decay": 0.1}, {"params": net[1].bias}], lr=0.1
        )
        second = torch.optim.AdamW([net[1].weight])
        monitor = self.sampled(net, first, second)
        assert monitor.forces(0).decay == pytest.approx(1 - (1 - 0.01) ** 2)
        assert monitor.forces(1).decay == pytest.approx(1 - (1 - 1e-3 * 0.01) ** 2)
        assert math.isnan(monitor.forces(2).decay)
        assert math.isnan(monitor.noise_variance(0))
        assert monitor.noise_variance(1) == pytest.approx(1e-3 / 0.02, rel=1e-4)

    def test_weights_at_rest_need_as_much_drive_as_decay_takes(self) -> None:
        net = nn.Linear(4, 4)
        monitor = self.sampled(net, torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.1))
        assert monitor.forces(0).drive == pytest.approx(monitor.forces(0).decay)

    def test_under_weight_normalization_the_rule_is_that_of_the_norms(self) -> None:
        net = weight_norm(nn.Linear(4, 4))
        norms = net.parametrizations.weight.original0
        monitor = self.sampled(net, torch.optim.SGD([norms], lr=0.1, weight_decay=0.1))
        assert monitor.forces(0).decay == pytest.approx(1 - 0.99**2)

    def test_a_new_group_begins_new_series(self) -> None:
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1, weight_decay=0.1)
        weights = find_weights(net).weights
        monitor = ForceMonitor(weights)
        moments = sample_moments([effective_weight(net, weight) for weight in weights])
        for step in range(1, 5):
            monitor.sample(net, step, moments, [optimizer])
        assert math.isnan(monitor.forces(1).decay)
        optimizer.add_param_group({"params": net[1].parameters(), "weight_decay": 0.2})
        for step in range(5, 9):
            monitor.sample(net, step, moments, [optimizer])
        assert monitor.forces(1).decay == pytest.approx(1 - 0.98**2)

    def test_without_optimizers_nothing_is_known(self) -> None:
        assert math.isnan(self.sampled(nn.Linear(3, 3)).forces(0).drive)


class TestOnARun:
    def test_the_steady_state_of_a_quadratic_is_foretold(self) -> None:
        callback = OptimalVarianceInit(
            100, horizon="probe", sample_every_n_steps=1, verbose=False, seed=1
        )
        # V = lr C / (h (2 - lr h)), fifteen times the initial one; relaxation 1 / (2 lr h).
        fit(NoisyQuadratic(lr=0.05, momentum=0.0), callback, max_epochs=4)
        assert callback.report is not None
        layer = callback.report["layer"]
        assert layer.steady_state == pytest.approx(0.05 / 1.95, rel=0.05)
        assert layer.relaxation_steps == pytest.approx(10, rel=0.2)
        assert layer.decay == 0.0
        assert math.isnan(layer.noise_steady_state)

    @pytest.mark.parametrize(
        ("make", "options"),
        [
            (torch.optim.AdamW, {"weight_decay": 0.1, "betas": (0.0, 0.99)}),
            (torch.optim.Adam, {"betas": (0.0, 0.99)}),
            (torch.optim.RMSprop, {}),
            (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
        ],
    )
    def test_every_optimizer_has_forces(self, make: Any, options: dict[str, Any]) -> None:
        class Other(Regression):
            def configure_optimizers(self) -> Any:
                return make(self.parameters(), lr=0.003, **options)

        callback = OptimalVarianceInit(
            80, sample_every_n_steps=2, moment="raw", verbose=False, on_unsettled="use"
        )
        fit(Other(), callback, max_epochs=10)
        assert callback.report is not None
        for layer in callback.report.layers:
            assert math.isfinite(layer.drive)
            assert (layer.decay > 0) == ("weight_decay" in options)
            rate = layer.drive - layer.decay
            steps, series = callback.report.history.steps, callback.report.history.variance
            growth = math.log(series(layer.name)[-1] / series(layer.name)[len(steps) // 2])
            assert rate == pytest.approx(growth / (steps[-1] - steps[len(steps) // 2]), abs=1e-3)
            assert math.isfinite(layer.noise_steady_state) == (make is torch.optim.AdamW)

    def test_a_training_can_be_watched_without_a_probe_and_is_only_read(self) -> None:
        torch.manual_seed(0)
        plain, watched = Regression(mlp(16, 8, 4)), Regression(mlp(16, 8, 4))
        watched.load_state_dict(plain.state_dict())
        batches = [[torch.randn(8, 16), torch.randn(8, 4)] for _ in range(30)]
        weights = find_weights(watched).weights
        monitor = VarianceMonitor(weights, DetectorSettings(), 30.0, 30, 2)
        for module in (plain, watched):
            optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
            for step, batch in enumerate(batches, start=1):
                optimizer.zero_grad()
                nn.functional.mse_loss(module.net(batch[0]), batch[1]).backward()
                optimizer.step()
                if module is watched and monitor.is_due(step):
                    monitor.sample(module, step, [1e-3], [optimizer])
        for one, other in zip(plain.parameters(), watched.parameters(), strict=True):
            assert torch.equal(one, other)
        assert all(math.isfinite(monitor.layer_forces(i)["drive"]) for i in range(len(weights)))
