"""A probe fits the run: its length, its ends, and what it must not change."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import TensorBoardLogger
from models import (
    NoisyQuadratic,
    Regression,
    Silent,
    StateAtTrainStart,
    fit,
    mlp,
    regression_loader,
    same,
    weights_of,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import InitReport, OptimalVarianceInit, Verdict

pytestmark = pytest.mark.filterwarnings("ignore:.*had not settled")


def report_of(model: Any, callback: OptimalVarianceInit, **options: Any) -> Any:
    fit(model, callback, **options)
    assert callback.report is not None
    return callback.report


@pytest.mark.parametrize(("epochs", "most"), [(5, 4), (25, 20)])
def test_the_default_budget_is_a_tenth_of_the_run(epochs: int, most: int) -> None:
    callback = OptimalVarianceInit(on_unsettled="use", verbose=False)
    report = report_of(Regression(), callback, max_epochs=epochs)
    assert report.probe_steps == most
    assert f"Probe: {most} of {8 * epochs} steps, 10 % of the run" in report.table()
    assert {row.verdict for row in report.layers} == {Verdict.INCONCLUSIVE}
    assert all("samples are too few" in row.reason for row in report.layers)


class Counted(TensorDataset):
    """Counts the samples that are read."""

    read = 0

    def __getitem__(self, index: int) -> Any:
        self.read += 1
        return super().__getitem__(index)


DRAWN = "its variances can be drawn here, with `recipe=`."


@pytest.mark.parametrize(
    ("epochs", "asked", "budget", "advice"),
    [
        (5, 0.1, 4, f"No probe of a run of 40 steps can tell, one of 470 may; {DRAWN}"),
        (5, 4, 4, f"No probe of a run of 40 steps can tell, one of 47 may; {DRAWN}"),
        (10, 40, 40, "`max_probe_steps=47` may tell."),
        (50, 0.1, 40, "`max_probe_steps=47` may tell, or a run of 470 steps."),
    ],
)
def test_a_probe_too_short_for_a_verdict_takes_no_step(
    epochs: int, asked: int | float, budget: int, advice: str
) -> None:
    def trained(*callbacks: Any) -> tuple[Regression, int]:
        torch.manual_seed(0)
        model, data = Regression(), Counted(*regression_loader().dataset.tensors)
        fit(model, *callbacks, loader=DataLoader(data, 8, shuffle=True), max_epochs=epochs)
        return model, data.read

    callback = OptimalVarianceInit(asked, verbose=False)
    with pytest.warns(UserWarning, match="OptimalVarianceInit: no probe") as warned:
        model, read = trained(callback)
    plain, read_by_the_run = trained()
    assert same(weights_of(model), weights_of(plain))
    assert model.losses == plain.losses
    assert read == read_by_the_run
    report = callback.report
    assert report is not None
    assert (report.total_steps, report.restart, report.compared_batches) == (0, "", 0)
    assert {(row.verdict, row.action) for row in report.layers} == {(Verdict.INCONCLUSIVE, "kept")}
    assert report.stop_reason == (
        f"The probe took no step, because none of its {budget} could change what a layer gets"
        " (3 of 3 layers: the probe is too short for a verdict)."
    )
    reason = f"A probe of {budget} steps is too short for a verdict, which takes 47. {advice}"
    assert {row.reason for row in report.layers} == {reason}
    (line,) = (str(one.message) for one in warned if "OptimalVarianceInit" in str(one.message))
    assert line == (
        f"OptimalVarianceInit: no probe. {reason} The weights are what they were and the training"
        " goes on."
    )
    assert callback.recipe is None
    assert callback.run_recipe is not None


def test_a_probe_without_a_step_says_why_wherever_it_is_looked_for(tmp_path: Path) -> None:
    logger, path = TensorBoardLogger(str(tmp_path)), tmp_path / "recipe.json"
    callback = OptimalVarianceInit(
        rounds=2, forgetting=True, guard_steps=2, on_unsettled="project", recipe_path=str(path)
    )
    report = report_of(Regression(), callback, logger=logger)
    assert "no probe was made, all 3 layers keep their weights" in report.table()
    assert "Probe: 0 of 24 steps, 0 % of the run." in report.table()
    assert report.total_steps == 0
    events = EventAccumulator(str(Path(logger.log_dir) / "probe")).Reload()
    assert not events.Tags()["scalars"]
    (text,) = events.Tensors("OptimalVarianceInit/report/text_summary")
    assert report.stop_reason.encode() in text.tensor_proto.string_val[0]
    assert path.exists()  # of what the run ended at
    saved = InitReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert saved.table() == report.table()


def test_an_endless_run_is_told_and_trains_on() -> None:
    callback, recorder = OptimalVarianceInit(verbose=False), StateAtTrainStart()
    model = Regression()
    before = weights_of(model)
    line = "OptimalVarianceInit: no probe, because a run without a planned end has no share of 0.1;"
    with pytest.warns(UserWarning, match=f"{line} set `max_probe_steps` to a number"):
        trainer = fit(model, callback, recorder, max_epochs=-1, max_time="00:00:00:01")
    assert same(recorder.weights, before)
    assert trainer.global_step > 0
    assert callback.report is None


def test_no_probe_is_no_probe() -> None:
    callback = OptimalVarianceInit(0, verbose=False)
    fit(Regression(), callback)
    assert callback.report is None


def test_layers_that_stay_where_they_are_end_the_probe_and_keep_their_weights() -> None:
    model, recorder = Regression(lr=1e-5), StateAtTrainStart()
    before = weights_of(model)
    callback = OptimalVarianceInit(verbose=False)
    fit(model, callback, recorder, max_epochs=100)
    report = callback.report
    assert report is not None
    assert {row.action for row in report.layers} == {"unchanged"}
    assert same(recorder.weights, before)
    assert report.probe_steps < 80
    assert "nothing to change: 3 of 3 layers within" in report.table()


def test_layers_that_drift_end_the_probe_early() -> None:
    report = report_of(Regression(lr=0.2), OptimalVarianceInit(verbose=False), max_epochs=100)
    assert report.probe_steps < 80
    assert "will not settle within the probe" in report.stop_reason


def test_a_layer_that_ends_before_any_verdict_says_why_and_what_may_help() -> None:
    report = report_of(Silent(noise=4.0), OptimalVarianceInit(verbose=False), max_epochs=20)
    layer = report["layer"]
    assert report.probe_steps < 40
    assert (layer.verdict, layer.action) == (Verdict.INCONCLUSIVE, "kept")
    assert layer.reason == (
        "V moves so that it would not settle within the probe's 100 steps."
        " `max_probe_steps=200` may tell."
    )


@pytest.mark.parametrize("lr", [5.0, 500.0])
def test_a_learning_rate_far_too_high_changes_nothing(lr: float) -> None:
    torch.manual_seed(0)
    model, recorder = Regression(lr=lr), StateAtTrainStart()
    before = weights_of(model)
    callback = OptimalVarianceInit(100, on_unsettled="use", verbose=False)
    with pytest.warns(UserWarning, match="so the probe says nothing and no weight was changed"):
        fit(model, callback, recorder, max_epochs=20)
    assert same(recorder.weights, before)
    report = callback.report
    assert report is not None
    assert {row.verdict for row in report.layers} == {Verdict.INVALID}
    assert report.probe_steps < 100
    assert "the probe diverged, all 3 layers keep their weights" in report.table()
    assert report.notes == ()
    assert report.table().count("why: ") == 1
    assert "note: " not in report.table()


def test_a_layer_that_decay_takes_away_is_not_blamed_on_the_learning_rate() -> None:
    callback = OptimalVarianceInit(100, on_unsettled="use", verbose=False)
    with pytest.warns(UserWarning, match="Weight decay leaves nothing of a layer: lower it"):
        report = report_of(Regression(lr=0.05, decay=1.0), callback, max_epochs=20)
    assert re.search(
        r"the variance of 'net.\d' by probe step \d+ was 0.0\d+ times", report.divergence
    )
    assert "Lower the learning rate" not in report.layers[0].reason


def test_a_loss_that_rises_ends_the_probe() -> None:
    class Ascending(NoisyQuadratic):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            return loss - loss.detach() + self.trainer.global_step

    report = report_of(Ascending(), OptimalVarianceInit(50, verbose=False))
    assert report.divergence.startswith("the training loss rose from")
    assert report.losses[1] > report.losses[0]


@pytest.mark.parametrize("lowest", [0.0, 0.001])
def test_a_warm_up_is_climbed_and_the_peak_measured(lowest: float) -> None:
    class WarmUp(NoisyQuadratic):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: lowest + (1 - lowest) * min(1.0, step / 100)
            )
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    report = report_of(WarmUp(), OptimalVarianceInit(300, verbose=False, seed=1), max_epochs=20)
    layer = report["layer"]
    assert layer.learning_rate == layer.peak_learning_rate == 0.05
    assert layer.variance == pytest.approx(0.05 / (0.1 * (2 - 0.05 / 1.9)), rel=0.03)
    assert report.history.steps[1] > 15
    assert "the run's peak, reached after 15 steps" in report.table()


@pytest.mark.parametrize(("warm_steps", "needed"), [(1, 47), (100, 49)])
def test_the_shortest_probe_that_may_tell_is_the_one_that_is_named(
    warm_steps: int, needed: int
) -> None:
    class WarmUp(Regression):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: min(1.0, (step + 1) / warm_steps)
            )
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    for budget in (needed - 1, needed):
        callback = OptimalVarianceInit(budget, verbose=False)
        report = report_of(WarmUp(), callback, max_epochs=15)
        assert bool(report.total_steps) == (budget == needed)
        if budget < needed:
            assert f"`max_probe_steps={needed}` may tell." in report.layers[0].reason


class ManualWarmUp(NoisyQuadratic):
    """Manual optimization that steps a warm-up by hand, every so many optimizer steps."""

    def __init__(self, every: int, warm_steps: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.every, self.warm_steps, self.calls = every, warm_steps, 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss, optimizer = super().training_step(batch, batch_idx), self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.calls += 1
        if self.calls % self.every == 0:
            self.lr_schedulers().step()
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        warm_up = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, 0.5 + step / self.warm_steps)
        )
        return [optimizer], [warm_up]


def test_a_warm_up_stepped_by_hand_is_not_stationary_below_what_it_can_reach() -> None:
    callback = OptimalVarianceInit(150, on_unsettled="use", verbose=False, seed=1)
    layer = report_of(ManualWarmUp(every=200, warm_steps=4), callback, max_epochs=5)["layer"]
    assert layer.learning_rate == pytest.approx(0.025)
    assert layer.verdict is Verdict.INCONCLUSIVE
    assert "below 0.05, which its schedulers can reach" in layer.reason
    assert math.isnan(layer.forgotten_share)


def test_a_series_that_began_again_says_how_long_a_probe_it_needs() -> None:
    callback = OptimalVarianceInit(100, on_unsettled="use", verbose=False, seed=1)
    report = report_of(ManualWarmUp(every=2, warm_steps=80), callback, max_epochs=5)
    resets = max(int(word) for word in re.findall(r"after step (\d+)", " ".join(report.notes)))
    assert f"`max_probe_steps={resets + 47}` may tell" in report["layer"].reason
    assert "where the module's own schedulers had come" in " ".join(report.notes)


def test_below_the_peak_nothing_is_stationary() -> None:
    callback = OptimalVarianceInit(200, probe_lr=0.02, verbose=False, on_unsettled="use")
    layer = report_of(NoisyQuadratic(), callback, max_epochs=20)["layer"]
    assert layer.verdict is Verdict.INCONCLUSIVE
    assert "learning rate 0.02, below the run's peak 0.05" in layer.reason


def test_a_scaled_draw_keeps_the_shape_of_what_is_there() -> None:
    model, recorder = Regression(lr=0.2), StateAtTrainStart()
    before = weights_of(model)
    callback = OptimalVarianceInit(20, draw="scale", on_unsettled="use", verbose=False)
    fit(model, callback, recorder)
    assert callback.report is not None
    row = next(row for row in callback.report.layers if row.action == "redrawn")
    name = f"{row.name}.weight"
    factor = recorder.weights[name] / before[name]
    assert torch.allclose(factor, factor.mean().expand_as(factor), rtol=1e-4)
    assert recorder.weights[name].double().var(correction=0).item() == pytest.approx(
        row.sigma0**2, rel=1e-4
    )


def test_zeros_and_identities_are_kept_unless_they_are_named() -> None:
    net = mlp(16, 16, 16, 4)
    nn.init.constant_(net[2].weight, 0.1)
    nn.init.eye_(net[0].weight)
    report = report_of(Regression(net), OptimalVarianceInit(8, verbose=False, on_unsettled="use"))
    reasons = {left.name: left.reason for left in report.left_out}
    assert "without variance" in reasons["net.2"]
    assert "identity" in reasons["net.0"]
    named = OptimalVarianceInit(8, include=["net.2"], verbose=False, on_unsettled="use")
    assert [row.name for row in report_of(Regression(net), named).layers] == ["net.2"]


def test_the_share_that_decay_forgets() -> None:
    report = report_of(
        Regression(decay=0.01, lr=0.1), OptimalVarianceInit(8, verbose=False), max_epochs=10
    )
    assert report.layers[0].forgotten_share == pytest.approx(1 - math.exp(-2 * 80 * 0.001))


def test_the_readme_model_is_left_alone_when_it_diverges() -> None:
    model, recorder = BoringModel(), StateAtTrainStart()
    before = weights_of(model)
    callback = OptimalVarianceInit(60, verbose=False)
    fit(model, callback, recorder, loader=model.train_dataloader(), max_epochs=2)
    assert callback.report is not None
    if callback.report.divergence:
        assert same(recorder.weights, before)
