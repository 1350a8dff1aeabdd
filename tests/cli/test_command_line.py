"""`python -m lightning_init`: subcommands, YAML files, and the run that a saved config repeats."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule

from lightning_init import InitRecipe
from lightning_init.__main__ import main
from lightning_init.recipes.recipe_format import RecipeLayer

EXAMPLES = Path(__file__).parents[2] / "examples" / "cli"
MODEL = ["--model=cli_models.SmallMLP", "--data=cli_models.SmallData"]
TINY = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=4",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.logger=CSVLogger",
    "--trainer.logger.save_dir=.",
    "--trainer.log_every_n_steps=1",
]

pytestmark = pytest.mark.filterwarnings("ignore:.*had not settled", "ignore:The `seed_everything`")


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    layers = (
        RecipeLayer("net.0", (16, 8), 8, 0.25, "redrawn", "stationary", 0.25, 0.01),
        RecipeLayer("net.2", (2, 16), 16, 0.04, "kept", "invalid", None, None),
    )
    path = tmp_path / "init_recipe.json"
    InitRecipe(layers, optimizers=(("SGD", 0.1),), settings=(("tolerance", 0.1),)).save(path)
    return path


def run_of(directory: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """What a run logged, and its last weights."""
    (checkpoint,) = directory.rglob("*.ckpt")
    (metrics,) = directory.rglob("metrics.csv")
    return metrics.read_text(), torch.load(checkpoint, weights_only=False)["state_dict"]


def assert_same_run(one: Path, other: Path) -> None:
    (metrics, weights), (other_metrics, other_weights) = run_of(one), run_of(other)
    assert len(metrics.splitlines()) > 4
    assert metrics == other_metrics
    assert weights.keys() == other_weights.keys()
    for name, value in weights.items():
        assert torch.equal(value, other_weights[name]), name


def test_a_printed_config_gives_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    flags = [
        *MODEL,
        *TINY,
        "--seed_everything=3",
        "--model.width=12",
        "--trainer.callbacks+=FractionalMomentInit",
        "--trainer.callbacks.order=0.5",
        "--trainer.callbacks+=OptimalVarianceInit",
        "--trainer.callbacks.max_probe_steps=3",
        "--trainer.callbacks.tolerance=0.2",
    ]
    with pytest.raises(SystemExit):
        main(["fit", *flags, "--print_config"])
    config = tmp_path / "config.yaml"
    config.write_text(capsys.readouterr().out)
    assert "class_path: lightning_init.OptimalVarianceInit" in config.read_text()
    for name, arguments in (("flags", flags), ("file", ["--config", str(config)])):
        directory = tmp_path / name
        directory.mkdir()
        monkeypatch.chdir(directory)
        main(["fit", *arguments])
    assert_same_run(tmp_path / "flags", tmp_path / "file")
    # The config that the run itself saved is that of the printed one.
    (saved,) = (tmp_path / "flags").rglob("config.yaml")
    printed = config.read_text().splitlines()
    assert set(printed) - {""} <= set(saved.read_text().splitlines())


def test_a_run_from_environment_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback = '{"class_path": "OptimalVarianceInit", "init_args": {"max_probe_steps": 3}}'
    monkeypatch.setenv("PL_FIT__TRAINER__CALLBACKS", f"[{callback}]")
    monkeypatch.setenv("PL_FIT__SEED_EVERYTHING", "5")
    main(["fit", *MODEL, *TINY])
    (recipe,) = tmp_path.rglob("init_recipe.json")
    assert ("max_probe_steps", 3) in InitRecipe.load(recipe).settings


@pytest.mark.parametrize(
    "file", sorted(p.name for p in EXAMPLES.glob("*.yaml") if p.name != "plan.yaml")
)
def test_every_yaml_file_runs(file: str, recipe: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(EXAMPLES / file), *MODEL, *TINY])
    metrics, _ = run_of(tmp_path)
    expected = {
        "both.yaml": ("OptimalVarianceInit/sigma0/net.0", "FractionalMomentInit/std/net.0"),
        "fractional_moment.yaml": ("FractionalMomentInit/std/net.0",),
        "optimal_variance.yaml": ("OptimalVarianceInit/sigma0/net.0",),
        "from_recipe.yaml": ("loss",),
    }
    for name in expected[file]:
        assert name in metrics


def test_the_commands_in_the_yaml_files_name_their_file() -> None:
    for path in EXAMPLES.glob("*.yaml"):
        first = path.read_text().splitlines()[0]
        command = "plan" if path.name == "plan.yaml" else "fit"
        pattern = (
            rf"# python -m lightning_init {command} --config examples/cli/{path.name} --model .+"
        )
        assert re.fullmatch(pattern, first), path.name


def test_show_prints_a_recipe(recipe: Path, capsys: Any) -> None:
    main(["show", str(recipe)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("InitRecipe: 1 redrawn, 1 kept, 0 left out")
    assert lines[3].split() == [
        "net.0",
        "16x8",
        "8",
        "0.25",
        "0.01",
        "stationary",
        "0.5",
        "redrawn",
    ]
    assert lines[4].split() == ["net.2", "2x16", "16", "-", "-", "invalid", "0.2", "kept"]
    assert "optimizers: SGD at learning rate 0.1" in lines
    assert "settings: tolerance=0.1" in lines


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no file"), ("{", "is not JSON"), ('{"format_version": 7}', "format_version")],
)
def test_show_names_what_is_wrong(
    content: str | None, message: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "wrong.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit) as ended:
        main(["show", str(path)])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "argument `recipe`" in error
    assert message in error
    assert str(path) in error


def test_plan_prints_and_changes_nothing(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cli_models import SmallMLP

    built: list[tuple[LightningModule, dict[str, torch.Tensor]]] = []
    original = SmallMLP.configure_model

    def remember(self: SmallMLP) -> None:
        original(self)
        built.append((self, {name: p.clone() for name, p in self.state_dict().items()}))

    monkeypatch.setattr(SmallMLP, "configure_model", remember)
    main(["plan", "--model=cli_models.SmallMLP", "--model.width=32", "--order=0.5"])
    printed = capsys.readouterr().out
    assert "law at order 0.5" in printed
    assert re.search(r"net\.2 +2x32 +relu \(traced\) +32 +[\d.]+ +0\.2577", printed)
    ((model, before),) = built
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert list(tmp_path.iterdir()) == []


def test_plan_reads_a_file_and_the_environment(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_PLAN__NONLINEARITY", "tanh")
    main(["plan", "--config", str(EXAMPLES / "plan.yaml"), "--model=cli_models.SmallMLP"])
    printed = capsys.readouterr().out
    assert "law at order 1" in printed
    assert "tanh" in printed


@pytest.mark.parametrize(
    ("flag", "argument"),
    [
        ("--order=2.5", "order"),
        ("--order=x", "order"),
        ("--mode=fan", "mode"),
        ("--nonlinearity=reluu", "nonlinearity"),
        ("--include=[nothing.*]", "include"),
        ("--model.widht=3", "widht"),
        ("--seed=3", "seed"),
    ],
)
def test_plan_names_the_wrong_argument(flag: str, argument: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--model=cli_models.SmallMLP", flag])
    assert ended.value.code == 2
    message = capsys.readouterr().err.rpartition("error: ")[2]
    assert argument in message


def test_plan_needs_a_model(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["plan"])
    assert "model" in capsys.readouterr().err.rpartition("error: ")[2]


def test_the_help_names_all_subcommands(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    for name in ("fit", "validate", "test", "predict", "plan --model", "show recipe.json"):
        assert name in printed


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "lightning_init", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


@pytest.mark.slow
def test_fit_as_a_process() -> None:
    printed = run(
        "fit",
        "--model=lightning.pytorch.demos.boring_classes.BoringModel",
        "--data=lightning.pytorch.demos.boring_classes.BoringDataModule",
        *TINY,
        "--trainer.limit_val_batches=0",
        "--trainer.callbacks+=OptimalVarianceInit",
        "--trainer.callbacks.max_probe_steps=3",
        "--trainer.callbacks.on_unsettled=use",
    )
    assert "budget of 3 optimizer steps" in printed


@pytest.mark.slow
def test_show_as_a_process(recipe: Path) -> None:
    assert "net.0" in run("show", str(recipe))


def test_without_jsonargparse_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="jsonargparse"):
        main(["show", "recipe.json"])


class TestRecipeOfCheckpoints:
    @pytest.fixture
    def checkpoints(self, tmp_path: Path) -> list[str]:
        from cli_models import SmallMLP

        paths = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            paths.append(str(tmp_path / f"{seed}.ckpt"))
            torch.save({"state_dict": SmallMLP().state_dict()}, paths[-1])
        return paths

    def test_writes_what_the_checkpoints_hold(
        self, checkpoints: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        given = [f"--checkpoint={path}" for path in checkpoints]
        main(["recipe", MODEL[0], *given, "--out=found.json"])
        assert "Written: found.json" in capsys.readouterr().out
        recipe = InitRecipe.load("found.json")
        assert [layer.name for layer in recipe.layers] == ["net.0", "net.2"]
        assert all(layer.spread is not None for layer in recipe.layers)

    def test_a_wrong_file_is_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "bad.ckpt").write_text("no")
        with pytest.raises(SystemExit) as caught:
            main(["recipe", MODEL[0], f"--checkpoint={tmp_path / 'bad.ckpt'}"])
        assert caught.value.code == 2
        assert "bad.ckpt: is no checkpoint" in capsys.readouterr().err


def test_info_says_what_a_bug_report_should(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info"])
    said = capsys.readouterr().out
    assert re.search(r"^lightning 2\.\d+\.\d+", said, re.MULTILINE)
    assert "Trainer of lightning.pytorch: every private name that a probe needs is there" in said
    assert re.search(r"^CPU \w+, \d+ threads; GPU ", said, re.MULTILINE)


def test_info_names_what_a_new_release_has_moved(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr("lightning.pytorch.loops._TrainingEpochLoop")
    main(["info"])
    said = capsys.readouterr().out
    assert "Trainer of lightning.pytorch: lightning 2" in said
    assert "_TrainingEpochLoop`" in said
    assert not list(tmp_path.iterdir())
