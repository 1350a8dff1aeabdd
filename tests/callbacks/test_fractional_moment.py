from __future__ import annotations

import copy
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from models import QUIET, Regression, StateAtTrainStart, mlp, regression_loader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from lightning_init import FractionalMomentInit, fractional_moment_std
from lightning_init.callbacks import fractional_moment
from lightning_init.initialization import fill
from lightning_init.pages import Page
from lightning_init.tables import number


def fit(model: Any, *callbacks: Any, **options: Any) -> Trainer:
    trainer = Trainer(callbacks=list(callbacks), **{**QUIET, "max_epochs": 1, **options})
    trainer.fit(model, regression_loader())
    return trainer


def drawn(model: Any, *callbacks: Any, **options: Any) -> dict[str, Tensor]:
    recorder = StateAtTrainStart()
    fit(model, *callbacks, recorder, **options)
    return recorder.weights


def init(**arguments: Any) -> FractionalMomentInit:
    return FractionalMomentInit(**{"verbose": False, "seed": 0, **arguments})


class TestDraw:
    @pytest.mark.parametrize(
        ("activation", "name", "param"),
        [
            (nn.Identity(), "linear", None),
            (nn.ReLU(), "relu", None),
            (nn.LeakyReLU(0.2), "leaky_relu", 0.2),
            (nn.PReLU(init=0.3), "prelu", 0.3),
            (nn.RReLU(0.1, 0.4), "rrelu", (0.1, 0.4)),
        ],
    )
    @pytest.mark.parametrize("order", [0.5, 1.0, 2.0])
    def test_auto_solves_the_law_of_the_module_in_front(
        self, activation: nn.Module, name: str, param: Any, order: float
    ) -> None:
        activation = copy.deepcopy(activation)  # training moves a PReLU's slope
        net = nn.Sequential(nn.Linear(16, 300), activation, nn.Linear(300, 200), nn.Linear(200, 4))
        callback = init(order=order)
        weights = drawn(Regression(net), callback)
        assert callback.plan is not None
        stds = {row.weight.name: row.std for row in callback.plan.rows}
        assert stds["net.0"] == fractional_moment_std(16, order, "linear")
        # A PReLU module holds its slope in float32.
        expected = fractional_moment_std(300, order, name, param)
        assert stds["net.2"] == pytest.approx(expected, rel=1e-7)
        for layer, std in stds.items():
            weight = weights[f"{layer}.weight"].double()
            count = weight.numel()
            assert weight.var().item() == pytest.approx(std**2, rel=4 * math.sqrt(2 / count))
            assert abs(weight.mean().item()) < 4 * std / math.sqrt(count)

    def test_convolutions_use_their_own_fan_in(self) -> None:
        net = nn.Sequential(
            nn.Unflatten(1, (1, 4, 4)),
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 4),
        )
        callback = init(order=1.0)
        fit(Regression(net), callback)
        assert callback.plan is not None
        assert [row.weight.fan_in for row in callback.plan.rows] == [9, 18, 128]
        assert callback.plan.rows[1].std == fractional_moment_std(18, 1.0, "relu")

    def test_biases_are_zeroed_or_kept(self) -> None:
        torch.manual_seed(0)
        model = Regression()
        before = copy.deepcopy(model.state_dict())
        zeroed = drawn(copy.deepcopy(model), init())
        assert not zeroed["net.0.bias"].any()
        kept = drawn(copy.deepcopy(model), init(bias="keep"))
        assert torch.equal(kept["net.0.bias"], before["net.0.bias"])

    def test_parameters_keep_identity_dtype_and_gradient_flag(self) -> None:
        model = Regression(mlp(16, 8, 4).double())
        parameters = dict(model.named_parameters())

        fit(model, init(), precision="64-true")
        for name, parameter in model.named_parameters():
            assert parameter is parameters[name]
            assert parameter.dtype is torch.float64
            assert parameter.requires_grad

    def test_stream_depends_on_seed_and_layer_name_alone(self) -> None:
        small = drawn(Regression(mlp(16, 8, 4)), init(seed=3))
        deep = drawn(Regression(mlp(16, 8, 4, 4, 4)), init(seed=3))
        assert torch.equal(small["net.0.weight"], deep["net.0.weight"])
        assert torch.equal(small["net.2.weight"], deep["net.2.weight"])
        other = drawn(Regression(mlp(16, 8, 4)), init(seed=4))
        assert not torch.equal(small["net.0.weight"], other["net.0.weight"])

    def test_global_random_state_is_not_touched(self) -> None:
        torch.manual_seed(5)
        state = torch.get_rng_state()

        class Check(Callback):
            def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
                assert torch.equal(torch.get_rng_state(), state)

        model = Regression()
        torch.set_rng_state(state)
        fit(model, init(seed=None), Check())

    def test_layers_made_in_setup_or_configure_model_are_drawn_before_training(self) -> None:
        class Late(Regression):
            def setup(self, stage: str) -> None:
                self.head = nn.Linear(4, 4)

            def configure_model(self) -> None:
                if not isinstance(self.net, nn.Sequential):
                    self.net = mlp(16, 300, 4)

            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                return self.head(self.net(batch[0])).square().mean()

        callback = init(nonlinearity="relu")
        weights = drawn(Late(nn.Identity()), callback)
        std = fractional_moment_std(300, 1.0, "relu")
        assert weights["net.2.weight"].std().item() == pytest.approx(std, rel=0.1)
        assert not weights["head.bias"].any()

    def test_named_nonlinearity_holds_for_all_but_the_first_layer(self) -> None:
        callback = init(nonlinearity="leaky_relu", param=0.3)
        fit(Regression(mlp(16, 8, 4)), callback)
        assert callback.plan is not None
        assert callback.plan.rows[0].std == fractional_moment_std(16, 1.0, "linear")
        assert callback.plan.rows[1].std == fractional_moment_std(8, 1.0, "leaky_relu", 0.3)
        kaiming_habit = init(nonlinearity="relu", order=2.0, first_layer="activation")
        fit(Regression(mlp(16, 8, 4)), kaiming_habit)
        assert kaiming_habit.plan is not None
        assert kaiming_habit.plan.rows[0].std == math.sqrt(2 / 16)

    def test_averaged_copies_follow(self) -> None:
        class Compare(Callback):
            def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
                average = next(c for c in trainer.callbacks if isinstance(c, WeightAveraging))
                shadow = average._average_model.module.state_dict()
                for name, value in pl_module.state_dict().items():
                    assert torch.equal(shadow[name], value)

        fit(Regression(), WeightAveraging(), init(), Compare())

    def test_dry_run_prints_and_changes_nothing(self, capsys: Any) -> None:
        model = Regression()
        before = copy.deepcopy(model.state_dict())
        weights = drawn(model, init(dry_run=True, verbose=True))
        assert all(torch.equal(before[k], v) for k, v in weights.items())
        assert "/ Kaiming" in capsys.readouterr().out

    def test_plan_is_printed_once(self, capsys: Any) -> None:
        fit(Regression(), init(verbose=True))
        assert capsys.readouterr().out.count("/ Kaiming") == 1


