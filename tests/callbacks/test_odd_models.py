"""Odd models and data: the run ends as it does without the callback, and one line says why."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, Trainer
from models import QUIET, Regression, StateAtTrainStart, regression_loader
from odd_models import LOADERS, MODELS, SEVERAL, Several

from lightning_init import FractionalMomentInit, OptimalVarianceInit

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = {
    **{name: lambda made=made: (made(), regression_loader()) for name, made in MODELS.items()},
    **{name: lambda made=made: (Regression(), made()) for name, made in LOADERS.items()},
    **{name: lambda made=made: (Several(), made()) for name, made in SEVERAL.items()},
}
# What the line of `FractionalMomentInit` must say where it draws nothing.
NOT_DRAWN = {
    "a bias alone": "bare nn.Parameter of WithBias",
    "norms alone": "scale of a normalization layer",
    "all frozen": "frozen (requires_grad=False)",
    "lazy": "lazy and not yet initialized",
    "TorchScript": "inside TorchScript",
}
# What the line of `OptimalVarianceInit` must say where no probe could tell anything.
ONE_SHOT = "The training data are a one-shot iterator"
NOT_PROBED = {
    **NOT_DRAWN,
    "half TorchScript": "'net.made' is TorchScript",
    "sparse matrix": "'net.made' is stored as torch.sparse_coo",
    "uncopyable": "TypeError(cannot be copied) in odd_models.py",
    "NaN": "the training loss was not finite at probe step 1",
    "no optimizer": "the optimizer holds the module's parameters",
    "step raises": "RuntimeError(broken step) in odd_models.py",
    "step gives None": "`training_step` returned no loss",
    "step gives text": "`training_step` must return a Tensor",
    "step gives a constant": "does not require grad",
    "step gives NaN": "the training loss was not finite at probe step 1",
    "generator": ONE_SHOT,
    "map": ONE_SHOT,
    "list iterator": ONE_SHOT,
    "a generator among loaders": ONE_SHOT,
    "no loader": "`train_dataloader` must be implemented",
    "empty list": "the training loaders hold no batch",
    "empty dict": "the training loaders hold no batch",
    "empty loader": "the training loaders hold no batch",
    "an empty one among loaders": "the training data are not empty",
    "fewer rows than a batch": "the training loaders hold no batch",
    "batches of None": "the training data are not empty",
    "first row broken": "OSError(cannot read) in odd_models.py",
    "another width": "shapes cannot be multiplied (8x15 and 16x32)) in models.py",
    "text": "must be Tensor, not str) in models.py",
    "iteration raises": "RuntimeError(no data today) in odd_models.py",
    "length raises": "RuntimeError(no length) in odd_models.py",
    "sequential": 'does not support the `CombinedLoader(mode="sequential")`',
    "hook raises": "RuntimeError(no data today) in odd_models.py",
    "hook gives None": "An invalid dataloader was returned from `Data.train_dataloader()`",
}


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def lines_told() -> Iterator[list[str]]:
    """What the callbacks say inside the block."""
    # Whichever of the two packages was imported last lends its logger to both.
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    handler, before = Lines(), [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    told: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield told
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
    said = [str(one.message) for one in caught] + handler.lines
    told += [line for line in said if "MomentInit" in line or "VarianceInit" in line]


def outcome(name: str, folder: Path, *callbacks: Any) -> tuple[str, dict[str, Any]]:
    """How two steps end: their number or the error, and the weights that they started from."""
    torch.manual_seed(0)
    model, data = CASES[name]()
    start = StateAtTrainStart()
    options = {**QUIET, "max_epochs": 1, "limit_train_batches": 2, "default_root_dir": folder}
    try:
        trainer = Trainer(callbacks=[*callbacks, start], **options)
        if isinstance(data, LightningDataModule):
            trainer.fit(model, datamodule=data)
        else:
            trainer.fit(model, data)
    except Exception as error:
        return f"{type(error).__name__}: {error}", getattr(start, "weights", {})
    return f"{trainer.global_step} steps", getattr(start, "weights", {})


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two sets of weights agree bit for bit, NaN included."""
    tensors = [(v, other[k]) for k, v in one.items() if isinstance(v, torch.Tensor)]
    return one.keys() == other.keys() and all(
        a.is_sparse or torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in tensors
    )


@pytest.mark.parametrize("name", CASES)
def test_the_run_is_not_stopped_and_the_reason_is_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else no step would be taken in so short a probe.
    monkeypatch.setattr("lightning_init.search.probe_phase.is_too_short", lambda state: False)
    plain, untouched = outcome(name, tmp_path)
    callback = FractionalMomentInit(verbose=False)
    with lines_told() as told:
        assert outcome(name, tmp_path, callback)[0] == plain
    assert not [line for line in told if "\n" in line]
    if name in NOT_DRAWN:
        assert callback.plan is None
        assert NOT_DRAWN[name] in " ".join(told)

    probing = OptimalVarianceInit(4, verbose=False)
    with lines_told() as told:
        found, weights = outcome(name, tmp_path, probing)
    assert found == plain
    assert equal(weights, untouched)  # nothing settles in two steps
    assert not [line for line in told if "\n" in line]
    if name in NOT_PROBED:
        assert NOT_PROBED[name] in " ".join(told)
    elif untouched:
        assert probing.report is not None
