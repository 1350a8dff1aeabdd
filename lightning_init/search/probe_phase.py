"""One probe: train a copy, sample V, stop when every layer has settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer

from lightning_init.inspection.weights import Weight
from lightning_init.monitoring.balance_monitor import BalanceMonitor
from lightning_init.monitoring.variance_monitor import VarianceMonitor
from lightning_init.probe import ProbeRun, run_probe
from lightning_init.probe.observer import learning_rates
from lightning_init.search.progress import ProbeProgress
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.stationarity.fluctuation_dissipation import Balance

# The balance is looked at in every second sample: it costs about as much as V itself, and half of
# the fewest samples of a probe are still enough for it, a third are not.
BALANCE_EVERY = 2


@dataclass(frozen=True)
class ProbeResult:
    """What one probe found.

    Args:
        monitor: Samples and verdicts.
        run: How the probe went.
        initial: Realised V of each layer at the probe's start.
        means: Mean of each layer's weights at the probe's end.
        balances: Balance of fluctuation and dissipation of each layer, None where it has none.
    """

    monitor: VarianceMonitor
    run: ProbeRun
    initial: tuple[float, ...]
    means: tuple[float, ...]
    balances: tuple[Balance | None, ...]


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
        self._stops_when_settled = exact_steps is None
        self._verify_steps = settings.limits.verify_steps if verifies else 0
        self._steps = settings.limits.max_steps if exact_steps is None else exact_steps
        self._progress = ProbeProgress(trainer, self._steps, description)
        self._monitor: VarianceMonitor | None = None
        self._balance = BalanceMonitor(weights)
        self._initial: list[float] = []
        self._healthy = True

    def run(self, module: LightningModule) -> ProbeResult:
        """Train a copy of ``module``, which stays as it is.

        Raises:
            MisconfigurationException: If the loss or a variance was not finite, or no step taken.
        """
        limits = replace(
            self._settings.limits, max_steps=self._steps, verify_steps=self._verify_steps
        )
        with self._progress:
            run = run_probe(self._trainer, module, self._on_step, limits, self._on_start)
        if self._monitor is None or run.steps == 0:
            raise MisconfigurationException(
                "OptimalVarianceInit: the probe took no optimizer step; check that the training"
                " data are not empty and that `training_step` returns a loss."
            )
        means, balances = tuple(self._monitor.means), tuple(self._balance.balances())
        return ProbeResult(self._monitor, run, tuple(self._initial), means, balances)

    def _on_start(self, copied: LightningModule, planned_steps: float) -> None:
        settings = self._settings
        budget = settings.budget(planned_steps)
        self._monitor = VarianceMonitor(
            self._weights,
            settings.detector,
            settings.horizon_steps(planned_steps),
            budget,
            settings.interval(budget),
            settings.moment,
        )
        self._initial = self._monitor.measure(copied)
        self._monitor.entries_before = self._monitor.some_entries(copied)

    def _on_step(self, copied: LightningModule, step: int, outputs_of_step: Any) -> bool:
        monitor = self._monitor
        assert monitor is not None
        self._healthy = self._healthy and finite_loss(outputs_of_step)
        due = step % monitor.interval == 0
        if not due and step < self._steps:
            return False
        if due:
            self._sample(copied, step, monitor)
        self._refuse_divergence(monitor, step)
        self._progress.advance(step, f"{monitor.settled}/{len(monitor.weights)} layers settled")
        settled = monitor.all_settled and self._stops_when_settled
        decision: bool = self._trainer.strategy.reduce_boolean_decision(settled)
        if decision or step >= self._steps or step + monitor.interval > monitor.budget:
            monitor.entries_after = monitor.some_entries(copied)
        return decision

    def _sample(self, copied: LightningModule, step: int, monitor: VarianceMonitor) -> None:
        restarts = len(monitor.resets)
        monitor.sample(copied, step, learning_rates(self._trainer))
        if len(monitor.resets) > restarts:
            self._balance.restart()
        elif step // monitor.interval % BALANCE_EVERY == 0:
            self._balance.sample(copied, self._trainer.optimizers)

    def _refuse_divergence(self, monitor: VarianceMonitor, step: int) -> None:
        lost = monitor.diverged_layers
        broken = not self._healthy or bool(lost)
        if self._trainer.strategy.reduce_boolean_decision(broken, all=False):
            what = f"the variance of {lost[0]!r}" if self._healthy and lost else "the training loss"
            raise MisconfigurationException(
                f"OptimalVarianceInit: {what} was not finite by probe step {step}, so no variance"
                " can be trusted; lower the learning rate or set `probe_lr`. Nothing was changed."
            )


def loss_of(outputs_of_step: Any) -> torch.Tensor | None:
    """The loss among what `training_step` returned, or None if it returned none."""
    loss = outputs_of_step.get("loss") if isinstance(outputs_of_step, dict) else outputs_of_step
    return loss if isinstance(loss, torch.Tensor) else None


def finite_loss(outputs_of_step: Any) -> bool:
    """Whether the loss is finite; a step without one is taken for healthy."""
    loss = loss_of(outputs_of_step)
    return loss is None or bool(torch.isfinite(loss).all())
