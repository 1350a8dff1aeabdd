"""Scenarios about optimizers, schedules, callbacks and loggers."""

from __future__ import annotations

from typing import Any

from contract_harness import Scenario, Setup
from contract_models import (
    ManualNet,
    MetricNet,
    Net,
    Sam,
    SplitData,
    adam,
    loader,
    momentum,
    validation,
)
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.optim import LBFGS, SGD, AdamW
from torch.optim import lr_scheduler as schedules

SCENARIOS: dict[str, Scenario] = {}


def add(name: str, **options: Any) -> None:
    """A scenario whose parts are made by functions, so that each process builds its own."""

    def scenario() -> Setup:
        built = {key: value() if callable(value) else value for key, value in options.items()}
        return Setup(**({"model": Net(), "train": loader(), "val": validation()} | built))

    assert name not in SCENARIOS
    SCENARIOS[name] = scenario


def scheduled(make: Any, interval: str = "epoch", **more: Any) -> Any:
    """A module with SGD and one schedule."""

    def configure(net: Net) -> Any:
        optimizer = momentum(net)
        config = {"scheduler": make(optimizer, net), "interval": interval} | more
        return {"optimizer": optimizer, "lr_scheduler": config}

    return lambda: Net(configure)


add("adam", model=lambda: Net(adam))
add("momentum", model=lambda: Net(momentum))
add("adamw", model=lambda: Net(lambda net: AdamW(net.parameters(), lr=0.01)))
add("lbfgs", model=lambda: Net(lambda net: LBFGS(net.parameters(), lr=0.05, max_iter=3)))
add("sam", model=lambda: Net(lambda net: Sam(net.parameters(), lr=0.02, momentum=0.9)))
add("step_lr", model=scheduled(lambda o, _: schedules.StepLR(o, 1, 0.5)))
add(
    "one_cycle_fixed",
    model=scheduled(lambda o, _: schedules.OneCycleLR(o, 0.05, total_steps=24), "step"),
)
add(
    "one_cycle_estimated",
    model=scheduled(
        lambda o, net: schedules.OneCycleLR(
            o, 0.05, total_steps=net.trainer.estimated_stepping_batches
        ),
        "step",
    ),
)
add(
    "plateau_on_validation",
    model=scheduled(
        lambda o, _: schedules.ReduceLROnPlateau(o, patience=0, threshold=10.0),
        monitor="val_loss",
    ),
)
add(
    "plateau_with_max_steps",
    model=scheduled(
        lambda o, _: schedules.ReduceLROnPlateau(o, patience=0, threshold=10.0),
        monitor="val_loss",
    ),
    trainer={"max_steps": 30, "max_epochs": -1},
)
add("accumulate", trainer={"accumulate_grad_batches": 3})
add("clip_norm", trainer={"gradient_clip_val": 0.1})
add(
    "stopping_and_checkpoints",
    callbacks=lambda: [
        EarlyStopping("val_loss", patience=1, min_delta=10.0),
        ModelCheckpoint(".", "{epoch}-{step}", monitor="val_loss", save_top_k=2, save_last=True),
    ],
    trainer={"max_epochs": 5},
)
add("datamodule_with_split", train=None, val=None, datamodule=SplitData)
add("metrics", model=MetricNet)
add("manual", model=ManualNet)
add("csv_logger", trainer=lambda: {"logger": CSVLogger(".")})
add("tensorboard_logger", trainer=lambda: {"logger": TensorBoardLogger(".")})
add("max_steps", trainer={"max_steps": 22, "max_epochs": -1})
add("sgd_plain", model=lambda: Net(lambda net: SGD(net.parameters(), lr=0.05)))
