"""One probe: train a copy, sample V, stop when no further step can change what a layer gets."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_init.inspection.weights import Weight
from lightning_init.monitoring.variance_monitor import VarianceMonitor
from lightning_init.probe import ForeseenRun, ProbeRun, run_probe
from lightning_init.probe.limits import ProbeEnd
from lightning_init.search.failures import EndlessRun
from lightning_init.search.health import ProbeHealth
from lightning_init.search.layer_rates import LayerRates
from lightning_init.search.progress import ProbeProgress
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.stationarity import Ending, ending, is_too_short, looked_at


@dataclass(frozen=True)
class ProbeResult:
    """What one probe found.

    Args:
        monitor: Samples and verdicts.
        run: How the probe went.
        initial: Realised V of each layer at the probe's start.
        means: Mean of each layer's weights at the probe's end.
        endings: Why the probe could no longer change what each layer gets; None if it could.
        budget: Most optimizer steps that the probe could have taken.
        rates: Learning rates and decays of the layers, in the probe and foreseen for the run.
        divergence: Why nothing of the probe can be trusted, as a clause; empty if it can.
        losses: Mean training loss at the probe's start and at its end.
    """

    monitor: VarianceMonitor
    run: ProbeRun
    initial: tuple[float, ...]
    means: tuple[float, ...]
    endings: tuple[Ending | None, ...]
    budget: int
    rates: LayerRates
    divergence: str
    losses: tuple[float, float]


class VarianceProbe:
    """Probes from the weights that the module holds now.

    Args:
        trainer: The Trainer whose fit is about to start.
        weights: The monitored weights.
        settings: What to do.
        exact_steps: Train for so many optimizer steps, settled or not; None to stop when settled.
        description: Text of the progress bar.
        verifies: Whether its first steps are run once more, to see that everything came back.
    """

    def __init__(
        self,
        trainer: Trainer,
        weights: Sequence[Weight],
        settings: OptimalVarianceSettings,
        exact_steps: int | None = None,
        description: str = "Probing weight variance",
        verifies: bool = False,
    ) -> None:
        self._trainer = trainer
        self._weights = weights
        self._settings = settings
        self._exact_steps = exact_steps
        self._budget = 0
        self._steps = 0
        self._planned_steps = 0.0
        self._began = 0.0
        self._result: ProbeResult | None = None
        self._first_sample = 0
        self._progress = ProbeProgress(trainer, description=description)
        self._verify_steps = settings.limits.verify_steps if verifies else 0
        self._monitor: VarianceMonitor | None = None
        self._initial: list[float] = []
        self._health = ProbeHealth(trainer)
        self._rates: LayerRates | None = None
        self._endings: list[Ending | None] = [None] * len(weights)
        self._looks: list[float] = [-1.0] * len(weights)

    def run(self, module: LightningModule) -> ProbeResult:
        """Train a copy of ``module``, which stays as it is.

        Raises:
            EndlessRun: If the budget is a share and the run plans no end.
            MisconfigurationException: If no step was taken, though there was one to take.
        """
        steps = self._settings.limits.max_steps if self._exact_steps is None else self._exact_steps
        limits = replace(self._settings.limits, max_steps=steps, verify_steps=self._verify_steps)
        self._began = time.perf_counter()
        with self._progress:
            run = run_probe(self._trainer, module, self._on_step, limits, self._on_start)
        trained = run.steps > 0 or Ending.TOO_SHORT in self._endings
        if self._monitor is None or self._rates is None or not trained:
            raise MisconfigurationException(
                "OptimalVarianceInit: the probe took no optimizer step; check that the training"
                " data are not empty and that `training_step` returns a loss."
            )
        losses = self._health.loss_ends(self._budget)
        self._result = self._found(run, self._monitor, self._rates, losses)
        return self._result

    def so_far(self) -> ProbeResult | None:
        """What the probe has found, when it was interrupted on the way; None before a step."""
        if self._result is not None or self._monitor is None or self._rates is None:
            return self._result
        seconds = time.perf_counter() - self._began
        run = ProbeRun(ProbeEnd.INTERRUPTED, self._steps, self._planned_steps, seconds)
        alone = self._trainer.world_size == 1  # other ranks do not answer any more
        losses = self._health.loss_ends(self._budget) if alone else (math.nan, math.nan)
        return self._found(run, self._monitor, self._rates, losses) if self._steps else None

    def _found(
        self,
        run: ProbeRun,
        monitor: VarianceMonitor,
        rates: LayerRates,
        losses: tuple[float, float],
    ) -> ProbeResult:
        return ProbeResult(
            monitor=monitor,
            run=run,
            initial=tuple(self._initial),
            means=tuple(monitor.means),
            endings=tuple(self._endings),
            budget=self._budget,
            rates=rates,
            divergence=self._health.divergence,
            losses=losses,
        )

    def _on_start(self, copied: LightningModule, foreseen: ForeseenRun) -> bool:
        """Get ready; whether no step can change anything, because they are too few."""
        settings, planned = self._settings, foreseen.planned_steps
        budget = settings.budget(planned) if self._exact_steps is None else self._exact_steps
        if budget == 0:
            raise EndlessRun(settings.limits.max_steps)
        self._budget, self._planned_steps = budget, planned
        self._progress.expect(budget)
        self._rates = LayerRates.begin(copied, self._weights, self._trainer.optimizers, foreseen)
        self._first_sample = self._rates.climb_steps(settings.limits.learning_rate, budget)
        monitored = budget - self._first_sample
        self._monitor = VarianceMonitor(
            self._weights,
            settings.detector,
            max(settings.horizon_steps(planned), budget),
            monitored,
            settings.interval(monitored),
            settings.moment,
            dense_start=settings.sample_every_n_steps is None,
            first_step=self._first_sample,
        )
        self._initial = self._monitor.measure(copied)
        self._monitor.entries_before = self._monitor.some_entries(copied)
        futile_ends = settings.futile_ends and self._exact_steps is None
        if too_short := futile_ends and is_too_short(self._monitor.states[0]):
            self._endings = [Ending.TOO_SHORT] * len(self._weights)
        return too_short

    def _on_step(self, copied: LightningModule, step: int, outputs_of_step: Any) -> bool:
        monitor, self._steps = self._monitor, step
        assert monitor is not None
        assert self._rates is not None
        self._health.follow(outputs_of_step)
        is_sample = monitor.is_due(step)
        climbs = step <= self._first_sample and step % monitor.interval == 0
        if not (is_sample or climbs or step >= self._budget):
            return False
        if is_sample:
            optimizers = self._trainer.optimizers
            monitor.sample(copied, step, self._rates.now(optimizers), optimizers)
        diverged = self._health.check(monitor, self._initial, step, self._budget)
        done = not diverged and is_sample and self._is_done(monitor)
        self._progress.advance(step, f"{monitor.settled}/{len(monitor.weights)} layers settled")
        stops = self._trainer.strategy.reduce_boolean_decision(done) or diverged
        if stops or step >= self._budget or step + monitor.interval > self._budget:
            monitor.entries_after = monitor.some_entries(copied)
        return stops

    def _is_done(self, monitor: VarianceMonitor) -> bool:
        """Whether every layer is done. The first that is not ends the question until its check."""
        if self._exact_steps is not None:
            return False
        return all(self._layer_is_done(monitor, index) for index in range(len(self._endings)))

    def _layer_is_done(self, monitor: VarianceMonitor, index: int) -> bool:
        assert self._rates is not None
        found, state = self._endings[index], monitor.states[index]
        # What a check said holds until the next one; only a settled layer may begin to move again.
        look = looked_at(state)
        if look == self._looks[index] or (found and found is not Ending.SETTLED):
            return found is not None
        self._looks[index] = look
        settings = self._settings
        below = self._rates.is_below_peak(index, settings.detector.tolerance)
        may_rise = settings.limits.learning_rate == "schedule" or self._rates.foreseen.is_held
        if below and settings.futile_ends and not may_rise:
            self._endings[index] = Ending.BELOW_PEAK
        else:
            keeps = settings.futile_ends, settings.redrawn_from
            found = ending(state, self._initial[index], *keeps)
            self._endings[index] = None if below and found is Ending.SETTLED else found
        return self._endings[index] is not None
