from __future__ import annotations

import math

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from models import NoisyQuadratic, Regression, StateAtTrainStart, fit, same, weights_of
from torch import Tensor

from lightning_init import OptimalVarianceInit
from lightning_init.search import guard as guard_module

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*had not settled"),
    pytest.mark.usefixtures("draw_all"),
]


def test_a_redraw_that_hurts_is_not_kept() -> None:
    # Loss h/2 |w|^2: weights below the steady state's variance have the lower loss for a while.
    # A second term falls by more than V raises the first, as in any training that works.
    class Descending(NoisyQuadratic):
        def __init__(self) -> None:
            super().__init__(lr=0.01, momentum=0.0)
            self.offset = torch.nn.Parameter(torch.tensor(30.0))

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) + self.offset.square()

    torch.manual_seed(0)
    model, recorder = Descending(), StateAtTrainStart()
    torch.nn.init.normal_(model.layer.weight, std=(0.25 * 0.01 / 1.99) ** 0.5)
    before = weights_of(model)
    callback = OptimalVarianceInit(200, guard_steps=10, verbose=False, seed=1, on_unsettled="use")
    fit(model, callback, recorder, max_epochs=5)
    assert callback.report is not None
    report, guard = callback.report, callback.report.guard
    assert guard is not None
    assert guard.worse
    assert 0 < guard.lower < guard.difference < guard.upper
    # V - V_0 times half the weights is what the redraw costs at first.
    layer = report["layer"]
    at_first = 0.5 * 20_000 * (layer.variance - layer.initial_variance)
    assert 0.5 * at_first < guard.difference < at_first
    assert layer.action == "kept"
    assert layer.sigma0**2 == pytest.approx(layer.initial_variance)
    assert same(recorder.weights, before)
    assert "so the original weights were kept" in report.table()


def test_a_redraw_that_is_not_worse_is_kept() -> None:
    torch.manual_seed(0)
    plain, guarded = StateAtTrainStart(), StateAtTrainStart()
    model = Regression()
    start = weights_of(model)
    torch.manual_seed(1)
    fit(model, OptimalVarianceInit(8, verbose=False, seed=1, on_unsettled="use"), plain)
    model.load_state_dict(start)
    torch.manual_seed(1)
    callback = OptimalVarianceInit(8, guard_steps=6, verbose=False, seed=1, on_unsettled="use")
    fit(model, callback, guarded)
    assert callback.report is not None
    guard = callback.report.guard
    assert guard is not None
    assert not guard.worse
    assert guard.lower < 0
    assert guard.pairs == 5
    assert guard.steps == callback.report.guard_steps == 60
    assert callback.report.total_steps == 68
    assert same(guarded.weights, plain.weights)
    assert "so the redraw was kept" in callback.report.table()
    assert callback.report.to_dict()["guard"]["steps"] == 60


def test_both_trials_of_a_pair_see_the_same_batches_and_pairs_see_others() -> None:
    orders: list[list[float]] = []

    class Watched(Regression):
        def on_train_start(self) -> None:
            orders.append([])

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            orders[-1].append(batch[0].sum().item())
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    callback = OptimalVarianceInit(
        4, guard_steps=4, verbose=False, seed=1, verify_steps=0, on_unsettled="use"
    )
    fit(Watched(), callback, max_epochs=1)
    trials = orders[1:11]
    pairs = [(trials[2 * i], trials[2 * i + 1]) for i in range(5)]
    assert all(original == redrawn for original, redrawn in pairs)
    assert len({tuple(original) for original, _ in pairs}) == 5
    # The first pair has the batches of the real run.
    assert orders[11][:4] == pairs[0][0]


def test_the_interval_is_student_t_of_the_pairs() -> None:
    outcome = guard_module._outcome([0.1, 0.2, 0.3, 0.2, 0.2], False, [], 0.95)
    # Mean .2, standard error .0707 / sqrt(5), t(.95, 4) = 2.131847.
    half = 2.1318467863 * math.sqrt(0.005) / math.sqrt(5)
    assert outcome.difference == pytest.approx(0.2)
    assert outcome.upper - 0.2 == pytest.approx(half)
    assert 0.2 - outcome.lower == pytest.approx(half)
    assert outcome.worse
    assert not guard_module._outcome([0.1, -0.2, 0.3, -0.2, 0.2], False, [], 0.95).worse
    assert not guard_module._outcome([-0.1, -0.2, -0.3, -0.2, -0.2], False, [], 0.95).worse


def test_a_redraw_that_diverges_is_worse() -> None:
    outcome = guard_module._outcome([-1.0, -1.0], True, [], 0.95)
    assert outcome.worse
    assert math.isnan(outcome.difference)


def strict_guard() -> OptimalVarianceInit:
    """A guard whose failure ends the fit, without a replay of the probe."""
    return OptimalVarianceInit(
        8, "use", guard_steps=4, verbose=False, verify_steps=0, on_probe_failure="raise"
    )


def test_without_a_loss_there_is_nothing_to_compare() -> None:
    class Manual(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    model = Manual()
    before = weights_of(model)
    with pytest.raises(MisconfigurationException, match="`guard_steps` compares training losses"):
        fit(model, strict_guard())
    assert same(weights_of(model), before)


def test_a_failure_in_a_trial_changes_nothing() -> None:
    steps: list[int] = []

    class FailsLater(Regression):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            steps.append(batch_idx)
            if len(steps) == 15:  # 8 of the probe, 4 of the original, 3 of the first redraw
                raise RuntimeError("planted")
            return super().training_step(batch, batch_idx)

    model = FailsLater()
    before = weights_of(model)
    with pytest.raises(RuntimeError, match="planted"):
        fit(model, strict_guard())
    assert same(weights_of(model), before)
