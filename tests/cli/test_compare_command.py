"""`python -m lightning_init compare`: arguments to runs, the report on the screen and on disk."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_init.__main__ import main
from lightning_init.cli.compare import FromConfig

ROOMS = [str(Path(__file__).parents[1] / "compare"), str(Path(__file__).parent)]
TASK = ["compare", "--model=compared_model.Classifier", "--data=compared_model.Points"]
SMALL = [*TASK, "--inits=he,xavier", "--seeds=2", "--trainer.max_epochs=2"]


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in ROOMS:
        monkeypatch.syspath_prepend(room)


def finals(out: Path) -> list[Any]:
    lines = [line for file in sorted((out / "runs").iterdir()) for line in file.open()]
    return [json.loads(line)["final"] for line in lines]


def test_report_is_printed_and_written(tmp_path: Path, capsys: Any) -> None:
    main([*SMALL, f"--out={tmp_path}", "--model.learning_rate=0.05", "--reference=he"])
    printed = capsys.readouterr().out
    assert printed.startswith("# Comparison of initializations")
    assert "xavier against he, final val_loss" in printed
    assert f"  {tmp_path}/report.md" in printed
    assert (tmp_path / "report.md").exists()
    assert len(list((tmp_path / "runs").iterdir())) == 4
    settings = json.loads((tmp_path / "comparison.json").read_text())
    assert settings["trainer"] == {"max_epochs": 2}
    assert "'learning_rate': 0.05" in settings["model"]


@pytest.mark.slow
def test_processes_and_one_process_give_the_same(tmp_path: Path) -> None:
    main([*SMALL, f"--out={tmp_path / 'one'}"])
    main([*SMALL, f"--out={tmp_path / 'two'}", "--jobs=2"])
    assert finals(tmp_path / "one") == finals(tmp_path / "two")
    assert len(finals(tmp_path / "one")) == 4


def test_every_flag_reaches_the_comparison(tmp_path: Path, capsys: Any) -> None:
    main(
        [
            *TASK,
            "--inits=he,optimal:max_probe_steps=4,on_unsettled=keep,compared_model.halve",
            "--seeds=[3,5]",
            f"--out={tmp_path}",
            "--trainer.max_steps=8",
            "--metrics={val_loss: min}",
            "--reference=he",
            "--equal_budget=false",
            "--repeat_failed=true",
            "--threads=2",
        ]
    )
    printed = capsys.readouterr().out
    assert "val_accuracy" not in printed
    assert "compared_model.halve against he" in printed
    assert "equal budget" not in printed
    files = sorted((tmp_path / "runs").iterdir())
    assert len(files) == 6
    records = [json.loads(file.read_text()) for file in files]
    assert {record["seed"] for record in records} == {3, 5}
    assert {record["steps"] for record in records} == {8}
    assert json.loads((tmp_path / "comparison.json").read_text())["threads"] == 2


def test_yaml_file_and_environment(tmp_path: Path, monkeypatch: Any) -> None:
    config = tmp_path / "compare.yaml"
    config.write_text(
        "model:\n  class_path: compared_model.Classifier\n"
        "data:\n  class_path: compared_model.Points\n  init_args: {points: 48}\n"
        f"inits: he,default\nseeds: 1\nout: {tmp_path / 'out'}\ntrainer: {{max_epochs: 1}}\n"
    )
    monkeypatch.setenv("PL_COMPARE_SEEDS", "2")
    main(["compare", f"--config={config}"])
    assert len(finals(tmp_path / "out")) == 2  # the file wins over the environment


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--inits=glorot", "--out=x"], "`inits` has no scheme 'glorot'"),
        (["--inits=he", "--seeds=0", "--out=x"], "`seeds` must be at least 1"),
        (["--inits=he"], "out"),
        (["--inits=he", "--out=x", "--jobs=many"], "jobs"),
        (["--inits=he", "--out=x", "--trainer.epochs=1"], "trainer.epochs"),
    ],
)
def test_wrong_arguments_end_in_one_line(
    arguments: list[str], message: str, capsys: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main([*TASK, *arguments])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown[shown.index("error: ") :]
    assert not (tmp_path / "x").exists()


def test_factories_travel_to_other_processes() -> None:
    config = {"class_path": "compared_model.Classifier", "init_args": {"dropout": 0.5}}
    factory = pickle.loads(pickle.dumps(FromConfig("model", config)))
    one, other = factory(), factory()
    assert one is not other
    assert one.net[2].p == 0.5


@pytest.mark.slow
def test_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_init", *SMALL, f"--out={tmp_path}"],
        env={"PYTHONPATH": ROOMS[0], "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "# Comparison of initializations" in done.stdout
    assert "Comparing" in done.stderr  # the bar
