"""Where the runs of a comparison are made: here, in processes, or on a Dask cluster.

An executor takes the runs and yields each with its records as it ends, in any order. Runs share
nothing, so the records do not depend on the executor.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import Any

from lightning_init.compare.records import FAILED, FULL, RunRecord
from lightning_init.compare.runs import RunTask, execute

Ended = tuple[RunTask, tuple[RunRecord, ...]]
Executor = Callable[[Sequence[RunTask]], Iterator[Ended]]

# A run that ends its process this often will do so again.
MOST_ATTEMPTS = 3
EXECUTORS = ("processes", "dask")


def make_executor(name: str, jobs: int, address: str | None = None) -> Executor:
    """Choose an executor.

    Args:
        name: "processes" or "dask".
        jobs: Runs at one time, at least 1. One job in "processes" is this very process.
        address: Of a running Dask scheduler; without one a cluster of `jobs` workers is started
            here and closed at the end.

    Raises:
        ValueError: An argument is out of its range, or Dask is not installed.
    """
    if name not in EXECUTORS:
        raise ValueError(f"`executor` must be one of {', '.join(EXECUTORS)}, got {name!r}.")
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise ValueError(f"`jobs` must be a number of runs at one time, at least 1, got {jobs!r}.")
    if name == "dask":
        if importlib.util.find_spec("distributed") is None:
            raise ValueError(
                "`executor='dask'` needs Dask; run `pip install 'lightning_init[dask]'`."
            )
        return lambda tasks: on_dask(tasks, jobs, address)
    if address is not None:
        raise ValueError("`address` is that of a Dask scheduler; give executor='dask' with it.")
    if jobs == 1:
        return in_this_process
    return lambda tasks: in_processes(tasks, jobs)


def in_this_process(tasks: Sequence[RunTask]) -> Iterator[Ended]:
    """Make one run after the other."""
    for task in tasks:
        yield task, execute(task)


def in_processes(tasks: Sequence[RunTask], jobs: int) -> Iterator[Ended]:
    """Make `jobs` runs at a time, in processes of their own.

    A process that dies (out of memory, killed) breaks the pool, so the runs that were in hand are
    made again, one at a time: none pays for another. One whose process has died `MOST_ATTEMPTS`
    times is recorded as failed.
    """
    waiting = list(tasks)
    while waiting:
        suspects = yield from _until_broken(waiting, jobs)
        for task in suspects:
            yield task, _alone(task)


def _until_broken(waiting: list[RunTask], jobs: int) -> Generator[Ended, None, list[RunTask]]:
    """Take runs off `waiting` and make them; return those that were in hand when a process died."""
    in_hand: dict[Future[tuple[RunRecord, ...]], RunTask] = {}
    pool = ProcessPoolExecutor(min(jobs, len(waiting)), mp_context=_process_context())
    try:
        while waiting or in_hand:
            # No more are submitted than run, so that a broken pool costs the runs in hand alone.
            while waiting and len(in_hand) < jobs:
                in_hand[pool.submit(execute, waiting[0])] = waiting[0]
                waiting.pop(0)
            done, _ = wait(in_hand, return_when=FIRST_COMPLETED)
            for future in done:
                records = future.result()
                yield in_hand.pop(future), records
    except BrokenProcessPool:
        pass
    finally:
        pool.shutdown(wait=not in_hand, cancel_futures=True)
    return list(in_hand.values())


def _alone(task: RunTask) -> tuple[RunRecord, ...]:
    for _ in range(MOST_ATTEMPTS - 1):
        with ProcessPoolExecutor(1, mp_context=_process_context()) as pool:
            try:
                return pool.submit(execute, task).result()
            except BrokenProcessPool:
                continue
    return (_lost(task),)


def on_dask(tasks: Sequence[RunTask], jobs: int, address: str | None) -> Iterator[Ended]:
    """Hand the runs to Dask, which makes a run again elsewhere if its worker dies."""
    distributed: Any = importlib.import_module("distributed")  # typed in part
    cluster = (
        None
        if address
        else distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
    )
    client = distributed.Client(address or cluster)
    try:
        # Two runs of one scheme and seed are two runs: nothing is looked up by its arguments.
        futures: dict[Any, RunTask] = {
            client.submit(execute, task, pure=False, retries=0): task for task in tasks
        }
        for future in distributed.as_completed(futures):
            task = futures[future]
            try:
                records = future.result()
            except distributed.KilledWorker:
                records = (_lost(task),)
            yield task, records
    finally:
        client.close()
        if cluster is not None:
            cluster.close()


def _process_context() -> BaseContext:
    """Processes that fork from a server which has imported torch and never ran anything.

    A fork of this process would inherit torch's threads, which do not survive it; a spawned one
    imports Lightning for seconds. Where there is no fork, they are spawned.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning_init.compare.runs"])
    return context


def _lost(task: RunTask) -> RunRecord:
    return RunRecord(
        scheme=task.scheme.label,
        seed=task.seed,
        budget=FULL,
        status=FAILED,
        reason="the process that made this run died again and again",
        steps=0,
        probe_steps=0,
        seconds=0.0,
        probe_seconds=0.0,
        curve=(),
        final={},
    )
