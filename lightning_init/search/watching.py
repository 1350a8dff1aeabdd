"""The real run is watched, so that it leaves what the next one can start from."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_init.inspection.weights import WeightInventory
from lightning_init.monitoring.run_series import RunSeries
from lightning_init.monitoring.weight_moments import measured_variances
from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.observer import loss_of
from lightning_init.recipes.measured import measured_layer
from lightning_init.recipes.recipe import InitRecipe
from lightning_init.reporting.report import InitReport
from lightning_init.reporting.run_files import RunFiles
from lightning_init.search.hindsight import ending_sentence, in_hindsight, score_sentence
from lightning_init.search.known_variances import optimizers_of, write_recipe
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.stationarity.run_verdict import RunVerdict, run_verdict
from lightning_init.user_line import warn_user


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
        read_from: The file that the run started from, which stays as it is.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        inventory: WeightInventory,
        settings: OptimalVarianceSettings,
        saved: Mapping[str, Any] | None = None,
        read_from: str | None = None,
    ) -> None:
        self._read_from = read_from
        self._inventory = inventory
        self._settings = settings
        names = [weight.name for weight in inventory.weights]
        self._series = RunSeries.begin(names, internals.planned_steps(trainer), saved)
        self._files: RunFiles | None = None
        self._broken = False
        self._batches_to_wait = 0
        self._loss: Tensor | None = None
        if trainer.is_global_zero:
            self._writing(self._open, trainer)
        if not self._series.steps:
            self.after_step(trainer, module)

    @property
    def state(self) -> dict[str, Any]:
        """The series so far, for a checkpoint."""
        return self._series.state_dict()

    def after_step(
        self, trainer: Trainer, module: LightningModule, outputs_of_step: Any = None
    ) -> None:
        """Take a sample if one is due; on every rank, because shards are measured together."""
        loss = loss_of(outputs_of_step)
        self._loss = None if loss is None else loss.detach()
        # To ask the Trainer where it is costs as much as everything else that waiting takes.
        self._batches_to_wait -= 1
        if self._batches_to_wait > 0:
            return
        step = trainer.global_step
        # Without manual optimization a batch is one optimizer step at most.
        is_counted = module.automatic_optimization
        self._batches_to_wait = self._series.steps_to_go(step) if is_counted else 0
        if not self._series.is_due(step):
            return
        self._writing(self._sample, module, step)

    def _sample(self, module: LightningModule, step: int) -> None:
        variances = self._measured(module)
        self._series.append(step, variances)
        if self._files is not None:
            self._files.write(step, variances)

    def finish(
        self,
        trainer: Trainer,
        module: LightningModule,
        report: InitReport | None,
        recipe_path: str | None = None,
    ) -> tuple[InitRecipe | None, InitReport | None]:
        """What the run ended at, as a recipe, and the probe's report in hindsight.

        There is no recipe of a run that diverged.
        """
        weights, step = self._inventory.weights, trainer.global_step
        ends = self._measured(module)
        if self._files is not None and step > self._series.steps[-1]:
            self._writing(self._files.write, step, ends)
        recipe = None
        if lost := self._lost(ends):
            rank_zero_info(
                f"OptimalVarianceInit: the run ended with {lost}: no recipe is worth starting"
                " from, and none was written."
            )
        else:
            recipe = self._recipe(trainer, ends)
            self._writing(self._save, trainer, recipe, recipe_path)
        if report is None:
            return recipe, None
        by_name = {weight.name: end for weight, end in zip(weights, ends, strict=True)}
        scored = in_hindsight(report.layers, by_name, self._settings.detector.tolerance)
        self._tell(score_sentence(scored), step)
        return recipe, replace(report, layers=scored)

    def _measured(self, module: LightningModule) -> list[float]:
        return measured_variances(module, self._inventory.weights, self._settings.moment)

    def _lost(self, ends: Sequence[float]) -> str:
        """What is not finite at the end of the run; empty if all is."""
        if self._loss is not None and not self._loss.isfinite().all():
            return f"a loss of {float(self._loss.float().mean())}"
        for weight, end in zip(self._inventory.weights, ends, strict=True):
            if not math.isfinite(end):
                return f"a variance of {weight.name!r} that is not finite"
        return ""

    def _recipe(self, trainer: Trainer, ends: Sequence[float]) -> InitRecipe:
        verdicts = self._verdicts()
        rows = [
            measured_layer(
                weight,
                variance,
                change=_finite(verdicts[weight.name].change),
                verdict=verdicts[weight.name].verdict.value,
            )
            for weight, variance in zip(self._inventory.weights, ends, strict=True)
        ]
        optimizers, settings = optimizers_of(trainer), self._settings.pairs()
        return InitRecipe.from_measured(rows, self._inventory, optimizers, settings)

    def _verdicts(self) -> dict[str, RunVerdict]:
        series, detector = self._series, self._settings.detector
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

    def _save(self, trainer: Trainer, recipe: InitRecipe, given: str | None) -> None:
        path = write_recipe(trainer, recipe, given, self._read_from)
        where = (
            "`callback.run_recipe` holds it, `.save(path)` keeps it"
            if path is None
            else f"OptimalVarianceInit(recipe={os.fspath(path)!r})"
        )
        ended = ending_sentence(self._verdicts())
        rank_zero_info(
            f"OptimalVarianceInit: the next run can start where this one {ended}: {where}."
        )

    def _open(self, trainer: Trainer) -> None:
        series = self._series
        self._files = RunFiles(trainer.loggers, series.layers, series.rows())

    def _writing(self, write: Any, *arguments: Any) -> None:
        """Write; neither a full disk nor another failure is a reason to end a training."""
        try:
            write(*arguments)
        except Exception as error:
            if not self._broken:
                reason = f"{type(error).__name__}: {error}"
                warn_user(f"OptimalVarianceInit: the run's variances are not kept ({reason}).")
            self._broken = True


def _finite(change: float) -> float | None:
    return change if math.isfinite(change) else None
