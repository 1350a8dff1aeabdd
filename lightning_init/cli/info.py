"""`python -m lightning_init info`: what a bug report should say."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any

import torch

from lightning_init import OptimalVarianceInit
from lightning_init.probe import lightning_internals as internals

_PACKAGES = (
    *("lightning_init", "lightning", "pytorch_lightning", "torch", "torchmetrics", "tensorboard"),
    *("numpy", "msgspec", "jsonargparse", "matplotlib", "rich", "pandas", "scipy", "safetensors"),
)
_TRAINERS = ("lightning.pytorch", "pytorch_lightning")
_QUIET = {
    "accelerator": "cpu",
    "max_steps": 8,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def info(arguments: Sequence[str]) -> None:
    """Print versions, the Trainers that are there, and which private names of theirs are."""
    lines = [f"Python {platform.python_version()}, {platform.platform()}", _device()]
    lines += [f"{name} {_version(name)}" for name in _PACKAGES]
    lines.append(f"tested on lightning {', '.join(internals.CHECKED_VERSIONS)}")
    for name in _TRAINERS:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            lines.append(f"Trainer of {name}: {_names(name)}")
    sys.stdout.write("\n".join(lines) + "\n")


def _device() -> str:
    """What decides how a kernel rounds, and whether there is more than one process to agree."""
    capability = torch.backends.cpu.get_cpu_capability()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = f"CPU {capability}, {torch.get_num_threads()} threads"
    return f"{found}; GPU {', '.join(gpus) or 'none'}; CUDA of this torch {torch.version.cuda}"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "is not installed"


def _names(package: str) -> str:
    """Whether the private names that a probe needs are there: one of a toy model needs them all."""
    model = importlib.import_module(f"{package}.demos.boring_classes").BoringModel()
    settings: Any = {"on_unsettled": "use", "on_probe_failure": "raise"}  # so that it trains
    callback = OptimalVarianceInit(4, watch=False, verbose=False, **settings)
    with tempfile.TemporaryDirectory() as directory, _silence(package):
        trainer: Any = importlib.import_module(package).Trainer(
            **_QUIET, callbacks=[callback], default_root_dir=directory
        )
        try:
            trainer.fit(model)
        except internals.LightningInternalsError as error:
            return str(error).partition(",")[0]
        except Exception as error:  # whatever it is belongs into the report
            return f"a probe of a toy model fails: {type(error).__name__}: {error}"
    return "every private name that a probe needs is there"


@contextmanager
def _silence(package: str) -> Iterator[None]:
    """Keep back the Trainer's own words on devices and tips, which are no part of the answer."""
    logger = logging.getLogger(f"{package}.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
