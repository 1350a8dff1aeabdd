"""Where the runs of a comparison are made: in this process, or by the workers of a Dask cluster.

Runs share nothing, so the records do not depend on where they are made.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from lightning_init.compare.records import FAILED, FULL, RunRecord
from lightning_init.compare.runs import RunTask, execute


def check_workers(jobs: int, address: str | None) -> None:
    """Refuse what `run_all` cannot do.

    Raises:
        ValueError: The number of jobs is none, or Dask is needed and not installed.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise ValueError(f"`jobs` must be a number of runs at one time, at least 1, got {jobs!r}.")
    if (jobs > 1 or address) and importlib.util.find_spec("distributed") is None:
        raise ValueError(
            "`jobs` above 1 and `address` need Dask; run `pip install 'lightning_init[compare]'`."
        )


def run_all(
    tasks: Sequence[RunTask], jobs: int, address: str | None = None
) -> Iterator[tuple[RunTask, tuple[RunRecord, ...]]]:
    """Yield every run with its records as it ends, in any order.

    Args:
        tasks: The runs.
        jobs: How many at one time; one, without an address, runs in this very process.
        address: Of a Dask scheduler; None starts a cluster of `jobs` workers here.
    """
    if not tasks or (jobs == 1 and address is None):
        yield from ((task, execute(task)) for task in tasks)
        return
    distributed: Any = importlib.import_module("distributed")  # typed in part
    # Daemons may have no children, and the loaders of a run may have workers.
    settings = importlib.import_module("dask").config.set({"distributed.worker.daemon": False})
    with ExitStack() as stack:
        stack.enter_context(settings)
        cluster = address or stack.enter_context(
            distributed.LocalCluster(
                n_workers=jobs, threads_per_worker=1, memory_limit=None, dashboard_address=None
            )
        )
        client = stack.enter_context(distributed.Client(cluster))
        # Two runs of one scheme and seed are two runs: nothing is looked up by its arguments.
        futures = {client.submit(execute, task, pure=False): task for task in tasks}
        for future in distributed.as_completed(list(futures)):
            task = futures.pop(future)
            try:
                records = future.result()
            except distributed.KilledWorker:
                # Dask made it again three times, each time in a process of its own.
                reason = "the process that made this run died again and again"
                records = (RunRecord(task.scheme.label, task.seed, FULL, FAILED, reason),)
            # Else it would be made again when the worker that keeps its records dies.
            future.release()
            yield task, records
