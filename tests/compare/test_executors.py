from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compared_model import Classifier, Points

from lightning_init.compare.executors import make_executor
from lightning_init.compare.records import RunRecord
from lightning_init.compare.runs import RunTask, execute
from lightning_init.compare.schemes import make_scheme

SCHEMES = ("he", "xavier")


def tasks(seeds: int = 2, **model: Any) -> list[RunTask]:
    return [
        RunTask(
            make_scheme(name),
            seed,
            functools.partial(Classifier, **model),
            Points,
            {"max_epochs": 2},
        )
        for seed in range(seeds)
        for name in SCHEMES
    ]


def outcomes(ended: Iterator[tuple[RunTask, tuple[RunRecord, ...]]]) -> dict[tuple[str, int], Any]:
    """What does not depend on the clock."""
    return {
        (task.scheme.label, task.seed): [
            (r.status, r.reason, r.steps, r.curve, r.final) for r in records
        ]
        for task, records in ended
    }


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, int], Any]:
    return {
        (task.scheme.label, task.seed): [
            (r.status, r.reason, r.steps, r.curve, r.final) for r in execute(task)
        ]
        for task in tasks()
    }


def test_one_job_runs_here(expected: dict[tuple[str, int], Any]) -> None:
    assert outcomes(make_executor("processes", 1)(tasks())) == expected


def test_processes_give_the_same(expected: dict[tuple[str, int], Any]) -> None:
    assert outcomes(make_executor("processes", 2)(tasks())) == expected


def test_a_run_that_kills_its_process_is_made_again(
    expected: dict[tuple[str, int], Any], tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb"
    bomb.touch()
    assert outcomes(make_executor("processes", 2)(tasks(bomb=str(bomb)))) == expected
    assert not bomb.exists()


class Deadly(Classifier):
    def on_train_start(self) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


def test_a_run_that_always_kills_its_process_is_a_failed_run() -> None:
    deadly = RunTask(make_scheme("he"), 0, Deadly, Points, {"max_epochs": 1})
    harmless = RunTask(make_scheme("he"), 1, Classifier, Points, {"max_epochs": 1})
    ended = {
        task.seed: records for task, records in make_executor("processes", 2)([deadly, harmless])
    }
    assert ended[0][0].status == "failed"
    assert ended[0][0].reason == "the process that made this run died again and again"
    assert ended[1][0].status == "finished"


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_though_a_worker_dies(
    expected: dict[tuple[str, int], Any], tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed; the extra `dask` brings it")
    bomb = tmp_path / "bomb"
    bomb.touch()
    assert outcomes(make_executor("dask", 2)(tasks(bomb=str(bomb)))) == expected
    assert not bomb.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("threads", 1), "`executor` must be one of processes, dask, got 'threads'"),
        (("processes", 0), "`jobs` must be a number of runs at one time, at least 1, got 0"),
        (("processes", True), "`jobs` must be"),
        (("processes", 2, "tcp://127.0.0.1:8786"), "`address` is that of a Dask scheduler"),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_executor(*arguments)


def test_dask_that_is_not_installed(monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs Dask; run `pip install"):
        make_executor("dask", 2)
