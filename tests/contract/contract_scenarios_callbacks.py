"""Scenarios about other callbacks, loggers, tuners, entry points and our own options."""

from __future__ import annotations

from typing import Any

from contract_harness import Setup, build_trainer, fit, probe
from contract_models import MetricNet, Net, SplitData, adam, loader, momentum, validation
from contract_registry import add, net, scheduled
from lightning.pytorch import Callback, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    LambdaCallback,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelSummary,
    RichProgressBar,
    StochasticWeightAveraging,
    Timer,
    TQDMProgressBar,
)
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim import lr_scheduler as schedules
from torch.optim.swa_utils import get_ema_avg_fn

from lightning_init import FractionalMomentInit

# ------------------------------------------------------------------------- stopping and checkpoints
add(
    "stopping_and_checkpoints",
    callbacks=lambda: [
        EarlyStopping("val_loss", patience=1, min_delta=10.0),
        ModelCheckpoint(".", "{epoch}-{step}", monitor="val_loss", save_top_k=2, save_last=True),
    ],
    trainer={"max_epochs": 5},
)
add(
    "checkpoints_by_step",
    callbacks=lambda: [
        ModelCheckpoint("a", every_n_train_steps=7, save_top_k=-1, monitor="train_loss"),
        ModelCheckpoint("b", save_weights_only=True, save_on_train_epoch_end=True),
    ],
)
add(
    "stopping_at_a_threshold",
    callbacks=lambda: [
        EarlyStopping("train_loss", divergence_threshold=1e-6, check_on_train_epoch_end=True)
    ],
)


# ----------------------------------------------------------------------------------------- averages
# New in Lightning 2.6; `.ci/versions` runs other scenarios of this suite on older releases too.
WeightAveraging: Any = getattr(lightning_callbacks, "WeightAveraging", Callback)


class Ema(WeightAveraging):
    """Exponential average from a given step on."""

    def __init__(self, first: int) -> None:
        super().__init__(avg_fn=get_ema_avg_fn(0.9))
        self.first = first

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx >= self.first


class Teacher(Callback):
    """Holds another model of the same class, which is no copy of the weights."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.teacher = Net()


add("ema_from_the_start", callbacks=lambda: [Ema(0)])
add("ema_from_step_ten", callbacks=lambda: [Ema(10), ModelCheckpoint(".", monitor="val_loss")])
add("ema_listed_before", before=lambda: [Ema(10)])
add("swa", callbacks=lambda: [StochasticWeightAveraging(0.01, swa_epoch_start=1)])
add("teacher", callbacks=lambda: [Teacher()])


class Backbone(Net):
    """A backbone that is frozen at first."""

    def __init__(self) -> None:
        super().__init__(lambda net: Adam([p for p in net.parameters() if p.requires_grad], 0.01))
        self.backbone, self.head = nn.Linear(6, 6), self.net

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).relu())


add("backbone_finetuning", model=Backbone, callbacks=lambda: [BackboneFinetuning(1)])


# --------------------------------------------------------------------------------- loggers and bars
add("csv_logger", model=MetricNet, trainer=lambda: {"logger": CSVLogger(".")})
add("tensorboard_logger", trainer=lambda: {"logger": TensorBoardLogger(".")})
add(
    "two_loggers",
    trainer=lambda: {"logger": [CSVLogger("a"), TensorBoardLogger("b", log_graph=False)]},
    callbacks=lambda: [ModelCheckpoint(monitor="val_loss")],
)
add("default_logger", trainer={"logger": True})
add("simple_profiler", trainer=lambda: {"profiler": SimpleProfiler(".", "simple")})
add("advanced_profiler", trainer=lambda: {"profiler": AdvancedProfiler(".", "advanced")})
add("progress_bar", callbacks=lambda: [TQDMProgressBar()], trainer={"enable_progress_bar": True})
add(
    "rich_progress_bar",
    callbacks=lambda: [RichProgressBar(), ModelSummary()],
    trainer={"enable_progress_bar": True, "enable_model_summary": True},
)
add(
    "learning_rate_monitor",
    model=scheduled(lambda o, _: schedules.ExponentialLR(o, 0.9), "step"),
    callbacks=lambda: [LearningRateMonitor(log_momentum=True)],
    trainer=lambda: {"logger": CSVLogger(".")},
)
add("timer", callbacks=lambda: [Timer({"hours": 2})])


class Watcher(Callback):
    """Counts batches, keeps state in its checkpoint and changes the module's buffers."""

    def __init__(self) -> None:
        self.count = 0

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.count += 100

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.count += 1
        pl_module.seen += 0.5

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}


