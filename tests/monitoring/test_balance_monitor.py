from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from models import NoisyQuadratic, Regression, fit, mlp
from torch import nn

from lightning_init import OptimalVarianceInit, Verdict
from lightning_init.inspection.weights import find_weights
from lightning_init.monitoring.balance_monitor import BalanceMonitor

pytestmark = pytest.mark.filterwarnings("ignore:.*had not settled")


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_over_consecutive_steps_the_difference_telescopes(momentum: float, decay: float) -> None:
    # From |w_after|^2 = |w|^2 - 2 h <w, v> + h^2 |v|^2, step by step, in double precision.
    torch.manual_seed(0)
    model = Regression(mlp(16, 8, 4)).double()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum, weight_decay=decay)
    monitor = BalanceMonitor(find_weights(model).weights)
    expected: list[tuple[float, float]] = []
    weight = model.net[0].weight
    for _ in range(50):
        batch = [torch.randn(8, 16).double(), torch.randn(8, 4).double()]
        optimizer.zero_grad()
        nn.functional.mse_loss(model.net(batch[0]), batch[1]).backward()
        before = weight.detach().clone()
        optimizer.step()
        buffer = (before - weight.detach()) / 0.05
        gradient = weight.grad + decay * before
        expected.append(((before * gradient).sum().item(), buffer.square().sum().item()))
        monitor.sample(model, [optimizer])
    state = monitor._states[0]
    assert state is not None
    dissipation, squares = zip(*expected, strict=True)
    assert state.dissipation.values == pytest.approx(dissipation, rel=1e-9)
    scale = 0.05 * (1 + momentum) / 2
    assert state.fluctuation.values == pytest.approx([scale * v for v in squares], rel=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_steady_state_is_in_balance(momentum: float) -> None:
    lr = 0.05 if momentum else 0.5
    callback = OptimalVarianceInit(
        400,
        horizon="probe",
        sample_every_n_steps=1,
        verbose=False,
        seed=1,
        tolerance=1e-4,
        on_unsettled="use",
    )
    fit(NoisyQuadratic(lr=lr, momentum=momentum), callback, max_epochs=8)
    assert callback.report is not None
    layer = callback.report["layer"]
    assert abs(layer.imbalance) < 4 * layer.imbalance_standard_error
    assert layer.imbalance_standard_error < 0.01
    assert layer.balance is Verdict.STATIONARY


@pytest.mark.parametrize(("lr", "sign"), [(0.01, -1), (0.002, 1)])
def test_weights_that_grow_or_shrink_are_out_of_balance(lr: float, sign: int) -> None:
    # The steady state's variance lr C / (h (2 - lr h)) is three times, or 0.6 times, the initial
    # one: less, or more, is dissipated than injected.
    callback = OptimalVarianceInit(
        100, sample_every_n_steps=1, verbose=False, seed=1, on_unsettled="use"
    )
    fit(NoisyQuadratic(lr=lr, momentum=0.0), callback, max_epochs=2)
    assert callback.report is not None
    layer = callback.report["layer"]
    assert sign * layer.imbalance > 0.1
    assert layer.balance is Verdict.DRIFTING


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
    ],
)
def test_it_is_absent_where_the_relation_does_not_hold(optimizer: Any, options: Any) -> None:
    class Other(Regression):
        def configure_optimizers(self) -> Any:
            return optimizer(self.parameters(), lr=0.01, **options)

    callback = OptimalVarianceInit(60, sample_every_n_steps=1, verbose=False, on_unsettled="use")
    fit(Other(), callback, max_epochs=8)
    assert callback.report is not None
    for layer in callback.report.layers:
        assert layer.balance is None
        assert math.isnan(layer.imbalance)
