"""Runs in this process and by the workers of a Dask cluster; one that dies is made again."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compared_model import Classifier, Points

from lightning_init.compare.executors import check_workers, run_all
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
    assert outcomes(run_all(tasks(), 1)) == expected


def test_no_run_starts_no_cluster(monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    assert list(run_all([], 2)) == []


def test_a_cluster_elsewhere_gives_the_same(expected: dict[tuple[str, int], Any]) -> None:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        assert outcomes(run_all(tasks(), 1, cluster.scheduler_address)) == expected


@pytest.mark.slow
def test_a_run_that_kills_its_process_is_made_again(
    expected: dict[tuple[str, int], Any], tmp_path: Path
) -> None:
    bomb = tmp_path / "bomb"
    bomb.touch()
    assert outcomes(run_all(tasks(bomb=str(bomb)), 2)) == expected
    assert not bomb.exists()


class Deadly(Classifier):
    def on_train_start(self) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_run_that_always_kills_its_process_is_a_failed_run() -> None:
    deadly = RunTask(make_scheme("he"), 0, Deadly, Points, {"max_epochs": 1})
    harmless = RunTask(make_scheme("he"), 1, Classifier, Points, {"max_epochs": 1})
    ended = {task.seed: records for task, records in run_all([deadly, harmless], 2)}
    assert ended[0][0].status == "failed"
    assert ended[0][0].reason == "the process that made this run died again and again"
    assert ended[1][0].status == "finished"


@pytest.mark.slow
def test_what_cannot_be_imported_travels_too() -> None:
    task = RunTask(make_scheme("he"), 0, lambda: Classifier(), Points, {"max_epochs": 1})
    ((_, (record,)),) = run_all([task], 2)
    assert (record.status, record.reason) == ("finished", "")


@pytest.mark.parametrize("jobs", [0, True, 1.5])
def test_wrong_numbers_of_jobs(jobs: Any) -> None:
    with pytest.raises(ValueError, match=f"`jobs` must be .*, at least 1, got {jobs}"):
        check_workers(jobs, None)


@pytest.mark.parametrize(("jobs", "address"), [(2, None), (1, "tcp://127.0.0.1:8786")])
def test_dask_that_is_not_installed(monkeypatch: Any, jobs: int, address: str | None) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_workers(1, None)
    with pytest.raises(ValueError, match="need Dask; run `pip install"):
        check_workers(jobs, address)
