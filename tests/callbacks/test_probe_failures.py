"""A probe that fails is skipped, an outcome that cannot be written down is told; nothing ends."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import CombinedLoader
from models import (
    QUIET,
    Notes,
    Regression,
    StateAtTrainStart,
    fit,
    regression_loader,
    same,
    weights_of,
)
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_init import FractionalMomentInit, OptimalVarianceInit
from lightning_init.callbacks import optimal_variance
from lightning_init.search import redraw

pytestmark = pytest.mark.filterwarnings("ignore:.*had not settled")


def probing(**options: Any) -> OptimalVarianceInit:
    """A callback that trains its probe of 8 steps, though no verdict can come of it."""
    return OptimalVarianceInit(8, **{"on_unsettled": "use", **options})


class FailsInProbe(Regression):
    """Works in a run, and not in a probe."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if type(self.trainer.fit_loop).__module__.startswith("lightning_init"):
            raise KeyError("features")
        return super().training_step(batch, batch_idx)


class TestFailures:
    def test_a_failing_probe_is_skipped_and_told(self) -> None:
        model, recorder, callback = FailsInProbe(), StateAtTrainStart(), probing()
        before = weights_of(model)
        with pytest.warns(UserWarning, match="the probe failed and was skipped") as caught:
            trainer = fit(model, callback, recorder)
        assert trainer.global_step == 24
        assert same(recorder.weights, before)
        assert callback.report is None
        [told] = [str(w.message) for w in caught if "the probe failed" in str(w.message)]
        assert "while the probe was running, KeyError('features') in test_probe_failures.py" in told
        assert "on_probe_failure='raise'" in told
        assert "\n" not in told

    def test_data_that_cannot_be_opened_are_named(self) -> None:
        class Missing(DataLoader[Any]):
            def __iter__(self) -> Any:
                if not Path("opened").exists():
                    Path("opened").touch()
                    raise OSError("no such bucket")
                return super().__iter__()

        data = regression_loader().dataset
        with pytest.warns(UserWarning, match=r"skipped: .*OSError\(no such bucket\)"):
            fit(Regression(), OptimalVarianceInit(8), loader=Missing(data, batch_size=8))

    def test_a_redraw_that_fails_is_taken_back(
        self, draw_all: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails_when_drawn(module: torch.nn.Module) -> None:
            assert not all(
                torch.equal(p, q) for p, q in zip(module.parameters(), initial, strict=True)
            )
            raise KeyError("no such thing")

        monkeypatch.setattr(redraw, "synchronize", fails_when_drawn)
        model, recorder = Regression(), StateAtTrainStart()
        before, initial = weights_of(model), [p.detach().clone() for p in model.parameters()]
        callback = OptimalVarianceInit(8, on_unsettled="use")
        with pytest.warns(UserWarning, match="the probe failed and was skipped"):
            trainer = fit(model, callback, recorder)
        assert trainer.global_step == 24
        assert same(recorder.weights, before)
        assert callback.report is None
        assert callback.recipe is None

    def test_raise_says_that_a_probe_was_running(self) -> None:
        callback = probing(on_probe_failure="raise")
        with pytest.raises(KeyError) as caught:
            fit(FailsInProbe(), callback)
        notes = getattr(caught.value, "__notes__", ["A probe of OptimalVarianceInit was running"])
        assert "A probe of OptimalVarianceInit was running" in notes[0]

    def test_a_refusal_is_skipped_too(self) -> None:
        with pytest.warns(UserWarning, match=r"skipped: `include` pattern.*training goes on"):
            trainer = fit(Regression(), OptimalVarianceInit(8, include=["encoder.*"]))
        assert trainer.global_step == 24

    def test_the_error_that_was_asked_for_is_raised(self) -> None:
        with pytest.raises(MisconfigurationException, match="on_unsettled='raise'"):
            fit(Regression(), OptimalVarianceInit(8, on_unsettled="raise"))

    def test_a_wrong_choice_is_named(self) -> None:
        with pytest.raises(ValueError, match="`on_probe_failure` must be one of skip, raise"):
            OptimalVarianceInit(on_probe_failure="ignore")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="`verify_steps` must be an integer of at least 0"):
            OptimalVarianceInit(verify_steps=-1)

    def test_steps_without_a_loss_are_named(self) -> None:
        class Silent(Regression):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
                return None

        with pytest.warns(UserWarning, match="because `training_step` returned no loss"):
            fit(Silent(), probing())

    def test_data_that_refuse_to_be_copied_are_shared(self) -> None:
        class Stream(IterableDataset[Any]):
            def __deepcopy__(self, memo: dict[int, Any]) -> Any:
                raise TypeError("one only")

            def __iter__(self) -> Iterator[Any]:
                return iter(torch.randn(8, 20))

        class Data(LightningDataModule):
            def train_dataloader(self) -> Any:
                return regression_loader()

        data = Data()
        data.stream = Stream()  # type: ignore[attr-defined]
        callback = probing(isolate_dataset=True)
        trainer = Trainer(max_epochs=1, callbacks=[callback], **QUIET)
        trainer.fit(Regression(), datamodule=data)
        assert trainer.global_step == 8
        assert callback.report is not None


def interrupted(**options: Any) -> None:
    class Interrupts(Regression):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        fit(Interrupts(), probing(**options))


