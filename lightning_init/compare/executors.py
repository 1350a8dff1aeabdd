"""Where the runs of a comparison are made: here, in processes, or on a Dask cluster.

An executor takes the runs and yields each with its records as it ends, in any order. Runs share
nothing, so the records do not depend on the executor.
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from typing import Any

from lightning_init.compare.records import FAILED, FULL, RunRecord
from lightning_init.compare.runs import RunTask, execute

Ended = tuple[RunTask, tuple[RunRecord, ...]]
Executor = Callable[[Sequence[RunTask]], Iterator[Ended]]

# A run that ends its process this often will do so again.
MOST_ATTEMPTS = 3
EXECUTORS = ("processes", "dask")


def make_executor(name: str, jobs: int, address: str | None = None) -> Executor:
    """Choose an executor; one job in "processes" is this very process.

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
        return lambda tasks: _on_dask(tasks, jobs, address)
    if address is not None:
        raise ValueError("`address` is that of a Dask scheduler; give executor='dask' with it.")
    if jobs == 1:
        return lambda tasks: ((task, execute(task)) for task in tasks)
    return lambda tasks: _in_processes(tasks, jobs)


def _in_processes(tasks: Sequence[RunTask], jobs: int) -> Iterator[Ended]:
    """Make `jobs` runs at a time; one whose process dies is made again in another."""
    own = threading.local()

    def run(task: RunTask) -> tuple[RunRecord, ...]:
        for _ in range(MOST_ATTEMPTS):
            # One process per thread, which ends with it: a pool of several breaks as a whole.
            own.pool = getattr(own, "pool", None) or _one_process()
            try:
                records: tuple[RunRecord, ...] = own.pool.submit(execute, task).result()
                return records
            except BrokenProcessPool:
                own.pool = None
        return (_lost(task),)

    with ThreadPoolExecutor(jobs) as threads:
        futures = {threads.submit(run, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _one_process() -> ProcessPoolExecutor:
    """A process that forks from a server which has imported torch and never ran anything.

    A fork of this process would inherit torch's threads, which do not survive it; a spawned one
    imports Lightning for seconds. Where there is no fork, it is spawned.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    context.set_forkserver_preload(["lightning_init.compare.runs"])
    return ProcessPoolExecutor(1, mp_context=context)


def _on_dask(tasks: Sequence[RunTask], jobs: int, address: str | None) -> Iterator[Ended]:
    """Hand the runs to Dask, which makes a run again elsewhere if its worker dies."""
    distributed: Any = importlib.import_module("distributed")  # typed in part
    with ExitStack() as stack:
        cluster = address or stack.enter_context(
            distributed.LocalCluster(n_workers=jobs, threads_per_worker=1, dashboard_address=None)
        )
        client = stack.enter_context(distributed.Client(cluster))
        # Two runs of one scheme and seed are two runs: nothing is looked up by its arguments.
        futures = {client.submit(execute, task, pure=False): task for task in tasks}
        for future in distributed.as_completed(futures):
            try:
                yield futures[future], future.result()
            except distributed.KilledWorker:
                yield futures[future], (_lost(futures[future]),)


def _lost(task: RunTask) -> RunRecord:
    reason = "the process that made this run died again and again"
    return RunRecord(task.scheme.label, task.seed, FULL, FAILED, reason)