class TestWhen:
    def test_a_resumed_run_is_not_redrawn(self, tmp_path: Path) -> None:
        class Late(Regression):
            def configure_model(self) -> None:
                if not isinstance(self.net, nn.Sequential):
                    self.net = mlp(16, 8, 4)

        first = fit(Late(nn.Identity()), init(seed=1))
        path = tmp_path / "one_epoch.ckpt"
        first.save_checkpoint(path)
        recorder, callback = StateAtTrainStart(), init(seed=2)
        trainer = Trainer(max_epochs=2, callbacks=[callback, recorder], **QUIET)
        trainer.fit(Late(nn.Identity()), regression_loader(), ckpt_path=str(path))
        saved = torch.load(path, weights_only=False)["state_dict"]
        assert all(torch.equal(saved[k], v) for k, v in recorder.weights.items())

    def test_a_second_fit_is_not_redrawn(self) -> None:
        model = Regression()
        trainer = fit(model, init())
        trained = copy.deepcopy(model.state_dict())
        recorder = StateAtTrainStart()
        trainer.callbacks.append(recorder)
        trainer.fit_loop.max_epochs = 2
        trainer.fit(model, regression_loader())
        assert all(torch.equal(trained[k], v) for k, v in recorder.weights.items())

    @pytest.mark.parametrize("entry", ["validate", "test", "predict"])
    def test_other_entry_points_are_untouched(self, entry: str) -> None:
        model = Regression()
        before = copy.deepcopy(model.state_dict())
        getattr(Trainer(callbacks=[init()], **QUIET), entry)(model, regression_loader())
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())

    def test_fast_dev_run_draws(self) -> None:
        model = Regression()
        bias = model.net[0].bias.clone()
        callback = init()
        Trainer(fast_dev_run=True, callbacks=[callback], enable_progress_bar=False).fit(
            model, regression_loader()
        )
        assert callback.plan is not None
        assert not torch.equal(bias, model.net[0].bias)


