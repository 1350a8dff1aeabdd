from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from models import Regression, fit
from torch import nn

from lightning_init import FractionalMomentInit, OptimalVarianceInit
from lightning_init.user_line import warn_user

SCRIPT = """
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from lightning_init import OptimalVarianceInit

class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 8)

    def training_step(self, batch, index):
        return self.net(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.randn(64, 8), batch_size=8)

quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
trainer = Trainer(max_epochs=2, callbacks=[OptimalVarianceInit(verbose=False)], **quiet)
trainer.fit(Module())
"""


@pytest.mark.parametrize("every_rank", [False, True])
def test_a_warning_is_at_the_caller_outside(every_rank: bool) -> None:
    with pytest.warns(UserWarning, match="look here") as caught:
        warn_user("look here", every_rank)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        (OptimalVarianceInit(verbose=False), "no probe. A probe of 2 steps is too short"),
        (OptimalVarianceInit(verbose=False, include=["nothing"]), "the probe failed"),
    ],
)
def test_warnings_of_a_fit_are_at_the_line_that_began_it(callback: Any, said: str) -> None:
    with pytest.warns(UserWarning, match=said) as caught:
        fit(Regression(), callback)
    ours = [one for one in caught if "OptimalVarianceInit" in str(one.message)]
    # `fit` of the tests is the user's code here.
    assert {Path(one.filename).name for one in ours} == {"models.py"}


def test_a_plan_that_warns_is_at_that_line_too() -> None:
    class Unknown(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), *_gelus(32), nn.Linear(32, 4))

    with pytest.warns(UserWarning, match="FractionalMomentInit: ") as caught:
        fit(Unknown(), FractionalMomentInit(verbose=False))
    ours = [one for one in caught if "FractionalMomentInit" in str(one.message)]
    assert {Path(one.filename).name for one in ours} == {"models.py"}


def _gelus(width: int) -> list[nn.Module]:
    return [part for _ in range(3) for part in (nn.Linear(width, width), nn.GELU())]


def test_it_is_the_line_of_a_script(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    line = SCRIPT.splitlines().index("trainer.fit(Module())") + 1
    assert re.search(rf"train\.py:{line}: (UserWarning: )?OptimalVarianceInit: ", ran.stderr)


def test_without_a_user_it_is_the_outermost_frame() -> None:
    frames = {"__name__": "lightning.nobody", "__package__": "lightning"}
    exec("def call(warn): warn('nobody')", frames)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames["call"](warn_user)  # type: ignore[operator]
    assert caught[0].filename == __file__