def test_an_interrupt_in_a_probe_leaves_interrupts_as_they_were() -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        interrupted()
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("verbose", [False, True])
def test_an_interrupt_keeps_what_was_learned_and_says_that_nothing_changed(
    verbose: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    class InterruptsLater(Regression):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            if batch_idx == 5:
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    model = InterruptsLater()
    callback = OptimalVarianceInit(8, on_unsettled="use", verbose=verbose)
    before = weights_of(model)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with caplog.at_level(logging.INFO, "lightning.pytorch"), pytest.raises(SystemExit):
            fit(model, callback)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert same(weights_of(model), before)
    assert callback.report is not None
    assert callback.report.probe_steps == 5
    assert callback.report.history.steps[-1] == 5
    assert callback.recipe is None
    said = (
        "interrupted in a probe. Every weight is what it was; what is known is on `callback.report`"
    )
    assert said in caplog.text
    headline = "OptimalVarianceInit: interrupted after 5 probe steps; weights are untouched."
    assert str(callback.report).startswith(headline)
    assert (headline in capsys.readouterr().out) is verbose


def test_an_interrupt_before_the_first_step_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lightning.pytorch"):
        interrupted()
    assert "what is known is nothing yet" in caplog.text


class TestReporting:
    def test_a_directory_that_cannot_be_written_ends_no_training(self, tmp_path: Path) -> None:
        logger = CSVLogger(tmp_path)
        callback = probing(verbose=False)

        class Blocks(StateAtTrainStart):
            def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
                Path(logger.log_dir).mkdir(parents=True, exist_ok=True)
                (Path(logger.log_dir) / "init_recipe.json").mkdir()

        with pytest.warns(UserWarning, match="could not write the recipe to the log directory"):
            trainer = fit(Regression(), callback, Blocks(), logger=logger, log_every_n_steps=4)
        assert trainer.global_step == 24
        assert callback.report is not None

    def test_a_logger_that_fails_ends_no_training(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(optimal_variance.tensorboard, "log_probe", full)
        callback = OptimalVarianceInit(8, verbose=False)
        with pytest.warns(UserWarning, match="could not log the report.*No space left"):
            fit(Regression(), callback, logger=TensorBoardLogger(tmp_path), log_every_n_steps=4)
        assert callback.report is not None

    def test_the_file_and_the_resume_are_told(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        logger = CSVLogger(tmp_path)
        with caplog.at_level(logging.INFO, "lightning.pytorch"):
            trainer = fit(Regression(), probing(), logger=logger, log_every_n_steps=4)
        file = str(Path(logger.log_dir) / "init_recipe.json")
        assert f"recipe written to {file!r}" in caplog.text
        trainer.save_checkpoint(tmp_path / "kept.ckpt")
        again = OptimalVarianceInit(8)
        other = Trainer(max_epochs=4, callbacks=[again], **QUIET)
        with caplog.at_level(logging.INFO, "lightning.pytorch"):
            other.fit(Regression(), regression_loader(), ckpt_path=str(tmp_path / "kept.ckpt"))
        assert "this run resumes, so it is neither probed nor redrawn" in caplog.text
        assert again.report is not None
        assert again.report.table() == trainer.callbacks[0].report.table()


class TestWhereAProbeEnds:
    def test_max_time_bounds_it(self) -> None:
        class Slow(Regression):
            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                time.sleep(0.02)
                return super().training_step(batch, batch_idx)

        callback = OptimalVarianceInit(500, verbose=False, verify_steps=0)
        fit(Slow(), callback, max_epochs=-1, max_steps=500, max_time={"seconds": 2})
        assert callback.report is not None
        # Ten steps fit into a tenth of two seconds, and fewer on a busy machine.
        assert callback.report.probe_steps <= 11
        assert "10% of Trainer(max_time=...) was spent" in callback.report.stop_reason

    def test_its_end_at_the_runs_limit_is_not_told_as_the_runs(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            fit(Regression(), OptimalVarianceInit(1000, verbose=False, on_unsettled="use"))
        assert caplog.text.count("`Trainer.fit` stopped") == 1

    def test_the_last_step_runs_all_hooks_of_the_module(self) -> None:
        calls = Notes()

        class Counts(Regression):
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                calls.append("start")

            def on_train_batch_end(self, *_: Any) -> None:
                calls.append("end")

        fit(Counts(), OptimalVarianceInit(8, verbose=False, on_unsettled="use"))
        assert calls.rows == ["start", "end"] * (8 + 2 + 24)

    def test_an_empty_loader_is_told_quietly(self, caplog: pytest.LogCaptureFixture) -> None:
        trainer = Trainer(
            max_epochs=2, callbacks=[OptimalVarianceInit(8, on_probe_failure="raise")], **QUIET
        )
        with caplog.at_level(logging.INFO):
            trainer.fit(Regression(), DataLoader([]))
        assert "probe skipped, because the training loaders hold no batch" in caplog.text

    def test_a_sequential_loader_gets_lightnings_own_words(self) -> None:
        trainer = Trainer(
            max_epochs=2, callbacks=[OptimalVarianceInit(8, on_probe_failure="raise")], **QUIET
        )
        with pytest.raises(ValueError, match="`_FitLoop` does not support"):
            trainer.fit(Regression(), CombinedLoader(regression_loader(), "sequential"))


def test_the_other_package_provides_a_batch_to_trace() -> None:
    pl = pytest.importorskip("pytorch_lightning")
    from pytorch_lightning.demos.boring_classes import BoringDataModule, BoringModel

    callback = FractionalMomentInit(nonlinearity="auto", verbose=False)
    options = {key: value for key, value in QUIET.items() if key != "accelerator"}
    trainer = pl.Trainer(
        max_steps=2, limit_val_batches=0, callbacks=[callback], accelerator="cpu", **options
    )
    trainer.fit(BoringModel(), datamodule=BoringDataModule())
    assert trainer.global_step == 2
