"""The real run is watched, so that it leaves what the next one can start from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lightning_init.inspection.weights import WeightInventory
from lightning_init.monitoring.run_series import RunSeries
from lightning_init.monitoring.run_watch import RunWatch, measured_variances
from lightning_init.probe import lightning_internals as internals
from lightning_init.recipes.measured import MeasuredLayer
from lightning_init.recipes.recipe import InitRecipe
from lightning_init.reporting.report import InitReport
from lightning_init.reporting.run_files import RunFiles, local_directory
from lightning_init.search.hindsight import in_hindsight, score_sentence
from lightning_init.search.known_variances import RECIPE_FILE, optimizers_of
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.stationarity.run_verdict import RunVerdict, run_verdict


class Watching:
    """Samples the variances of the real run, writes them, and sums up at its end.

    Nothing of the run changes: weights are read, random streams are not touched, and what cannot
    be written is warned of once.

    Args:
        trainer: Its loggers get the series.
        module: What trains.
        inventory: The weights to watch.
        settings: Which moment V is, and the tolerance of a verdict.
        saved: `state_dict` of the run that this one resumes, or None.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        inventory: WeightInventory,
        settings: OptimalVarianceSettings,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self._inventory = inventory
        self._settings = settings
        series = None if saved is None else RunSeries.from_state_dict(saved)
        planned = internals.planned_steps(trainer)
        self._watch = RunWatch(inventory.weights, planned, settings.moment, series)
        self._files: RunFiles | None = None
        self._broken = False
        if trainer.is_global_zero:
            self._writing(self._open, trainer)
        if not self._watch.series.steps:
            self.after_step(trainer, module)

    @property
    def state(self) -> dict[str, Any]:
        """The series so far, for a checkpoint."""
        return self._watch.series.state_dict()

    def after_step(self, trainer: Trainer, module: LightningModule) -> None:
        """Take a sample if one is due; on every rank, because shards are measured together."""
        step = trainer.global_step
        if not self._watch.is_due(step):
            return
        variances = self._watch.sample(module, step)
        if self._files is not None:
            self._writing(self._files.write, step, variances)

    def finish(
        self,
        trainer: Trainer,
        module: LightningModule,
        report: InitReport | None,
        recipe_path: str | None = None,
    ) -> tuple[InitRecipe, InitReport | None]:
        """What the run ended at, as a recipe, and the probe's report in hindsight."""
        weights = self._inventory.weights
        ends = measured_variances(module, weights, self._settings.moment)
        verdicts = self._verdicts()
        rows = [
            MeasuredLayer(weight, variance, verdict=verdicts[weight.name].verdict.value)
            for weight, variance in zip(weights, ends, strict=True)
        ]
        recipe = InitRecipe.from_measured(
            rows, self._inventory, optimizers_of(trainer), self._settings.pairs()
        )
        if trainer.is_global_zero:
            self._writing(_save, trainer, recipe, recipe_path)
        if report is None:
            return recipe, None
        by_name = {weight.name: end for weight, end in zip(weights, ends, strict=True)}
        scored = in_hindsight(report.layers, by_name, self._settings.detector.tolerance)
        self._tell(score_sentence(scored), trainer.global_step)
        return recipe, replace(report, layers=scored)

    def _verdicts(self) -> dict[str, RunVerdict]:
        series, detector = self._watch.series, self._settings.detector
        return {
            layer: run_verdict(series.variances(layer), detector.tolerance, detector.confidence)
            for layer in series.layers
        }

    def _tell(self, sentence: str, step: int) -> None:
        if not sentence:
            return
        rank_zero_info(f"OptimalVarianceInit: {sentence}")
        if self._files is not None:
            self._writing(self._files.write_text, "score", sentence, step)

    def _open(self, trainer: Trainer) -> None:
        series = self._watch.series
        self._files = RunFiles(trainer.loggers, series.layers, series.rows())

    def _writing(self, write: Any, *arguments: Any) -> None:
        """Write; a full disk is no reason to end a training."""
        try:
            write(*arguments)
        except OSError as error:
            if not self._broken:
                rank_zero_warn(f"OptimalVarianceInit: the run's variances are not kept: {error}.")
            self._broken = True


def _save(trainer: Trainer, recipe: InitRecipe, given: str | None) -> None:
    folder = local_directory(trainer.loggers) or Path(trainer.default_root_dir)
    path = given or os.path.join(folder, RECIPE_FILE)
    recipe.save(path)
    rank_zero_info(
        "OptimalVarianceInit: the next run can start where this one ended:"
        f" OptimalVarianceInit(recipe={os.fspath(path)!r})."
    )
