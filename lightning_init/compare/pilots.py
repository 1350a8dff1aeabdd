"""Earlier runs that a comparison starts from: one training whose V(W) all seeds share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_init import InitRecipe
from lightning_init.compare.records import FINISHED, RunRecord
from lightning_init.compare.runs import RunTask, execute
from lightning_init.compare.schemes import FirstBatch, Pilot, Scheme, make_scheme


def with_pilots(schemes: Sequence[Scheme], task: RunTask, folder: Path) -> tuple[Scheme, ...]:
    """Make the pilots that schemes ask for, unless they are there, and let the schemes use them.

    Args:
        schemes: Those of the comparison.
        task: How its runs are made; its scheme and seed are of no matter.
        folder: Where the recipes and the records of pilots are kept.

    Raises:
        ValueError: The training of a pilot failed.
    """
    return tuple(
        _started(scheme, scheme.build, task, folder) if isinstance(scheme.build, Pilot) else scheme
        for scheme in schemes
    )


def _started(scheme: Scheme, pilot: Pilot, task: RunTask, folder: Path) -> Scheme:
    recipe, kept = folder / f"{pilot.name}.json", folder / f"{pilot.name}.record.json"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(_train(pilot, task, recipe).to_json())
    record = RunRecord.from_json(kept.read_text())
    if record.status != FINISHED:
        kept.unlink()
        raise ValueError(f"`inits`: the pilot of {scheme.label!r} {record.status}: {record.reason}")
    return replace(scheme, build=partial(pilot, recipe=str(recipe)), pilot_steps=record.steps)


def _train(pilot: Pilot, task: RunTask, recipe: Path) -> RunRecord:
    def build(seed: int, first_batch: FirstBatch) -> list[Callback]:
        start = make_scheme(pilot.start).build(seed, first_batch)
        return [*start, _KeepVariances(recipe, pilot.share)]

    scheme = Scheme(pilot.name, build)
    return execute(replace(task, scheme=scheme, seed=pilot.seed, equal_budget=False))[0]


class _KeepVariances(Callback):
    """Ends a run after a share of its steps, and writes what its weights ended at."""

    def __init__(self, path: Path, share: float) -> None:
        self._path = path
        self._share = share

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        planned = trainer.estimated_stepping_batches
        if self._share < 1 and trainer.global_step >= round(self._share * planned):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        InitRecipe.from_module(pl_module).save(self._path)
