from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from models import (
    NoisyQuadratic,
    Regression,
    StateAtTrainStart,
    fit,
    mlp,
    regression_loader,
    same,
    weights_of,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_init import InitRecipe, OptimalVarianceInit
from lightning_init.monitoring.run_series import RunSeries
from lightning_init.reporting.run_files import RunFiles

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*had not settled"),
    pytest.mark.usefixtures("draw_all"),
]


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    """What a probe of a 16-64-64-4 network found."""
    path = tmp_path / "found" / "recipe.json"
    torch.manual_seed(0)
    model = Regression(mlp(16, 64, 64, 4), lr=0.2)
    fit(
        model,
        OptimalVarianceInit(
            40, recipe_path=str(path), verbose=False, on_unsettled="use", tolerance=0.01
        ),
        max_epochs=5,
    )
    return str(path)


def apply(path: str, model: Regression, *callbacks: Callback, **arguments: Any) -> Any:
    recorder = StateAtTrainStart()
    options = {"recipe": path, "verbose": False, "seed": 1} | arguments
    callback = OptimalVarianceInit(**options)
    fit(model, callback, recorder, *callbacks, max_epochs=1)
    return callback, recorder


class TestWritten:
    def test_the_file_holds_what_the_report_says(self, tmp_path: Path) -> None:
        path = tmp_path / "deep" / "recipe.json"
        callback = OptimalVarianceInit(8, recipe_path=str(path), verbose=False, on_unsettled="use")
        fit(Regression(lr=0.05), callback)
        assert callback.report is not None
        recipe = InitRecipe.load(path)
        assert recipe == callback.recipe
        for layer, row in zip(recipe.layers, callback.report.layers, strict=True):
            assert (layer.name, layer.action, layer.verdict) == (
                row.name,
                row.action,
                row.verdict.value,
            )
            assert layer.sigma0_squared == pytest.approx(row.sigma0**2)
        assert recipe.optimizers == (("SGD", 0.05),)
        assert [file.name for file in path.parent.iterdir()] == ["recipe.json"]

    @pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
    def test_it_is_beside_the_log_and_the_logger_does_not_mind(
        self, tmp_path: Path, kind: Any
    ) -> None:
        logger = kind(tmp_path)
        callback = OptimalVarianceInit(8, verbose=False, on_unsettled="use")
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*not empty.*")
            fit(Regression(), callback, logger=logger, log_every_n_steps=4)
        # At the end of the run what it ended at is there; before, what the probe found.
        assert InitRecipe.load(Path(logger.log_dir) / "init_recipe.json") == callback.run_recipe
        assert callback.recipe is not None

    def test_without_a_probe_it_holds_what_the_run_ended_at(self, tmp_path: Path) -> None:
        path = tmp_path / "run.json"
        callback = OptimalVarianceInit(0, recipe_path=str(path), verbose=False)
        fit(Regression(lr=0.05), callback)
        assert callback.run_recipe is not None
        assert InitRecipe.load(path) == callback.run_recipe

    def test_a_file_that_cannot_be_written_is_told_first(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        # It is tried before the probe, and neither probe nor training are lost.
        callback = OptimalVarianceInit(
            8, recipe_path=str(tmp_path / "file" / "x.json"), verbose=False, on_unsettled="use"
        )
        with pytest.warns(UserWarning, match="`recipe_path`.*as the probe is about to begin"):
            trainer = fit(Regression(), callback)
        assert trainer.global_step == 24
        assert callback.recipe is not None


class TestApplied:
    @pytest.mark.parametrize("seed", range(5))
    def test_other_seeds_draw_the_same_variances(self, recipe_file: str, seed: int) -> None:
        model = Regression(mlp(16, 64, 64, 4))
        biases = {k: v for k, v in weights_of(model).items() if k.endswith("bias")}
        callback, recorder = apply(recipe_file, model, seed=100 + seed)
        assert callback.report is None
        for layer in InitRecipe.load(recipe_file).layers:
            weight = recorder.weights[f"{layer.name}.weight"].double()
            spread = 4 * math.sqrt(2 / weight.numel())
            assert weight.var().item() == pytest.approx(layer.sigma0_squared, rel=spread)
        assert all(torch.equal(recorder.weights[name], biases[name]) for name in biases)

    def test_the_seed_decides_the_draw(self, recipe_file: str) -> None:
        def drawn(seed: int | None, global_seed: int) -> Any:
            torch.manual_seed(0)
            model = Regression(mlp(16, 64, 64, 4))
            torch.manual_seed(global_seed)
            return apply(recipe_file, model, seed=seed)[1].weights

        assert same(drawn(5, 1), drawn(5, 2))
        assert same(drawn(7, 1), drawn(None, 7))
        assert not same(drawn(5, 1), drawn(6, 1))

    def test_no_step_is_taken_and_the_batches_are_those_of_a_plain_run(
        self, recipe_file: str
    ) -> None:
        seen: list[list[float]] = []

        class Watched(Regression):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                seen[-1].append(batch[0].sum().item())
                return super().training_step(batch, batch_idx)

        for path in (None, recipe_file):
            seen.append([])
            torch.manual_seed(3)
            model = Watched(mlp(16, 64, 64, 4))
            if path is None:
                fit(model, max_epochs=1)
            else:
                apply(path, model)
        assert len(seen[1]) == 8
        assert seen[0] == seen[1]

    def test_fast_dev_run_draws_too_because_nothing_is_trained(self, recipe_file: str) -> None:
        model = Regression(mlp(16, 64, 64, 4))
        recorder = StateAtTrainStart()
        before = weights_of(model)
        fit(model, OptimalVarianceInit(recipe=recipe_file), recorder, fast_dev_run=True)
        assert not torch.equal(recorder.weights["net.2.weight"], before["net.2.weight"])

    def test_a_resumed_run_is_not_drawn(self, recipe_file: str, tmp_path: Path) -> None:
        model = Regression(mlp(16, 64, 64, 4))
        trainer = fit(model, max_epochs=1)
        trainer.save_checkpoint(tmp_path / "one.ckpt")
        recorder, callback = StateAtTrainStart(), OptimalVarianceInit(recipe=recipe_file)
        from lightning.pytorch import Trainer
        from models import QUIET, regression_loader

        trainer = Trainer(max_epochs=2, callbacks=[callback, recorder], **QUIET)
        trainer.fit(model, regression_loader(), ckpt_path=str(tmp_path / "one.ckpt"))
        saved = torch.load(tmp_path / "one.ckpt", weights_only=True)["state_dict"]
        assert same(recorder.weights, saved)
        assert callback.recipe is None

    def test_the_log_directory_gets_the_recipe_that_was_applied(
        self, recipe_file: str, tmp_path: Path
    ) -> None:
        logger = CSVLogger(tmp_path)
        fit(
            Regression(mlp(16, 64, 64, 4)),
            OptimalVarianceInit(recipe=recipe_file, watch=False),
            logger=logger,
            log_every_n_steps=4,
        )
        written = InitRecipe.load(Path(logger.log_dir) / "init_recipe.json")
        assert written == InitRecipe.load(recipe_file)

    def test_the_file_that_a_run_started_from_stays(
        self, recipe_file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        shared = tmp_path / "init_recipe.json"
        shared.write_bytes(Path(recipe_file).read_bytes())
        callback = OptimalVarianceInit(recipe=str(shared), seed=1)
        with caplog.at_level("INFO", "lightning.pytorch"):
            fit(Regression(mlp(16, 64, 64, 4)), callback, default_root_dir=str(tmp_path))
        assert shared.read_bytes() == Path(recipe_file).read_bytes()
        assert callback.run_recipe is not None
        assert "`callback.run_recipe` holds it" in caplog.text

    def test_a_moving_average_follows(self, recipe_file: str) -> None:
        from lightning.pytorch.callbacks import EMAWeightAveraging

        class Start(Callback):
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                ema = next(c for c in trainer.callbacks if isinstance(c, EMAWeightAveraging))
                self.average = weights_of(ema._average_model.module)
                self.weights = weights_of(pl_module)

        start = Start()
        model = Regression(mlp(16, 64, 64, 4))
        fit(
            model,
            EMAWeightAveraging(),
            OptimalVarianceInit(recipe=recipe_file),
            start,
            max_epochs=1,
        )
        assert same(start.average, start.weights)


class TestRefused:
    def refused(self, path: str, model: Any, **arguments: Any) -> str:
        before = weights_of(model)
        with pytest.raises((ValueError, OSError)) as caught:
            apply(path, model, **arguments)
        assert same(weights_of(model), before)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_other_layers_are_named(self, recipe_file: str) -> None:
        message = self.refused(recipe_file, Regression(mlp(16, 64, 64, 64, 4)))
        assert "the recipe lacks: net.6" in message

    def test_other_shapes_are_named(self, recipe_file: str) -> None:
        message = self.refused(recipe_file, Regression(mlp(16, 32, 32, 4)))
        assert "net.0 (64, 16) in the recipe, (32, 16) in the model" in message

    def test_weights_that_do_not_take_part_are_named_with_the_reason(
        self, recipe_file: str
    ) -> None:
        model = Regression(mlp(16, 64, 64, 4))
        model.net[4].weight.requires_grad_(False)
        assert "net.4 (left out: frozen" in self.refused(recipe_file, model)

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.json"
        path.write_text(json.dumps({"layers": "all"}))
        assert "bad.json" in self.refused(str(path), Regression())
        assert "absent.json" in self.refused(str(tmp_path / "absent.json"), Regression())


def test_patterns_choose_among_the_layers_of_a_recipe(recipe_file: str) -> None:
    model = Regression(mlp(16, 64, 64, 4))
    before = weights_of(model)
    _, recorder = apply(recipe_file, model, include=["net.0", "net.2"])
    same_as_before = {n: torch.equal(before[n], recorder.weights[n]) for n in before}
    assert same_as_before["net.4.weight"]
    assert not same_as_before["net.0.weight"]
    assert not same_as_before["net.2.weight"]


def test_by_width_keeps_variance_times_fan_in(recipe_file: str) -> None:
    model = Regression(mlp(16, 256, 256, 4))
    _, recorder = apply(recipe_file, model, recipe_by_width=True)
    for layer in InitRecipe.load(recipe_file).layers:
        weight = recorder.weights[f"{layer.name}.weight"].double()
        expected = layer.sigma0_squared * layer.fan_in / weight.shape[1]
        spread = 4 * math.sqrt(2 / weight.numel())
        assert weight.var().item() == pytest.approx(expected, rel=spread)


def test_layers_that_were_kept_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    callback = OptimalVarianceInit(50, on_unsettled="keep", recipe_path=str(path), verbose=False)
    fit(Regression(), callback, max_epochs=8)
    model = Regression()
    before = weights_of(model)
    _, recorder = apply(str(path), model)
    assert same(recorder.weights, before)


def test_a_settled_probe_says_so_in_its_recipe() -> None:
    callback = OptimalVarianceInit(400, horizon="probe", verbose=False, seed=1, on_unsettled="use")
    fit(NoisyQuadratic(), callback, max_epochs=8)
    assert callback.recipe is not None
    (layer,) = callback.recipe.layers
    assert layer.verdict == "stationary"
    assert layer.standard_error is not None
    assert 0 < layer.standard_error < 0.01


def test_a_watched_run_tells_what_it_ended_at_and_how_it_moved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Annealed(Regression):
        def configure_optimizers(self) -> Any:
            optimizer = super().configure_optimizers()
            return [optimizer], [torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 3)]

    logger = CSVLogger(tmp_path)
    callback = OptimalVarianceInit(0)
    with caplog.at_level("INFO", "lightning.pytorch"):
        fit(Annealed(lr=0.05), callback, logger=logger, max_epochs=6)
    path = Path(logger.log_dir) / "init_recipe.json"
    recipe = InitRecipe.load(path)
    assert recipe == callback.run_recipe
    # The schedule ended at a rate of 0.
    assert recipe.optimizers == (("SGD", 0.05),)
    rows = (Path(logger.log_dir) / "run_variance.csv").read_text().splitlines()
    last = [float(value) for value in rows[-1].split(",")]
    assert last == [48, *(layer.sigma0_squared for layer in recipe.layers)]
    still = sum(layer.verdict == "stationary" for layer in recipe.layers)
    assert all(layer.change is not None for layer in recipe.layers)
    line = f"the next run can start where this one ended, {still} of {len(recipe.layers)} layers"
    assert line in caplog.text
    assert f"OptimalVarianceInit(recipe={str(path)!r})." in caplog.text


def test_the_last_row_is_the_end_of_the_run(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    callback = OptimalVarianceInit(0, verbose=False)
    fit(Regression(), callback, logger=logger, max_epochs=100, max_steps=101)
    rows = [row.split(",") for row in (Path(logger.log_dir) / "run_variance.csv").open()]
    assert [int(row[0]) for row in rows[-2:]] == [100, 101]
    assert callback.run_recipe is not None
    ends = [layer.sigma0_squared for layer in callback.run_recipe.layers]
    assert [float(value) for value in rows[-1][1:]] == ends


class LosesItself(Regression):
    """Its loss is not finite from a step on."""

    from_step = 47

    def training_step(self, *arguments: Any) -> Any:
        loss = super().training_step(*arguments)
        return loss * math.nan if self.trainer.global_step >= self.from_step else loss


class LosesTheLastLossOnly(LosesItself):
    """The weights stay finite."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.grad.nan_to_num_()


class LosesWeights(Regression):
    """A weight is lost behind the loss's back."""

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step == 48:
            self.net[2].weight.data[0, 0] = math.inf


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        (LosesItself, "with a loss of nan"),
        (LosesTheLastLossOnly, "with a loss of nan"),
        (LosesWeights, "with a variance of 'net.2' that is not finite"),
    ],
)
def test_a_run_that_diverged_is_not_worth_starting_from(
    kind: type[Regression], what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.json"
    path.write_text("an earlier run's")
    callback = OptimalVarianceInit(0, recipe_path=str(path))
    with caplog.at_level("INFO", "lightning.pytorch"):
        fit(kind(), callback, max_epochs=6)
    assert callback.run_recipe is None
    assert path.read_text() == "an earlier run's"
    said = [record.getMessage() for record in caplog.records]
    assert [line for line in said if line.startswith("OptimalVarianceInit: the")] == [
        f"OptimalVarianceInit: the run ended {what}: no recipe is worth starting from, and none"
        " was written."
    ]


def test_a_second_fit_opens_the_board_again(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    model, data = Regression(), regression_loader()
    trainer = fit(model, OptimalVarianceInit(0), loader=data, logger=logger, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, data)
    assert trainer.global_step == 16
    board = EventAccumulator(logger.log_dir).Reload()
    steps = [event.step for event in board.Scalars("OptimalVarianceInit/run_variance/net.0")]
    assert steps == list(range(17))


@pytest.mark.parametrize(("kind", "where"), [(RunFiles, "write"), (RunSeries, "append")])
def test_a_watch_that_fails_ends_no_training(
    kind: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, calls = getattr(kind, where), []

    def fails(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 3:
            raise RuntimeError("planted")
        return plain(*arguments)

    monkeypatch.setattr(kind, where, fails)
    with pytest.warns(UserWarning, match="the run's variances are not kept") as said:
        trainer = fit(Regression(), OptimalVarianceInit(0), max_epochs=1)
    assert trainer.global_step == 8
    told = [str(one.message) for one in said if "not kept" in str(one.message)]
    assert told == [
        "OptimalVarianceInit: the run's variances are not kept (RuntimeError: planted)."
    ]
