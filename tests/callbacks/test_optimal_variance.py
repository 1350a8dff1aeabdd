from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from models import (
    QUIET,
    NoisyQuadratic,
    Regression,
    StateAtTrainStart,
    fit,
    mlp,
    regression_loader,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from lightning_init import FractionalMomentInit, InitReport, OptimalVarianceInit, Verdict


def state_of(trainer: Trainer, model: Any) -> dict[str, Any]:
    return {
        "weights": {k: v.clone() for k, v in model.state_dict().items()},
        "callbacks": list(trainer.callbacks),
        "loggers": list(trainer.loggers),
        "fit_loop": trainer.fit_loop,
        "limits": (trainer.limit_val_batches, trainer.max_epochs, trainer.max_steps),
    }


@pytest.mark.usefixtures("draw_all")
@pytest.mark.filterwarnings("ignore:.*had not settled")
class TestOutcome:
    def test_steady_state_of_a_quadratic_is_measured_within_two_percent(self) -> None:
        # torch SGD with momentum b on curvature h and gradient noise C (Horii & Has' steady state
        # in discrete time): V = lr C / ((1 - b) h (2 - lr h / (1 + b))) = 0.25333. 20 000 weights
        # give 1 % per snapshot; the estimate averages more than 20 snapshots.
        callback = OptimalVarianceInit(
            max_probe_steps=1000, verbose=False, seed=1, on_unsettled="use"
        )
        recorder = StateAtTrainStart()
        trainer = Trainer(max_epochs=20, callbacks=[callback, recorder], **QUIET)
        trainer.fit(NoisyQuadratic())
        assert callback.report is not None
        layer = callback.report["layer"]
        exact = 0.05 / (0.1 * (2 - 0.05 / 1.9))
        assert layer.variance == pytest.approx(exact, rel=0.02)
        assert layer.verdict is Verdict.STATIONARY
        drawn = recorder.weights["layer.weight"].double().var().item()
        assert drawn == pytest.approx(layer.variance, rel=4 * math.sqrt(2 / 20_000))

    def test_every_layer_is_drawn_with_its_own_variance_and_biases_stay(self) -> None:
        model = Regression(mlp(16, 64, 64, 4))
        before = copy.deepcopy(model.state_dict())
        callback, recorder = (
            OptimalVarianceInit(50, verbose=False, seed=3, on_unsettled="use"),
            StateAtTrainStart(),
        )
        fit(model, callback, recorder)
        assert callback.report is not None
        for layer in callback.report.layers:
            weight = recorder.weights[f"{layer.name}.weight"].double()
            assert layer.initial_variance == pytest.approx(
                before[f"{layer.name}.weight"].double().var(correction=0).item(), rel=1e-6
            )
            spread = 4 * math.sqrt(2 / weight.numel())
            assert weight.var().item() == pytest.approx(layer.sigma0**2, rel=spread)
            assert layer.sigma0**2 == pytest.approx(layer.variance)
            assert not torch.equal(weight, before[f"{layer.name}.weight"].double())
            bias = f"{layer.name}.bias"
            assert torch.equal(recorder.weights[bias], before[bias])

    def test_real_run_starts_from_nothing(self) -> None:
        recorder = StateAtTrainStart()
        trainer = fit(
            Regression(), OptimalVarianceInit(20, verbose=False, on_unsettled="use"), recorder
        )
        assert recorder.position == (0, 0)
        assert recorder.optimizer_states == [0]
        assert trainer.global_step == 24

    def test_real_run_is_bitwise_the_run_from_the_redrawn_weights(self) -> None:
        recorder = StateAtTrainStart()
        seed_everything(1, verbose=False)
        probed = Regression()
        fit(probed, OptimalVarianceInit(17, verbose=False, on_unsettled="use"), recorder)

        class Overwrite(StateAtTrainStart):
            def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
                for name, parameter in pl_module.named_parameters():
                    if name.endswith("weight"):
                        parameter.data.copy_(recorder.weights[name])

        seed_everything(1, verbose=False)
        plain = Regression()
        fit(plain, Overwrite())
        assert probed.losses == plain.losses
        for name, value in plain.state_dict().items():
            assert torch.equal(value, probed.state_dict()[name])

    def test_seed_decides_the_draw_and_defaults_to_the_global_seed(self) -> None:
        def first_weight(global_seed: int, seed: int | None) -> Tensor:
            torch.manual_seed(0)
            model = Regression()
            torch.manual_seed(global_seed)
            recorder = StateAtTrainStart()
            fit(
                model,
                OptimalVarianceInit(8, verbose=False, seed=seed, on_unsettled="use"),
                recorder,
            )
            weight = recorder.weights["net.0.weight"]
            return weight / weight.std()

        torch.testing.assert_close(first_weight(1, seed=5), first_weight(2, seed=5))
        torch.testing.assert_close(first_weight(7, None), first_weight(1, seed=7))
        assert not torch.allclose(first_weight(1, None), first_weight(2, None), atol=0.1)

    def test_report_says_why_the_probe_stopped(self) -> None:
        budget = OptimalVarianceInit(8, verbose=False, on_unsettled="use")
        fit(Regression(), budget)
        assert budget.report is not None
        assert budget.report.stop_reason.startswith(
            "The probe stopped at its budget of 8 optimizer steps"
        )
        limited = OptimalVarianceInit(1000, verbose=False, on_unsettled="use")
        fit(Regression(), limited)
        assert limited.report is not None
        assert limited.report.probe_steps == 24
        assert "the run's own limit" in limited.report.stop_reason

    def test_a_settled_model_stops_the_probe_early(self) -> None:
        callback = OptimalVarianceInit(1000, verbose=False, seed=1, on_unsettled="use")
        trainer = Trainer(max_epochs=20, callbacks=[callback], **QUIET)
        trainer.fit(NoisyQuadratic())
        assert callback.report is not None
        assert callback.report.converged
        assert callback.report.probe_steps < 1000
        assert "because all 1 layers had settled" in callback.report.stop_reason

    def test_horizon_is_the_planned_run(self) -> None:
        def horizon_of(**options: Any) -> int:
            callback = OptimalVarianceInit(10, verbose=False, **options.pop("init", {}))
            fit(Regression(), callback, **options)
            assert callback.report is not None
            return callback.report.horizon_steps

        assert horizon_of(max_epochs=5) == 40
        assert horizon_of(max_steps=30, max_epochs=-1) == 30
        assert horizon_of(max_epochs=4, accumulate_grad_batches=2) == 16
        assert horizon_of(init={"horizon": "probe"}) == 10
        assert horizon_of(init={"horizon": 5000}) == 5000

    def test_table_is_printed_once_on_standard_output(self, capsys: Any) -> None:
        fit(Regression(), OptimalVarianceInit(8, on_unsettled="use"))
        printed = capsys.readouterr().out
        assert printed.count("V/V before") == 1
        assert "net.0" in printed

    def test_unchanged_layers_are_marked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("lightning_init.search.outcome.UNCHANGED_LOG_RATIO", 0.05)
        callback = OptimalVarianceInit(8, verbose=False, on_unsettled="use")
        fit(Regression(lr=1e-5), callback)
        assert callback.report is not None
        assert all(layer.unchanged for layer in callback.report.layers)
        assert "unchanged" in callback.report.table()


@pytest.mark.usefixtures("draw_all")
class TestUnsettled:
    def test_use_warns_and_names_the_layers(self) -> None:
        with pytest.warns(UserWarning, match=r"3 of 3 layers had not settled .*net\.0, net\.2"):
            fit(Regression(), OptimalVarianceInit(8, verbose=False, on_unsettled="use"))

    @pytest.mark.filterwarnings("ignore:.*had not settled")
    def test_keep_keeps_their_weights(self) -> None:
        torch.manual_seed(0)
        model, recorder = Regression(lr=0.2), StateAtTrainStart()
        before = copy.deepcopy(model.state_dict())
        callback = OptimalVarianceInit(60, on_unsettled="keep", verbose=False)
        fit(model, callback, recorder, max_epochs=8)
        assert all(torch.equal(recorder.weights[k], before[k]) for k in before)
        assert callback.report is not None
        assert {layer.action for layer in callback.report.layers} == {"kept"}

    def test_raise_raises_and_changes_nothing(self) -> None:
        model = Regression()
        trainer = Trainer(
            max_epochs=3,
            callbacks=[OptimalVarianceInit(8, on_unsettled="raise", verbose=False)],
            **QUIET,
        )
        before = state_of(trainer, model)
        with pytest.raises(
            MisconfigurationException, match="3 of 3 layers: the probe is too short for a verdict"
        ):
            trainer.fit(model, regression_loader())
        after = state_of(trainer, model)
        assert all(torch.equal(before["weights"][k], v) for k, v in after.pop("weights").items())
        before.pop("weights")
        assert before == after


@pytest.mark.usefixtures("draw_all")
@pytest.mark.filterwarnings("ignore:.*had not settled")
class TestWhichWeights:
    def test_frozen_tied_lazy_and_parametrized_weights_are_accounted_for(self) -> None:
        net = mlp(16, 16, 16, 16, 4)
        net[2].weight.requires_grad_(False)
        net[4].weight = net[0].weight
        nn.utils.parametrizations.spectral_norm(net[6])
        callback = OptimalVarianceInit(8, verbose=False, on_unsettled="use")
        fit(Regression(net), callback)
        assert callback.report is not None
        assert [layer.name for layer in callback.report.layers] == ["net.0"]
        reasons = {row.name: row.reason for row in callback.report.left_out}
        assert reasons["net.2"].startswith("frozen")
        assert "tied" in reasons["net.4"]
        assert any("spectral_norm" in reason for reason in reasons.values())
        for name in ("net.2", "net.4"):
            assert name in callback.report.full()

    def test_weight_norm_is_redrawn_through_its_parametrization(self) -> None:
        net = mlp(16, 64, 4)
        nn.utils.parametrizations.weight_norm(net[0])
        magnitude = net[0].parametrizations.weight.original0
        model, callback = Regression(net), OptimalVarianceInit(8, verbose=False, on_unsettled="use")
        fit(model, callback, max_epochs=1)
        assert callback.report is not None
        assert callback.report["net.0"].action == "redrawn"
        assert net[0].parametrizations.weight.original0 is magnitude

    def test_include_and_exclude_choose_layers(self) -> None:
        callback = OptimalVarianceInit(
            8, include=["net.*"], exclude=["net.4"], verbose=False, on_unsettled="use"
        )
        fit(Regression(), callback)
        assert callback.report is not None
        assert [layer.name for layer in callback.report.layers] == ["net.0", "net.2"]

    def test_layers_made_in_configure_model_take_part(self) -> None:
        class Late(Regression):
            def configure_model(self) -> None:
                if not isinstance(self.net, nn.Sequential):
                    self.net = mlp(16, 8, 4)

        model, callback = (
            Late(nn.Identity()),
            OptimalVarianceInit(8, verbose=False, on_unsettled="use"),
        )
        fit(model, callback)
        assert callback.report is not None
        assert [layer.name for layer in callback.report.layers] == ["net.0", "net.2"]


@pytest.mark.usefixtures("draw_all")
@pytest.mark.filterwarnings("ignore:.*had not settled")
class TestOtherEntryPoints:
    def test_fast_dev_run_says_in_one_line_that_the_probe_is_skipped(self, caplog: Any) -> None:
        callback, model = OptimalVarianceInit(8, on_unsettled="use"), Regression()
        with caplog.at_level("INFO", logger="lightning.pytorch"):
            Trainer(fast_dev_run=True, callbacks=[callback], enable_progress_bar=False).fit(
                model, regression_loader()
            )
        lines = [m for m in caplog.messages if "probe skipped" in m]
        assert lines == [
            "OptimalVarianceInit: probe skipped, because fast_dev_run only checks that the code"
            " runs."
        ]
        assert callback.report is None

    @pytest.mark.parametrize("entry", ["validate", "test", "predict"])
    def test_other_entry_points_are_untouched(self, entry: str) -> None:
        model, callback = Regression(), OptimalVarianceInit(8, on_unsettled="use")
        before = copy.deepcopy(model.state_dict())
        trainer = Trainer(callbacks=[callback], **QUIET)
        getattr(trainer, entry)(model, regression_loader())
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert callback.report is None

    def test_a_resumed_run_is_not_probed(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        first = fit(
            Regression(), OptimalVarianceInit(8, verbose=False, on_unsettled="use"), max_epochs=2
        )
        path = tmp_path / "two_epochs.ckpt"
        first.save_checkpoint(path)
        second, recorder = (
            OptimalVarianceInit(8, verbose=False, on_unsettled="use"),
            StateAtTrainStart(),
        )
        trainer = Trainer(max_epochs=4, callbacks=[second, recorder], **QUIET)
        trainer.fit(Regression(), regression_loader(), ckpt_path=str(path))
        found = next(c for c in first.callbacks if isinstance(c, OptimalVarianceInit)).report
        assert second.recipe is None
        assert second.report is not None
        assert as_found(second.report) == as_found(found)
        assert recorder.position == (16, 2)
        saved = torch.load(path, weights_only=False)["state_dict"]
        assert all(torch.equal(saved[k], v) for k, v in recorder.weights.items())

    def test_a_second_fit_goes_on_without_a_probe(self) -> None:
        callback, model = OptimalVarianceInit(8, verbose=False, on_unsettled="use"), Regression()
        trainer = fit(model, callback)
        report = callback.report
        trainer.fit_loop.max_epochs = 5
        trainer.fit(model, regression_loader())
        assert as_found(callback.report) == as_found(report)
        assert trainer.global_step == 40

    def test_one_object_serves_several_trainers(self) -> None:
        callback = OptimalVarianceInit(8, verbose=False, on_unsettled="use")
        reports = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            fit(Regression(), callback)
            reports.append(callback.report)
        assert reports[0] is not None
        assert reports[1] is not None
        assert reports[0].layers != reports[1].layers


def as_found(report: InitReport) -> dict[str, Any]:
    """A report without what became of its layers in the run that followed."""
    content = report.to_dict()
    for layer in content["layers"]:
        for name in ("run_variance", "projection_held", "verdict_held"):
            layer.pop(name)
    return content


@pytest.mark.usefixtures("draw_all")
@pytest.mark.filterwarnings("ignore:.*had not settled")
class TestLogging:
    def test_probe_writes_its_own_tensorboard_run(self, tmp_path: Path) -> None:
        logger = TensorBoardLogger(tmp_path, name="run")
        callback = OptimalVarianceInit(
            20, sample_every_n_steps=5, verbose=False, on_unsettled="use"
        )
        fit(Regression(), callback, logger=logger)
        events = EventAccumulator(str(Path(logger.log_dir) / "probe")).Reload()
        scalars = set(events.Tags()["scalars"])
        for layer in ("net.0", "net.2", "net.4"):
            for quantity in ("variance", "kl"):
                assert f"OptimalVarianceInit/{quantity}/{layer}" in scalars
        series = events.Scalars("OptimalVarianceInit/variance/net.0")
        assert [event.step for event in series] == [0, 5, 10, 15, 20]
        real = EventAccumulator(logger.log_dir).Reload()
        ours = {tag for tag in real.Tags()["scalars"] if "OptimalVariance" in tag}
        layers = ("net.0", "net.2", "net.4")
        assert ours == {f"OptimalVarianceInit/run_variance/{layer}" for layer in layers}

    def test_other_loggers_get_one_row(self, tmp_path: Path) -> None:
        logger = CSVLogger(tmp_path)
        callback = OptimalVarianceInit(8, verbose=False, on_unsettled="use")
        fit(Regression(), callback, logger=logger, log_every_n_steps=4)
        header = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0]
        assert "OptimalVarianceInit/sigma0/net.0" in header

    def test_without_a_logger_the_history_is_on_the_report(self) -> None:
        callback = OptimalVarianceInit(8, verbose=False, on_unsettled="use")
        fit(Regression(), callback)
        assert callback.report is not None
        assert callback.report.history.steps == tuple(range(9))
        assert len(callback.report.history.variance("net.0")) == 9

    def test_report_is_in_the_checkpoint_as_plain_values(self, tmp_path: Path) -> None:
        trainer = fit(Regression(), OptimalVarianceInit(8, verbose=False, on_unsettled="use"))
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        content = torch.load(tmp_path / "x.ckpt", weights_only=True)
        (key,) = [k for k in content["callbacks"] if k.startswith("OptimalVarianceInit")]
        assert content["callbacks"][key]["report"]["probe_steps"] == 8


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"max_probe_steps": -1},
                "`max_probe_steps` must be a number of steps of at least 0, or a share below 1 of"
                " the planned steps, got -1.",
            ),
            ({"on_unsettled": "guess"}, "`on_unsettled` must be one of"),
            ({"granularity": "net"}, "`granularity` must be one of layer, global, gain, got 'net'"),
            (
                {"horizon": "epoch"},
                "`horizon` must be one of run, probe, or an integer of at least 1, got 'epoch'.",
            ),
            (
                {"horizon": 0},
                "`horizon` must be one of run, probe, or an integer of at least 1, got 0.",
            ),
            ({"tolerance": 0.0}, "`tolerance` must be a number between 0 and 1, got 0.0"),
            ({"draw": "orthogonal"}, "`draw` must be one of normal, scale, got 'orthogonal'."),
            ({"moment": "third"}, "`moment` must be one of central, raw, got 'third'."),
            ({"rounds": 0}, "`rounds` must be an integer of at least 1, got 0."),
            ({"guard_steps": -1}, "`guard_steps` must be an integer of at least 0, got -1."),
            ({"guard_steps": 1}, "`guard_steps` must be 0 (no guard) or at least 2, got 1."),
            ({"recipe_by_width": True}, "`recipe_by_width` needs a `recipe`"),
            (
                {"probe_lr": 0.0},
                "`probe_lr` must be 'peak', 'schedule' or a learning rate above 0, got 0.0.",
            ),
            (
                {"sample_every_n_steps": 0},
                "`sample_every_n_steps` must be an integer of at least 1, or None, got 0.",
            ),
        ],
    )
    def test_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            OptimalVarianceInit(**arguments)
        assert "\n" not in str(caught.value)

    def refused(self, model: Regression, callback: OptimalVarianceInit, **options: Any) -> str:
        callback.settings = replace(callback.settings, on_probe_failure="raise")
        trainer = Trainer(callbacks=[callback], **{**QUIET, "max_epochs": 2, **options})
        before = {k: v.clone() for k, v in model.state_dict().items() if not v.is_meta}
        attributes = {k: v for k, v in vars(trainer).items() if k != "state"}
        with pytest.raises((ValueError, MisconfigurationException)) as caught:
            trainer.fit(model, regression_loader())
        assert all(torch.equal(before[k], model.state_dict()[k]) for k in before)
        assert trainer.callbacks == attributes["callbacks"]
        assert trainer.fit_loop is attributes["fit_loop"]
        assert callback.report is None
        message = str(caught.value)
        assert "\n" not in message
        return message

    def test_all_frozen(self) -> None:
        class Frozen(Regression):
            def configure_optimizers(self) -> None:
                return None

        model = Frozen()
        model.requires_grad_(False)
        message = self.refused(model, OptimalVarianceInit(8, on_unsettled="use"))
        assert message.startswith("OptimalVarianceInit: no weight takes part (frozen")

    def test_no_weight_matches(self) -> None:
        message = self.refused(
            Regression(), OptimalVarianceInit(8, include=["encoder.*"], on_unsettled="use")
        )
        assert "'encoder.*'" in message

    def test_meta_weights(self) -> None:
        net = mlp(16, 4)
        net[0] = nn.Linear(16, 4, device="meta")

        class Meta(Regression):
            def configure_optimizers(self) -> None:
                return None

        # `Trainer` itself fails on meta tensors later on; ours is the readable error before that.
        model = Meta(net)
        from lightning_init.callbacks.base import require_weights
        from lightning_init.inspection.weights import find_weights

        with pytest.raises(MisconfigurationException, match=r"'net\.0' is on the meta device"):
            require_weights("OptimalVarianceInit", find_weights(model))

    @pytest.mark.parametrize("step", [1, 5, 8])
    def test_nan_loss(self, step: int) -> None:
        class Diverging(Regression):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                loss = super().training_step(batch, batch_idx)
                return loss * math.nan if len(self.losses) == step else loss

        model, recorder = Diverging(), StateAtTrainStart()
        before = copy.deepcopy(model.state_dict())
        callback = OptimalVarianceInit(8, on_unsettled="use", verbose=False)
        with pytest.warns(UserWarning, match="no weight was changed") as caught:
            trainer = fit(model, callback, recorder, max_epochs=2)
        said = [str(w.message) for w in caught if "no weight was changed" in str(w.message)]
        assert len(said) == 1
        assert f"the training loss was not finite at probe step {step}" in said[0]
        assert "Lower the learning rate" in said[0]
        assert all(torch.equal(recorder.weights[k], before[k]) for k in before)
        assert trainer.global_step == 16
        assert callback.report is not None
        assert {row.verdict for row in callback.report.layers} == {Verdict.INVALID}

    def test_a_learning_rate_of_zero_throughout_is_no_result(self) -> None:
        message = self.refused(Regression(lr=0.0), OptimalVarianceInit(8, on_unsettled="use"))
        assert "no weight moved" in message


