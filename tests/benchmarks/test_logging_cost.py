"""What the logging of a probe costs on a model with 500 layers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import OptimalVarianceInit
from lightning_init.callbacks import optimal_variance
from lightning_init.reporting import tensorboard

WIDTH, DEPTH, PROBE_STEPS = 64, 500, 1000  # as many probe steps as by default


class DeepMLP(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        pairs = [(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(DEPTH)]
        self.net = nn.Sequential(*[module for pair in pairs for module in pair])
        for parameter in self.net.parameters():
            if parameter.dim() == 2:
                nn.init.kaiming_normal_(parameter)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return self.net(batch[0]).square().mean() * 0.01

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, weight_decay=1e-2)


class StopAtOnce(Callback):
    """Ends the real run after its first step: only the probe is of interest."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        trainer.should_stop = True


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:.*had not settled")
def test_logging_costs_less_than_2_per_cent_of_a_probe_of_500_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: dict[str, float] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            result = function(*args, **kwargs)
            seconds[name] = time.process_time() - start
            return result

        return run

    monkeypatch.setattr(tensorboard, "log_probe", timed("logging", tensorboard.log_probe))
    monkeypatch.setattr(optimal_variance, "search", timed("probe", optimal_variance.search))
    logger = TensorBoardLogger(tmp_path)
    trainer = Trainer(
        max_steps=PROBE_STEPS,
        max_epochs=-1,
        limit_val_batches=0,
        callbacks=[
            # "use", so that no probe ends because its layers will not settle.
            OptimalVarianceInit(PROBE_STEPS, horizon=10**7, on_unsettled="use", verbose=False),
            StopAtOnce(),
        ],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    images = torch.randn(256, WIDTH, generator=torch.Generator().manual_seed(0))
    trainer.fit(DeepMLP(), DataLoader(TensorDataset(images), batch_size=64))
    # The probe's run, and those of single layers below it.
    files = (Path(logger.log_dir) / "probe").rglob("events*")
    size = sum(file.stat().st_size for file in files)
    print({**seconds, "bytes": size})
    assert seconds["logging"] < 0.02 * seconds["probe"]
    assert size < 5e6