class TestLogging:
    def test_one_table_and_one_figure_go_to_the_real_run_at_step_zero(self, tmp_path: Path) -> None:
        logger = TensorBoardLogger(tmp_path)
        callback = init()
        fit(Regression(), callback, logger=logger)
        events = EventAccumulator(logger.log_dir).Reload()
        assert callback.plan is not None
        (text,) = events.Tensors("FractionalMomentInit/plan/text_summary")
        (image,) = events.Images("FractionalMomentInit/figure/first_weights")
        assert text.step == image.step == 0
        written = text.tensor_proto.string_val[0].decode()
        assert f"| {number(callback.plan.rows[0].std, 4)} |" in written
        assert not [name for name in events.Tags()["scalars"] if "Init" in name]

    def test_csv(self, tmp_path: Path) -> None:
        logger = CSVLogger(tmp_path)
        fit(Regression(), init(), logger=logger, log_every_n_steps=1)
        header = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()[0]
        assert "FractionalMomentInit/std/net.2" in header


class Extra(Regression):
    """Everything frozen but one number."""

    def __init__(self) -> None:
        super().__init__()
        self.requires_grad_(False)
        self.extra = nn.Parameter(torch.zeros(1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.extra.square().sum()


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"order": 2.5}, "`order` must be in [0, 2], got 2.5"),
            ({"order": -0.1}, "`order` must be in [0, 2], got -0.1"),
            ({"order": math.nan}, "`order` must be in [0, 2], got nan"),
            ({"nonlinearity": "rleu"}, "'rleu'"),
            ({"nonlinearity": "leaky_relu", "param": math.inf}, "must be finite"),
            ({"nonlinearity": "relu", "dropout": 1.0}, "`dropout` must be in [0, 1), got 1.0"),
            ({"param": 0.1}, "belong to a named `nonlinearity`"),
            ({"bias": "none"}, "`bias` must be one of auto, zero, keep, got 'none'."),
            ({"first_layer": "relu"}, "`first_layer` must be one of linear, activation"),
            ({"mode": "fan_avg"}, "`mode` must be one of fan_in, fan_out, got 'fan_avg'."),
            ({"conv_width": "kernel"}, "`conv_width` must be one of taps, channels"),
            ({"recurrent": "zero"}, "`recurrent` must be one of orthogonal, keep, same"),
        ],
    )
    def test_arguments(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            FractionalMomentInit(**arguments)
        assert "\n" not in str(caught.value)

    def refused(self, model: LightningModule, callback: FractionalMomentInit) -> str:
        before = {k: v.clone() for k, v in model.state_dict().items() if not v.is_meta}
        trainer = Trainer(max_epochs=1, callbacks=[callback], **QUIET)
        with pytest.raises((ValueError, MisconfigurationException)) as caught:
            trainer.fit(model, regression_loader())
        assert all(torch.equal(before[k], model.state_dict()[k]) for k in before)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_strict_that_cannot_be_told_says_how_to_name_it(self) -> None:
        class Unseen(Regression):
            def __init__(self) -> None:
                super().__init__(nn.Linear(16, 8))
                self.head = nn.Linear(8, 4)

            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                raise RuntimeError("not today")

        message = self.refused(Unseen(), init(nonlinearity="strict"))
        assert "nonlinearity='relu'" in message
        assert "'head'" in message
        assert "not today" in message

    def test_no_weight_matches(self) -> None:
        assert "'encoder.*'" in self.refused(Regression(), init(include=["encoder.*"]))

    def test_all_frozen(self) -> None:
        model = Regression()
        model.requires_grad_(False)
        model.extra = nn.Parameter(torch.zeros(1))
        assert "no weight takes part" in self.refused(model, init(nonlinearity="strict"))
        with pytest.warns(UserWarning, match="no weight takes part.*Nothing was drawn"):
            Trainer(max_epochs=1, callbacks=[init()], **QUIET).fit(Extra(), regression_loader())

    def test_a_law_that_is_not_defined_names_the_layer(self) -> None:
        net = nn.Sequential(nn.Linear(16, 1), nn.ReLU(), nn.Linear(1, 4))
        message = self.refused(Regression(net), init(order=1e-4))
        assert message.startswith("Layer 'net.2': ")


class Unforeseen(RuntimeError):
    """What nobody thought of."""


def breaks(*_: Any, **__: Any) -> None:
    raise Unforeseen("no such thing")


class TestUnforeseenErrors:
    """An error of our own tells, changes nothing, and ends no training."""

    @pytest.fixture(params=["planning", "writing", "synchronizing"])
    def broken(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
        if request.param == "planning":
            monkeypatch.setattr(fractional_moment, "plan_of_reading", breaks)
        elif request.param == "synchronizing":
            monkeypatch.setattr(fractional_moment, "synchronize", breaks)
        else:
            zeroed = fill.zero_biases_

            def second_fails(model: nn.Module, weight: Any) -> None:
                zeroed(model, weight)
                if weight.name == "net.2":
                    breaks()

            monkeypatch.setattr(fill, "zero_biases_", second_fails)

    @pytest.mark.usefixtures("broken")
    @pytest.mark.parametrize("example", [None, torch.zeros(2, 16)], ids=["late", "at_setup"])
    def test_the_training_goes_on_with_the_weights_as_they_were(self, example: Any) -> None:
        model, callback = Regression(), init()
        model.example_input_array = example
        recorder = StateAtTrainStart()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.warns(UserWarning, match="nothing was drawn") as caught:
            trainer = fit(model, callback, WeightAveraging(), recorder)
        assert trainer.global_step == len(regression_loader())
        assert all(torch.equal(recorder.weights[name], before[name]) for name in before)
        assert callback.plan is None
        [told] = [str(w.message) for w in caught if "nothing was drawn" in str(w.message)]
        assert "while drawing, Unforeseen(no such thing) in test_fractional_moment.py" in told
        assert "nonlinearity='strict' stops here" in told
        assert "\n" not in told

    @pytest.mark.usefixtures("broken")
    def test_strict_raises_and_changes_nothing(self) -> None:
        model = Regression()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(Unforeseen):
            fit(model, init(nonlinearity="strict"))
        assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)

    @pytest.mark.parametrize(
        ("owner", "name"),
        [(Page, "show"), (fractional_moment.tensorboard, "log_plan")],
        ids=["show", "log"],
    )
    def test_a_plan_that_cannot_be_shown_is_drawn(
        self, owner: object, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(owner, name, breaks)
        callback = init(verbose=True)
        with pytest.warns(UserWarning, match=r"could not (show|log) the plan \(Unforeseen"):
            fit(Regression(), callback)
        assert callback.plan is not None
