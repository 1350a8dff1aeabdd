"""`compare`: the same training from several initializations, seed by seed."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from tqdm.auto import tqdm  # a dependency of Lightning's

from lightning_init.compare.executors import check_workers, run_all
from lightning_init.compare.pilots import with_pilots
from lightning_init.compare.quantities import find_quantities
from lightning_init.compare.records import FULL, RunRecord
from lightning_init.compare.report import ComparisonReport, summarize
from lightning_init.compare.runs import TRAINER_DEFAULTS, DataFactory, ModelFactory, RunTask
from lightning_init.compare.schemes import Initialize, Scheme, make_schemes
from lightning_init.compare.sentences import out_of_reach
from lightning_init.compare.store import RunStore
from lightning_init.compare.tables import scheme_pairs


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Args:
        records: Every run, by scheme in the order given, then by seed.
        report: Tables, sentences and plots; `print(comparison.report.to_markdown())`.
        files: What was written to `out`.
    """

    records: tuple[RunRecord, ...]
    report: ComparisonReport
    files: tuple[Path, ...]


def compare(
    model: ModelFactory,
    data: DataFactory | None = None,
    inits: Sequence[str | Scheme | Initialize] = ("default", "he", "fractional", "optimal"),
    seeds: int | Sequence[int] = 20,
    *,
    out: str | os.PathLike[str],
    trainer: Mapping[str, Any] | None = None,
    metrics: Mapping[str, str] | None = None,
    reference: str | None = None,
    equal_budget: bool = True,
    jobs: int = 1,
    address: str | None = None,
    threads: int = 1,
    repeat_failed: bool = False,
    progress: bool = True,
) -> Comparison:
    """Train from every initialization with every seed, and say what the paired differences show.

    For one seed all runs have the same model, data order, dropout masks and, where the schemes
    allow, the same standard normal draws: they differ in the initialization alone. Every run is
    written to `out` as it ends and is not made again, so an interrupted comparison goes on where it
    stopped.

    Args:
        model: Makes the module, e.g. `functools.partial(MyModule, lr=0.1)`.
        data: Makes a datamodule or a training loader; None if the module has its own loaders.
        inits: Names with options ("he", "fractional:order=1.0", "optimal:granularity=gain"),
            functions of a module and a seed, or schemes; see `schemes.make_scheme`.
        seeds: How many, counted from 0, or the seeds themselves.
        out: Directory of the runs and of the report.
        trainer: Arguments of the Trainer, such as max_epochs. Callbacks of the training belong in
            the module's `configure_callbacks`, so that each run has its own.
        metrics: Logged metrics to compare, with "min" or "max" as the better direction; None is
            every one, its direction guessed from its name.
        reference: The scheme that the others are compared with; None compares all pairs.
        equal_budget: Charge the steps of a probe: the real run is made that much shorter too, and
            both are in the report. False makes the uncharged runs alone.
        jobs: Runs at one time; more than one are made by workers of Dask.
        address: Of a Dask scheduler; None starts a cluster of `jobs` workers here.
        threads: Of torch, per run. One makes results the same wherever a run is made.
        repeat_failed: Make runs again that an exception ended before.
        progress: Whether to show a bar with the time left.

    Returns:
        Every run and the report, which is also written to `out`.

    Raises:
        ValueError: An argument is wrong, or `out` holds another comparison; no run is made.
    """
    _check_factory("model", model, "LightningModule")
    if data is not None:
        _check_factory("data", data, "datamodule or a loader")
    schemes = make_schemes(inits)
    numbers = _seeds(seeds)
    given = _trainer_arguments(trainer)
    pairs = scheme_pairs([scheme.label for scheme in schemes], reference)
    find_quantities((), metrics)  # refuses a direction that is none
    check_workers(jobs, address)
    store = RunStore(out, {"model": model, "data": data, "trainer": given, "threads": threads})
    plain = RunTask(schemes[0], 0, model, data, given, equal_budget, threads)
    if said := out_of_reach(len(numbers), _comparisons(pairs, equal_budget)):
        rank_zero_warn(said)
    schemes = with_pilots(schemes, plain, Path(out) / "pilots")
    # Seed by seed, so that what is there after an interrupt is paired.
    tasks = [replace(plain, scheme=s, seed=n) for n, s in product(numbers, schemes)]
    kept = {task.name: records for task in tasks if (records := store.load(task, repeat_failed))}
    missing = [task for task in tasks if task.name not in kept]
    made = tqdm(
        run_all(missing, jobs, address),
        total=len(tasks),
        initial=len(kept),
        desc="Comparing",
        unit="run",
        disable=not progress,
    )
    for task, records in made:
        store.keep(task, records)
        kept[task.name] = records
    records = tuple(
        record
        # By scheme, then by seed: sorting leaves the seeds in their order.
        for task in sorted(tasks, key=lambda task: schemes.index(task.scheme))
        for record in kept[task.name]
        if equal_budget or record.budget == FULL
    )
    report = summarize(records, metrics, reference)
    return Comparison(records, report, tuple(report.write(out)))


def _comparisons(pairs: Sequence[tuple[str, str]], equal_budget: bool) -> int:
    """How many are corrected for together: two of each pair with a probe, charged and not."""
    probes = [any(x.startswith("optimal") and "recipe=" not in x for x in pair) for pair in pairs]
    return len(pairs) + sum(probes) * equal_budget


def _seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        if seeds < 1:
            raise ValueError(f"`seeds` must be at least 1, got {seeds}.")
        return tuple(range(seeds))
    if isinstance(seeds, (bool, str)) or len(set(seeds)) != len(seeds) or not seeds:
        raise ValueError(f"`seeds` must be a number, or different integers, got {seeds!r}.")
    return tuple(seeds)


def _trainer_arguments(trainer: Mapping[str, Any] | None) -> dict[str, Any]:
    given = dict(trainer or {})
    if given.get("callbacks"):
        raise ValueError(
            "`trainer` may not hold callbacks, which would be shared by all runs; return them from"
            " the module's `configure_callbacks`."
        )
    given.pop("callbacks", None)
    for name in given:
        if name not in inspect.signature(Trainer.__init__).parameters:
            raise ValueError(f"`trainer` has no argument {name!r}; see lightning's Trainer.")
    return {
        name: value for name, value in given.items() if TRAINER_DEFAULTS.get(name, ...) != value
    }


def _check_factory(name: str, factory: Any, product: str) -> None:
    # A LightningModule is callable too, but one object for all runs would be no comparison.
    if isinstance(factory, LightningModule) or not callable(factory):
        raise ValueError(
            f"`{name}` must be a function that makes a {product}, such as a class or"
            f" functools.partial of it, got {type(factory).__name__}."
        )
