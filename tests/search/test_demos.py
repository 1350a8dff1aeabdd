"""Lightning's own language models, as they are shipped: a probe that diverges changes nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.demos.lstm import LightningLSTM
from lightning.pytorch.demos.transformer import LightningTransformer
from models import QUIET, Regression, StateAtTrainStart, fit, same, weights_of
from torch import Tensor

from lightning_init import OptimalVarianceInit, Verdict

pytestmark = pytest.mark.filterwarnings("ignore:.*had not settled")
WORDS = [f"word{number}" for number in range(4000)]
NOTHING_CHANGED = "so the probe says nothing and no weight was changed"


class StopAtOnce(Callback):
    """Ends a run that was needed for its first weights only."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


@pytest.fixture
def text(tmp_path: Path) -> int:
    """Words that follow one another, where the demos look for theirs; how many there are."""
    pytest.importorskip("requests")  # the demos ask for it, though what is there is not fetched
    order, word, lines = random.Random(0), 0, []
    for _ in range(2000):
        line = []
        for _ in range(20):
            word = (word + order.choice((1, 2, 700))) % len(WORDS)
            line.append(WORDS[word])
        lines.append(" ".join(line))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "wikitext-2.txt").write_text("\n".join(lines), encoding="utf8")
    return len(WORDS) + 1


def probed(model: LightningModule, steps: int, **options: Any) -> tuple[Any, bool]:
    """The report of a probe, and whether the run began with the weights that were there."""
    before, recorder = weights_of(model), StateAtTrainStart()
    callback = OptimalVarianceInit(verbose=False, **options)
    Trainer(callbacks=[callback, recorder, StopAtOnce()], max_steps=steps, **QUIET).fit(model)
    return callback.report, same(recorder.weights, before)


@pytest.mark.slow
def test_the_demo_lstm_diverges_and_is_left_alone(text: int) -> None:
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=NOTHING_CHANGED):
        report, unchanged = probed(LightningLSTM(text), steps=400, on_unsettled="use")
    assert unchanged
    assert {row.verdict for row in report.layers} == {Verdict.INVALID}
    assert all(row.reason.startswith("The probe diverged: ") for row in report.layers)
    assert report.probe_steps < 40


class HighRate(LightningTransformer):
    """The demo Transformer at a hundred times its learning rate."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=10.0)


@pytest.mark.slow
def test_the_demo_transformer_at_a_high_learning_rate_is_left_alone(text: int) -> None:
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=NOTHING_CHANGED):
        report, unchanged = probed(HighRate(text), steps=1000, on_unsettled="use")
    assert unchanged
    assert {row.verdict for row in report.layers} == {Verdict.INVALID}


@pytest.mark.slow
def test_the_demo_transformer_as_it_is_shipped_is_probed_to_the_end(text: int) -> None:
    torch.manual_seed(0)
    report, _ = probed(LightningTransformer(text), steps=1000, on_unsettled="use")
    assert not report.divergence
    assert report.probe_steps == 100
    assert report.losses[1] < report.losses[0]


class LosesItsWay(Regression):
    """The loss is not a number from the fiftieth step on."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return loss * (float("nan") if self.trainer.global_step >= 49 else 1.0)


def test_a_loss_that_turns_nan_at_step_50_changes_nothing() -> None:
    model, recorder = LosesItsWay(), StateAtTrainStart()
    before = weights_of(model)
    callback = OptimalVarianceInit(100, on_unsettled="use", verbose=False)
    expected = (
        f"OptimalVarianceInit: the training loss was not finite at probe step 50, {NOTHING_CHANGED}"
    )
    with pytest.warns(UserWarning, match=expected):
        fit(model, callback, recorder, max_epochs=20)
    assert same(recorder.weights, before)
    assert callback.report is not None
    assert {row.verdict for row in callback.report.layers} == {Verdict.INVALID}
