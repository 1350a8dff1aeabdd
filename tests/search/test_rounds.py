from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from models import (
    NoisyQuadratic,
    Notes,
    Regression,
    Silent,
    StateAtTrainStart,
    fit,
    same,
    weights_of,
)
from torch import Tensor, nn

from lightning_init import OptimalVarianceInit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*had not settled"),
    pytest.mark.usefixtures("draw_all"),
]

# Plain SGD on a quadratic: V(n; start) = start e + V_inf (1 - e), V_inf = lr C / (h (2 - lr h)).
STEADY_STATE = 0.05 / 1.95


def quadratic(factor: float = 1.0) -> NoisyQuadratic:
    """The noisy quadratic with weights of a chosen share of the steady state's variance."""
    model = Silent(momentum=0.0)
    with torch.no_grad():
        nn.init.normal_(model.layer.weight, std=math.sqrt(factor * STEADY_STATE))
    return model


class TestRounds:
    def test_rounds_reach_the_fixed_point_that_one_short_probe_misses(self) -> None:
        torch.manual_seed(0)
        once = OptimalVarianceInit(20, verbose=False, seed=1, on_unsettled="use")
        fit(quadratic(1 / 8), once)
        callback, recorder = (
            OptimalVarianceInit(20, rounds=12, verbose=False, seed=1, on_unsettled="use"),
            None,
        )
        recorder = StateAtTrainStart()
        fit(quadratic(1 / 8), callback, recorder)
        assert once.report is not None
        assert callback.report is not None
        assert once.report["layer"].variance < 0.8 * STEADY_STATE
        layer = callback.report["layer"]
        # The stop at |log(V / sigma0^2)| < .05 leaves .05 / (1 - e) with e about .5 here.
        assert layer.sigma0**2 == pytest.approx(STEADY_STATE, rel=0.12)
        history = callback.report.history.variance("layer")
        assert abs(math.log(history[-1] / history[0])) < 0.05
        assert layer.initial_variance == pytest.approx(STEADY_STATE / 8, rel=0.05)
        assert layer.ratio == pytest.approx(8, rel=0.15)
        assert 2 <= callback.report.rounds < 12
        assert callback.report.other_probe_steps == 20 * (callback.report.rounds - 1)
        probes = callback.report.total_steps - callback.report.guard_steps
        assert probes == 20 * callback.report.rounds
        assert f"The last of {callback.report.rounds} rounds" in callback.report.table()
        drawn = recorder.weights["layer.weight"].double().var().item()
        assert drawn == pytest.approx(layer.sigma0**2, rel=4 * math.sqrt(2 / 20_000))

    def test_a_fixed_point_takes_one_round(self) -> None:
        torch.manual_seed(0)
        callback = OptimalVarianceInit(20, rounds=5, verbose=False, on_unsettled="use")
        fit(quadratic(1.0), callback)
        assert callback.report is not None
        assert callback.report.rounds == 1

    def test_rounds_leave_the_same_run_as_drawing_their_result_at_once(self) -> None:
        torch.manual_seed(0)
        model, recorder = Regression(), StateAtTrainStart()
        biases = {k: v for k, v in weights_of(model).items() if k.endswith("bias")}
        callback = OptimalVarianceInit(8, rounds=3, verbose=False, seed=3, on_unsettled="use")
        fit(model, callback, recorder)
        assert callback.recipe is not None
        again = Regression()
        again.load_state_dict(model.state_dict())
        callback.recipe.apply(again, seed=3)
        for name, value in again.state_dict().items():
            expected = biases.get(name, value)
            assert torch.equal(recorder.weights[name], expected)

    def test_layers_that_do_not_settle_keep_their_own_weights_in_all_rounds(self) -> None:
        model, recorder = Regression(), StateAtTrainStart()
        before = weights_of(model)
        callback = OptimalVarianceInit(60, rounds=3, on_unsettled="keep", verbose=False)
        fit(model, callback, recorder, max_epochs=8)
        assert same(recorder.weights, before)
        assert callback.report is not None
        assert callback.report.rounds == 1

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_a_failure_in_a_later_round_changes_nothing(self, error: type[BaseException]) -> None:
        steps = Notes()

        class FailsLater(Regression):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                steps.append(batch_idx)
                if len(steps) == 12:
                    raise error("planted")
                return super().training_step(batch, batch_idx)

        model = FailsLater(lr=0.5)
        before = weights_of(model)
        callback = OptimalVarianceInit(
            8,
            rounds=4,
            verbose=False,
            verify_steps=0,
            on_probe_failure="raise",
            on_unsettled="use",
        )
        with pytest.raises((error, SystemExit)):
            fit(model, callback)
        assert len(steps) == 12
        assert same(weights_of(model), before)
        if error is RuntimeError:
            assert callback.report is None
            return
        report = callback.report
        assert report is not None
        assert report.interrupted
        assert (report.rounds, report.probe_steps, report.total_steps) == (2, 3, 11)
        started = [
            float(before[f"{row.name}.weight"].double().var(correction=0)) for row in report.layers
        ]
        assert [row.sigma0**2 for row in report.layers] == pytest.approx(started, rel=1e-4)
        assert {row.action for row in report.layers} == {"kept"}