add("stateful_callback", before=lambda: [Watcher()], callbacks=lambda: [ModelCheckpoint(".")])
add(
    "lambda_callback",
    callbacks=lambda: [
        LambdaCallback(on_train_epoch_end=lambda t, m: m.log("calls", float(m.calls)))
    ],
)


# ------------------------------------------------------------------------------------------- tuners
class Tunable(Net):
    """With a learning rate that a tuner may set."""

    def __init__(self) -> None:
        super().__init__(lambda net: Adam(net.parameters(), lr=net.lr))
        self.lr = 0.02


add(
    "learning_rate_finder",
    model=Tunable,
    callbacks=lambda: [LearningRateFinder(num_training_steps=10, early_stop_threshold=None)],
    trainer={"max_epochs": 4},
    early=False,
)
add(
    "batch_size_finder",
    train=None,
    val=None,
    datamodule=SplitData,
    callbacks=lambda: [BatchSizeFinder(max_trials=2, steps_per_trial=2)],
    early=False,
)


# ------------------------------------------------------------------------------------- entry points
def _from_cli() -> Net:
    arguments = ["--optimizer=Adam", "--optimizer.lr=0.01", "--lr_scheduler=ExponentialLR"]
    cli = LightningCLI(
        CliNet,
        run=False,
        save_config_callback=None,
        args=[*arguments, "--lr_scheduler.gamma=0.9"],
        trainer_defaults={"logger": False, "accelerator": "cpu"},
    )
    return cli.model


class CliNet(Net):
    """Without arguments, as a command line would make it."""

    def __init__(self) -> None:
        super().__init__()


def _fit_after_other_entry_points(trainer: Trainer, setup: Setup) -> None:
    trainer.validate(setup.model, setup.val, verbose=False)
    fit(trainer, setup)
    trainer.test(setup.model, setup.val, verbose=False)


def _fit_twice(trainer: Trainer, setup: Setup) -> None:
    fit(trainer, setup)
    trainer.fit_loop.max_epochs = 5
    fit(trainer, setup)


def _fit_another_fold_first(trainer: Trainer, setup: Setup) -> None:
    ours = [callback for callback in setup.ours if callback in trainer.callbacks]
    fold = Setup(Net(), {"max_epochs": 2}, loader(), validation())
    fit(build_trainer(fold, ours), fold)
    fit(trainer, setup)


add("command_line", model=_from_cli)
add("validate_fit_test", fit=_fit_after_other_entry_points)
add("two_fits", fit=_fit_twice)
add("same_callback_on_two_trainers", fit=_fit_another_fold_first)


# -------------------------------------------------------------------------------------- our options
def fractional(**options: Any) -> FractionalMomentInit:
    """The closed-form callback, quiet."""
    return FractionalMomentInit(**({"verbose": False, "seed": 5} | options))


WARM_UP = scheduled(lambda o, _: schedules.LambdaLR(o, lambda step: min(1.0, step / 5)), "step")
add("probe_lr_schedule", model=WARM_UP, ours=lambda: [probe(probe_lr="schedule")])
add("probe_lr_peak", model=WARM_UP, ours=lambda: [probe(max_probe_steps=40)])
add("probe_lr", model=WARM_UP, ours=lambda: [probe(probe_lr=0.02)])
add("granularity_gain", ours=lambda: [probe(granularity="gain")])
add("only_one_layer", ours=lambda: [probe(include=["net.4"])])
add("two_instances", ours=lambda: [probe(include=["net.0"]), probe(include=["net.4"])])
add("seed_of_the_run", ours=lambda: [probe(seed=None)])
add("sampling_now_and_then", ours=lambda: [probe(sample_every_n_steps=None)])
# Too short for a verdict, so that no step is taken.
add("unsettled_keep", ours=lambda: [probe(on_unsettled="keep")], redraws=False)
add(
    "unsettled_project",
    ours=lambda: [probe(on_unsettled="project", max_probe_steps=50)],
    trainer={"max_epochs": 8},
)
add(
    "plain_logger_summary",
    trainer=lambda: {"logger": TensorBoardLogger(".")},
)
add("fractional", ours=lambda: [fractional()])
add("fractional_named", ours=lambda: [fractional(nonlinearity="relu", order=0.5, bias="keep")])
add(
    "fractional_momentum_ema",
    model=net(momentum),
    ours=lambda: [fractional()],
    callbacks=lambda: [Ema(0)],
)
add("fractional_metrics", model=MetricNet, ours=lambda: [fractional()])
add("fractional_then_probe", ours=lambda: [fractional(), probe()])
add("probe_then_fractional", ours=lambda: [probe(), fractional()])
add(
    "both_with_ema",
    model=net(adam),
    ours=lambda: [fractional(), probe()],
    callbacks=lambda: [Ema(0)],
)
