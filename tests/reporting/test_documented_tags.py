"""What the callbacks' docstrings say is logged, against what a real run logs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from logged_tags import FRACTIONAL_MOMENT_TAGS, OPTIMAL_VARIANCE_TAGS, PROBE_TAGS, RUN_TAGS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_init import FractionalMomentInit, OptimalVarianceInit
from lightning_init.reporting.tensorboard import AT_A_GLANCE

LAYERS = ("net.0", "net.2", "net.4")


class MLP(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
        )
        self.example_input_array = torch.ones(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, weight_decay=0.01)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Tags of the real run and of the probe's, after a run with both callbacks."""
    directory = tmp_path_factory.mktemp("logs")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=generator)
    logger = TensorBoardLogger(directory)
    trainer = Trainer(
        max_steps=300,
        max_epochs=-1,
        callbacks=[
            FractionalMomentInit(seed=0),
            OptimalVarianceInit(max_probe_steps=300, on_unsettled="use", seed=0),
        ],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.warns(UserWarning, match="OptimalVarianceInit"):
        trainer.fit(MLP(), DataLoader(TensorDataset(x, x[:, :2]), batch_size=8, shuffle=False))
    run = Path(logger.log_dir)
    below = [path for path in (run / "probe").iterdir() if path.is_dir()]
    return {"run": tags_of(run), "probe": tags_of(run / "probe"), "leading": tags_of(*below)}


def tags_of(*runs: Path) -> set[str]:
    """Every tag of some runs."""
    tags = [EventAccumulator(str(path)).Reload().Tags() for path in runs]
    return {name for t in tags for name in (*t["scalars"], *t["images"], *t["tensors"])}


def documented(callback: type) -> set[str]:
    """The tags in the list of a callback's docstring."""
    _, _, section = (callback.__doc__ or "").partition("**Logged Metrics.**")
    return set(re.findall(rf"- `({callback.__name__}/[^`]+)`:", section))


def in_general(tag: str) -> str:
    """Write the layer of a tag as its placeholder."""
    for layer in LAYERS:
        tag = tag.replace(f"/{layer}", "/<layer>")
    return tag


def test_fractional_moment_init_logs_what_its_docstring_lists(logged: dict[str, set[str]]) -> None:
    ours = {in_general(tag) for tag in logged["run"] if tag.startswith("FractionalMomentInit")}
    assert ours == documented(FractionalMomentInit)
    assert ours == {name for name, _ in FRACTIONAL_MOMENT_TAGS}


def test_optimal_variance_init_logs_its_list_of_tags(logged: dict[str, set[str]]) -> None:
    ours = {in_general(tag) for tag in logged["probe"]} - {"custom_scalars__config__"}
    assert ours == {name for name, _ in PROBE_TAGS}
    # The curves to look at first carry the name of the figure that shows them.
    assert logged["leading"] == {f"{AT_A_GLANCE}/2_variance", f"{AT_A_GLANCE}/3_drift"}
    in_run = {in_general(tag) for tag in logged["run"] if tag.startswith("OptimalVarianceInit")}
    assert in_run == {name for name, _ in RUN_TAGS}


def test_optimal_variance_init_logs_what_its_docstring_lists() -> None:
    assert documented(OptimalVarianceInit) == {name for name, _ in OPTIMAL_VARIANCE_TAGS}


@pytest.mark.parametrize("callback", [FractionalMomentInit, OptimalVarianceInit])
def test_no_docstring_lists_a_tag_that_is_not_logged(
    callback: type, logged: dict[str, set[str]]
) -> None:
    ours = {in_general(tag) for tag in logged["run"] | logged["probe"]}
    assert documented(callback) <= ours
    assert len(documented(callback)) >= 3
