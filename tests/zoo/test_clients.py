"""Libraries that train with Lightning: none of them is stopped, each gets a whole plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos import LightningTransformer
from lightning.pytorch.demos.lstm import LightningLSTM
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import FractionalMomentInit

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def whole(callback: FractionalMomentInit) -> set[str]:
    plan = callback.plan
    assert plan is not None
    assert plan.rows
    assert all(row.activation.source == "traced" or row.activation.note for row in plan.rows)
    return {row.activation.source for row in plan.rows}


@pytest.mark.parametrize(
    "estimator", ["SimpleFeedForwardEstimator", "DeepAREstimator", "PatchTSTEstimator"]
)
def test_gluonts(estimator: str) -> None:
    pytest.importorskip("gluonts")
    import gluonts.torch
    from gluonts.dataset.common import ListDataset

    values = torch.rand(4, 100, generator=torch.Generator().manual_seed(0)).numpy()
    data = ListDataset([{"start": "2020-01-01", "target": row} for row in values], freq="D")
    callback = FractionalMomentInit(verbose=False)
    settings: dict[str, Any] = {
        "prediction_length": 5,
        "context_length": 20,
        "batch_size": 4,
        "num_batches_per_epoch": 2,
        "trainer_kwargs": {"max_epochs": 1, "callbacks": [callback], **QUIET},
    }
    if estimator == "DeepAREstimator":
        settings["freq"] = "D"
    if estimator == "PatchTSTEstimator":
        settings["patch_len"] = 4
    getattr(gluonts.torch, estimator)(**settings).train(data)
    sources = whole(callback)
    if estimator == "SimpleFeedForwardEstimator":
        assert sources == {"traced"}


@pytest.mark.parametrize("kind", [LightningTransformer, LightningLSTM])
def test_lightnings_own_demos(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kind, "prepare_data", lambda module: None)
    model = kind(vocab_size=20)
    tokens = torch.randint(0, 20, (40, 6))
    callback = FractionalMomentInit(verbose=False)
    trainer = Trainer(max_steps=1, callbacks=[callback], enable_checkpointing=False, **QUIET)
    trainer.fit(model, DataLoader(TensorDataset(tokens, tokens), batch_size=20))
    sources = whole(callback)
    if kind is LightningTransformer:
        assert sources == {"traced"}