class TestProjection:
    def run(self, on_unsettled: Any, lr: float) -> Any:
        torch.manual_seed(0)
        model = Regression(lr=lr)
        callback = OptimalVarianceInit(
            100, on_unsettled=on_unsettled, horizon=300, tolerance=0.0001, verbose=False
        )
        fit(model, callback, max_epochs=13)
        assert callback.report is not None
        return callback.report["net.2"]

    def test_a_sharp_projection_replaces_v(self) -> None:
        layer = self.run("project", lr=0.02)
        assert layer.projected_upper / layer.projected_lower < 1.25
        assert layer.sigma0**2 == pytest.approx(layer.projected)
        assert layer.sigma0**2 != pytest.approx(layer.variance, rel=1e-5)
        assert "projected to the end of the horizon" in layer.note

    def test_v_at_the_end_is_used_otherwise(self) -> None:
        layer = self.run("use", lr=0.02)
        assert layer.sigma0**2 == pytest.approx(layer.variance)

    def test_a_wide_projection_is_not_used(self) -> None:
        torch.manual_seed(0)
        callback = OptimalVarianceInit(
            60, on_unsettled="project", horizon=10_000, verbose=False, seed=1
        )
        fit(quadratic(1 / 8), callback, max_epochs=2)
        assert callback.report is not None
        layer = callback.report["layer"]
        assert layer.projected_upper / layer.projected_lower > 1.25
        assert layer.action == "kept"
        assert layer.sigma0**2 == pytest.approx(layer.initial_variance)
        assert "projection too wide" in layer.note


@pytest.mark.parametrize("moment", ["central", "raw"])
def test_a_mean_that_counts_is_said(moment: Any) -> None:
    class OffCentre(Silent):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) - 0.3 * self.layer.weight.sum()

    callback = OptimalVarianceInit(120, moment=moment, verbose=False, seed=1, on_unsettled="use")
    if moment == "central":
        with pytest.warns(UserWarning, match=r"squared mean is above 5% of V in 1 of 1 layers"):
            fit(OffCentre(), callback, max_epochs=3)
    else:
        fit(OffCentre(), callback, max_epochs=3)
    assert callback.report is not None
    layer = callback.report["layer"]
    # Mean 0.3 / h, and V = 0.25333 with momentum 0.9.
    exact = 0.05 / (0.1 * (2 - 0.05 / 1.9)) + (0.09 if moment == "raw" else 0.0)
    assert layer.variance == pytest.approx(exact, rel=0.05)
    assert layer.mean_share == pytest.approx(0.09 / exact, rel=0.1)
    assert "the squared mean is" in layer.note
    ratio = layer.ratio
    assert layer.excess_kl == pytest.approx(0.5 * (ratio - 1 - math.log(ratio)))