@pytest.mark.filterwarnings("ignore:.*had not settled")
def test_probe_learning_rate_replaces_a_warm_up_from_zero() -> None:
    class WarmUp(Regression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    callback = OptimalVarianceInit(8, probe_lr=0.1, verbose=False, on_unsettled="use")
    trainer = fit(WarmUp(), callback)
    assert callback.report is not None
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 24 / 10)


@pytest.mark.filterwarnings("ignore:.*had not settled")
@pytest.mark.parametrize("order", ["first", "last"])
def test_probe_starts_from_the_closed_form_weights_in_either_order(order: str) -> None:
    class Late(Regression):
        def configure_model(self) -> None:
            if not isinstance(self.net, nn.Sequential):
                self.net = mlp(16, 64, 4)

    fractional = FractionalMomentInit(order=1.0, verbose=False, seed=1)
    optimal = OptimalVarianceInit(8, verbose=False, seed=2, on_unsettled="use")
    callbacks = [fractional, optimal] if order == "first" else [optimal, fractional]
    fit(Late(nn.Identity(), lr=1e-4), *callbacks)
    assert fractional.plan is not None
    assert optimal.report is not None
    std = fractional.plan.rows[0].std
    assert optimal.report["net.0"].initial_variance == pytest.approx(std**2, rel=0.2)
    assert optimal.report["net.0"].variance == pytest.approx(std**2, rel=0.2)
