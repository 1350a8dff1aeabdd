"""Every argument of both callbacks, from flags, files and the environment."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any

import pytest
from lightning.pytorch.cli import ArgsType, LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel

import lightning_init
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
# Per flag: where the callback keeps it, and what is read.
OPTIMAL_VARIANCE_FLAGS = {
    "max_probe_steps=7": ("settings.limits.max_steps", 7),
    "max_probe_steps=0.05": ("settings.limits.max_steps", 0.05),
    "max_probe_steps=0": ("settings.limits.max_steps", 0),
    "on_unsettled=keep": ("settings.on_unsettled", "keep"),
    "on_unsettled=project": ("settings.on_unsettled", "project"),
    "tolerance=0.2": ("settings.detector.tolerance", 0.2),
    "horizon=probe": ("settings.horizon", "probe"),
    "horizon=500": ("settings.horizon", 500),
    "sample_every_n_steps=3": ("settings.sample_every_n_steps", 3),
    "granularity=gain": ("settings.granularity", "gain"),
    "moment=raw": ("settings.moment", "raw"),
    "draw=scale": ("settings.draw", "scale"),
    "rounds=3": ("settings.rounds", 3),
    "forgetting=true": ("settings.forgetting", True),
    "guard_steps=20": ("settings.guard_steps", 20),
    "verify_steps=0": ("settings.limits.verify_steps", 0),
    "on_probe_failure=raise": ("settings.on_probe_failure", "raise"),
    "include=[layer]": ("include", ["layer"]),
    "exclude=[head.*]": ("exclude", ["head.*"]),
    "probe_lr=0.01": ("settings.limits.learning_rate", 0.01),
    "probe_lr=peak": ("settings.limits.learning_rate", "peak"),
    "probe_lr=schedule": ("settings.limits.learning_rate", "schedule"),
    "isolate_dataset=true": ("settings.limits.isolate_dataset", True),
    "probe_dataloaders=null": ("settings.limits.dataloaders", None),
    "recipe=init_recipe.json": ("recipe_file", "init_recipe.json"),
    "recipe_path=found.json": ("recipe_path", "found.json"),
    "seed=4": ("seed", 4),
    "verbose=false": ("verbose", False),
    "watch=false": ("watch", False),
}
FRACTIONAL_MOMENT_FLAGS = {
    "order=0.5": ("settings.order", 0.5),
    "nonlinearity=relu": ("settings.nonlinearity", "relu"),
    "bias=keep": ("settings.bias", "keep"),
    "include=[layer]": ("settings.include", ["layer"]),
    "exclude=[head.*]": ("settings.exclude", ["head.*"]),
    "first_layer=activation": ("settings.first_layer", "activation"),
    "mode=fan_out": ("settings.mode", "fan_out"),
    "conv_width=channels": ("settings.conv_width", "channels"),
    "recurrent=keep": ("settings.recurrent", "keep"),
    "respect=nothing": ("settings.respect", "nothing"),
    "seed=4": ("seed", 4),
    "dry_run=true": ("dry_run", True),
    "verbose=false": ("verbose", False),
}
# Arguments that need another beside them, with a test of their own below.
TOGETHER = {"param", "dropout", "recipe_by_width"}
WRONG = {
    "OptimalVarianceInit": {
        "max_probe_steps": "many",
        "on_unsettled": "maybe",
        "horizon": "epoch",
        "granularity": "net",
        "moment": "third",
        "draw": "uniform",
        "forgetting": "perhaps",
        "include": "3",
        "seed": "1.5",
    },
    "FractionalMomentInit": {
        "order": "one",
        "param": "[a,b]",
        "bias": "one",
        "mode": "fan",
        "recurrent": "zero",
    },
}


def build(*flags: str, **kwargs: Any) -> LightningCLI:
    arguments: ArgsType = [*BASE, *flags]
    return LightningCLI(
        BoringModel,
        BoringDataModule,
        args=arguments,
        run=False,
        save_config_callback=None,
        **kwargs,
    )


def callback_of(cli: LightningCLI, kind: type) -> Any:
    return next(c for c in cli.trainer.callbacks if isinstance(c, kind))


@pytest.mark.parametrize("flag", OPTIMAL_VARIANCE_FLAGS)
def test_every_flag_of_optimal_variance_init(flag: str) -> None:
    path, value = OPTIMAL_VARIANCE_FLAGS[flag]
    cli = build("--trainer.callbacks+=OptimalVarianceInit", f"--trainer.callbacks.{flag}")
    assert attrgetter(path)(callback_of(cli, OptimalVarianceInit)) == value


@pytest.mark.parametrize("flag", FRACTIONAL_MOMENT_FLAGS)
def test_every_flag_of_fractional_moment_init(flag: str) -> None:
    path, value = FRACTIONAL_MOMENT_FLAGS[flag]
    cli = build("--trainer.callbacks+=FractionalMomentInit", f"--trainer.callbacks.{flag}")
    assert attrgetter(path)(callback_of(cli, FractionalMomentInit)) == value


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        (OptimalVarianceInit, OPTIMAL_VARIANCE_FLAGS),
        (FractionalMomentInit, FRACTIONAL_MOMENT_FLAGS),
    ],
)
def test_no_argument_is_missing_from_the_lists_above(kind: type, flags: dict[str, Any]) -> None:
    arguments = set(inspect.signature(kind).parameters)
    tested = {flag.partition("=")[0] for flag in flags}
    assert tested | (TOGETHER & arguments) == arguments


def test_parameters_of_a_named_nonlinearity() -> None:
    cli = build(
        "--trainer.callbacks+=FractionalMomentInit",
        "--trainer.callbacks.nonlinearity=rrelu",
        "--trainer.callbacks.param=[0.1,0.3]",
        "--trainer.callbacks.dropout=0.1",
    )
    callback = callback_of(cli, FractionalMomentInit)
    assert tuple(callback.settings.param) == (0.1, 0.3)
    assert callback.settings.dropout == 0.1


def test_a_recipe_for_another_width() -> None:
    cli = build(
        "--trainer.callbacks+=OptimalVarianceInit",
        "--trainer.callbacks.recipe=init_recipe.json",
        "--trainer.callbacks.recipe_by_width=true",
    )
    assert callback_of(cli, OptimalVarianceInit).recipe_by_width is True


@pytest.mark.filterwarnings("ignore:.*had not settled")
def test_both_callbacks_run_from_flags() -> None:
    cli = build(
        "--trainer.callbacks+=FractionalMomentInit",
        "--trainer.callbacks.order=1.0",
        "--trainer.callbacks+=lightning_init.OptimalVarianceInit",
        "--trainer.callbacks.max_probe_steps=3",
        "--trainer.callbacks.on_unsettled=use",
    )
    cli.trainer.fit(cli.model, cli.datamodule)
    report = callback_of(cli, OptimalVarianceInit).report
    assert report is not None
    assert report.probe_steps == 3


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        (name, argument, value)
        for name, values in WRONG.items()
        for argument, value in values.items()
    ],
)
def test_a_value_of_the_wrong_type_names_the_argument(
    name: str, argument: str, value: str, capsys: Any
) -> None:
    with pytest.raises(SystemExit) as ended:
        build(f"--trainer.callbacks+={name}", f"--trainer.callbacks.{argument}={value}")
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert re.search(rf"\b{argument}\b", message), message
    assert value.strip("[]").split(",")[0] in message


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("OptimalVarianceInit", "max_probe_steps", "-1"),
        ("OptimalVarianceInit", "tolerance", "-1"),
        ("OptimalVarianceInit", "probe_lr", "-0.5"),
        ("FractionalMomentInit", "order", "2.5"),
        ("FractionalMomentInit", "nonlinearity", "reluu"),
    ],
)
def test_a_value_outside_the_range_names_the_argument(name: str, argument: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"`{argument}`.*{value}"):
        build(f"--trainer.callbacks+={name}", f"--trainer.callbacks.{argument}={value}")


@pytest.mark.parametrize("name", ["OptimalVarianceInit", "FractionalMomentInit"])
def test_help_explains_every_argument(name: str, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        build(f"--trainer.callbacks.help={name}")
    explained = help_texts(capsys.readouterr().out)
    arguments = set(inspect.signature(getattr(lightning_init, name)).parameters)
    assert arguments <= set(explained)
    for argument in arguments:
        text, _, facts = explained[argument].rpartition("(type: ")
        assert len(text.split()) >= 3, f"{argument}: {text!r}"
        assert text.strip().endswith("."), f"{argument}: {text!r}"
        assert "default: " in facts, argument


def help_texts(printed: str) -> dict[str, str]:
    """What is printed beside each argument, in one line each."""
    entries = re.split(r"\n  --(?=\w)", printed)[1:]
    split = (re.match(r"([\w.]+)(?: \S.*)?\n?((?:.|\n)*)", entry) for entry in entries)
    texts = {m.group(1).split(".")[-1]: " ".join(m.group(2).split()) for m in split if m}
    for entry in entries:
        # A short argument has its text on its own line.
        found = re.match(r"([\w.]+)( [A-Z{\[]\S*)? {2,}((?:.|\n)*)", entry)
        if found:
            texts[found.group(1).split(".")[-1]] = " ".join(found.group(3).split())
    return texts


def test_a_callback_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    callback = '{"class_path": "OptimalVarianceInit", "init_args": {"max_probe_steps": 5}}'
    monkeypatch.setenv("PL_TRAINER__CALLBACKS", f"[{callback}]")
    cli = build(parser_kwargs={"default_env": True})
    assert callback_of(cli, OptimalVarianceInit).settings.limits.max_steps == 5


def test_a_group_of_its_own_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    class GroupCLI(LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_lightning_class_args(OptimalVarianceInit, "optimal_variance")

    monkeypatch.setenv("PL_OPTIMAL_VARIANCE__MAX_PROBE_STEPS", "6")
    cli = GroupCLI(
        BoringModel,
        BoringDataModule,
        args=BASE,
        run=False,
        save_config_callback=None,
        parser_kwargs={"default_env": True},
    )
    assert callback_of(cli, OptimalVarianceInit).settings.limits.max_steps == 6


def test_installing_the_package_changes_nobody_s_training() -> None:
    registered = entry_points(group="lightning.pytorch.callbacks_factory")
    ours = [e.name for e in registered if e.value.startswith("lightning_init")]
    assert ours == []
    pyproject = (
        __import__("pathlib").Path(__file__).parents[2].joinpath("pyproject.toml").read_text()
    )
    assert "entry-points" not in pyproject
    assert "callbacks_factory" not in pyproject
