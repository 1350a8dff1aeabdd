from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.cli import ArgsType, LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

from lightning_init import FractionalMomentInit, OptimalVarianceInit

BASE = [
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=4",
    "--trainer.limit_val_batches=0",
]


def build(*flags: str) -> LightningCLI:
    arguments: ArgsType = [*BASE, *flags]
    return LightningCLI(
        BoringModel, BoringDataModule, args=arguments, run=False, save_config_callback=None
    )


def callback_of(cli: LightningCLI, kind: type) -> Any:
    return next(c for c in cli.trainer.callbacks if isinstance(c, kind))


@pytest.mark.parametrize(
    ("flag", "read"),
    [
        ("max_probe_steps=7", lambda c: c.max_probe_steps == 7),
        ("on_unsettled=keep", lambda c: c.on_unsettled == "keep"),
        ("tolerance=0.2", lambda c: c.detector.tolerance == 0.2),
        ("confidence=0.9", lambda c: c.detector.confidence == 0.9),
        ("persistence=2", lambda c: c.detector.persistence == 2),
        ("horizon=probe", lambda c: c.horizon == "probe"),
        ("horizon=500", lambda c: c.horizon == 500),
        ("sample_every_n_steps=3", lambda c: c.sample_every_n_steps == 3),
        ("granularity=gain", lambda c: c.granularity == "gain"),
        ("largest_change=16", lambda c: c.largest_change == 16.0),
        ("include=[layer]", lambda c: c.include == ["layer"]),
        ("exclude=[head.*]", lambda c: c.exclude == ["head.*"]),
        ("probe_lr=0.01", lambda c: c.limits.learning_rate == 0.01),
        ("keep_schedule=true", lambda c: c.limits.keep_schedule),
        ("isolate_dataset=true", lambda c: c.limits.isolate_dataset),
        ("seed=4", lambda c: c.seed == 4),
        ("log_summary=false", lambda c: not c.log_summary),
        ("verbose=false", lambda c: not c.verbose),
    ],
)
def test_every_flag_of_optimal_variance_init(flag: str, read: Any) -> None:
    cli = build("--trainer.callbacks+=OptimalVarianceInit", f"--trainer.callbacks.{flag}")
    assert read(callback_of(cli, OptimalVarianceInit))


@pytest.mark.parametrize(
    ("flag", "read"),
    [
        ("order=0.5", lambda c: c.settings.order == 0.5),
        ("nonlinearity=relu", lambda c: c.nonlinearity == "relu"),
        ("bias=keep", lambda c: c.settings.bias == "keep"),
        ("include=[layer]", lambda c: c.include == ["layer"]),
        ("exclude=[head.*]", lambda c: c.exclude == ["head.*"]),
        ("first_layer=activation", lambda c: c.settings.first_layer == "activation"),
        ("mode=fan_out", lambda c: c.settings.mode == "fan_out"),
        ("conv_width=channels", lambda c: c.settings.conv_width == "channels"),
        ("recurrent=keep", lambda c: c.settings.recurrent == "keep"),
        ("scheme=asymptotic", lambda c: c.settings.scheme == "asymptotic"),
        ("conditional=true", lambda c: c.settings.conditional),
        ("seed=4", lambda c: c.seed == 4),
        ("dry_run=true", lambda c: c.dry_run),
        ("verbose=false", lambda c: not c.verbose),
    ],
)
def test_every_flag_of_fractional_moment_init(flag: str, read: Any) -> None:
    cli = build("--trainer.callbacks+=FractionalMomentInit", f"--trainer.callbacks.{flag}")
    assert read(callback_of(cli, FractionalMomentInit))


def test_parameters_of_a_named_nonlinearity() -> None:
    cli = build(
        "--trainer.callbacks+=FractionalMomentInit",
        "--trainer.callbacks.nonlinearity=rrelu",
        "--trainer.callbacks.param=[0.1,0.3]",
        "--trainer.callbacks.dropout=0.1",
    )
    callback = callback_of(cli, FractionalMomentInit)
    assert tuple(callback.param) == (0.1, 0.3)
    assert callback.dropout == 0.1


@pytest.mark.filterwarnings("ignore:.*had not settled")
def test_both_callbacks_run_from_flags() -> None:
    cli = build(
        "--trainer.callbacks+=FractionalMomentInit",
        "--trainer.callbacks.order=1.0",
        "--trainer.callbacks+=lightning_init.OptimalVarianceInit",
        "--trainer.callbacks.max_probe_steps=3",
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    report = callback_of(cli, OptimalVarianceInit).report
    assert report is not None
    assert report.probe_steps == 3


def test_a_wrong_value_names_the_argument(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        build("--trainer.callbacks+=OptimalVarianceInit", "--trainer.callbacks.granularity=net")
    assert "granularity" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["OptimalVarianceInit", "FractionalMomentInit"])
def test_help_explains_every_argument(name: str, capsys: Any) -> None:
    import inspect

    import lightning_init

    with pytest.raises(SystemExit):
        build(f"--trainer.callbacks.help={name}")
    text = capsys.readouterr().out
    for argument in list(inspect.signature(getattr(lightning_init, name)).parameters):
        line = next(
            line
            for line in text.splitlines()
            if f"--trainer.callbacks.{argument} " in line
            or line.strip().startswith(f"--{argument} ")
            or f".{argument} " in line
        )
        assert line


def test_configuration_round_trip(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightning_init", "fit"]
    model = ["--model=lightning.pytorch.demos.boring_classes.BoringModel"]
    flags = [
        *BASE,
        "--data=lightning.pytorch.demos.boring_classes.BoringDataModule",
        "--trainer.callbacks+=OptimalVarianceInit",
        "--trainer.callbacks.max_probe_steps=3",
        "--trainer.callbacks.seed=1",
        "--seed_everything=1",
    ]
    printed = subprocess.run(
        [*command, *model, *flags, "--print_config"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "class_path: lightning_init.OptimalVarianceInit" in printed.stdout
    path = tmp_path / "config.yaml"
    path.write_text(printed.stdout)
    run = subprocess.run(
        [*command, "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        cwd=tmp_path,
    )
    assert "budget of 3 optimizer steps" in run.stdout
