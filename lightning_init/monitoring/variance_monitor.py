"""Follows the variance of each layer through a training: samples in, verdicts and history out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_init.inspection.weights import Weight, effective_weight
from lightning_init.monitoring.force_monitor import ForceMonitor
from lightning_init.monitoring.run_series import VarianceHistory
from lightning_init.monitoring.weight_moments import Moments, sample_moments
from lightning_init.stationarity import (
    Decision,
    DetectorSettings,
    DetectorState,
    Verdict,
    decide,
    glance,
    reset,
    start,
    update,
)

# Entries kept of each weight: a histogram of 60 bins does not profit from more.
_ENTRIES = 1024
# The first tenth shows early what will come of it: two samples there for every later one.
DENSE_SHARE = 0.1
DENSER = 2


class VarianceMonitor:
    """One detector per layer, fed with the layer's weight variance.

    At a steady state V is proportional to the learning rate, so the series begin again when a
    learning rate has changed since they began by more than half the tolerance: such a change alone
    can move V by half of what the verdict allows. A schedule that moves at every step starts them
    again only every few per cent, and lets no layer fire before it has calmed down.

    Samples are denser in the first tenth (`sample_steps`). History and forces take them all, the
    detectors those at multiples of `interval`.

    Args:
        weights: The monitored weights.
        settings: What counts as stationary.
        horizon: Optimizer steps over which V must stay put.
        budget: Most optimizer steps that are looked at.
        interval: Optimizer steps between two samples of a detector.
        moment: What V is: the variance about the layer's mean ("central") or about 0 ("raw").
        dense_start: Sample more often in the first tenth.
        first_step: Optimizer steps before the series begins.
    """

    def __init__(
        self,
        weights: Sequence[Weight],
        settings: DetectorSettings,
        horizon: float,
        budget: int,
        interval: int,
        moment: str = "central",
        dense_start: bool = True,
        first_step: int = 0,
    ) -> None:
        self.weights = tuple(weights)
        self.horizon = max(horizon, float(budget))
        self.interval = interval
        self.moment = moment
        self.resets: list[int] = []
        samples = max(1.0, budget / interval)
        state = start(settings, self.horizon / interval, samples)
        self.budget = budget
        self._first_step = first_step
        self.entries_before: list[Tensor] = []
        self.entries_after: list[Tensor] = []
        self._states: list[DetectorState] = [state] * len(self.weights)
        self._stationary = [False] * len(self.weights)
        self._learning_rates: tuple[float, ...] | None = None
        self._rate_change = settings.tolerance / 2
        self._detected_steps: list[int] = []
        self._steps: list[int] = []
        self._due = frozenset(sample_steps(budget, interval) if dense_start else ())
        self._moments: list[Moments] = []
        self._forces = ForceMonitor(self.weights)
        self._variances: list[list[float]] = []
        self._drifts: list[list[float]] = []

    def is_due(self, step: int) -> bool:
        """Whether to sample after so many optimizer steps."""
        since = step - self._first_step
        return since > 0 and (since in self._due or since % self.interval == 0)

    def sample(
        self,
        module: nn.Module,
        step: int,
        learning_rates: Sequence[float] = (),
        optimizers: Sequence[Optimizer] = (),
    ) -> None:
        """Measure every layer of ``module`` after ``step`` optimizer steps.

        Args:
            module: What is trained.
            step: Optimizer steps so far.
            learning_rates: One per parameter group of its optimizers; nan if unknown.
            optimizers: What trains it; without them the forces stay unknown.
        """
        self._follow_learning_rates(tuple(learning_rates), step)
        values = self.measure(module)
        self._forces.sample(module, step, self._moments, optimizers)
        drifts = list(self._drifts[-1]) if self._drifts else [math.nan] * len(values)
        if (step - self._first_step) % self.interval == 0:
            self._detected_steps.append(step)
            self._detect(values, drifts)
        self._steps.append(step)
        self._variances.append(values)
        self._drifts.append(drifts)

    def _detect(self, values: Sequence[float], drifts: list[float]) -> None:
        """Feed the detectors; put the drift of those that looked into ``drifts``."""
        for index, value in enumerate(values):
            before = self._states[index]
            after = self._states[index] = update(before, value)
            # A trend is fitted at checks only; between them the last known one stands.
            if after.next_check != before.next_check:
                drifts[index], self._stationary[index] = glance(after)

    def some_entries(self, module: nn.Module) -> list[Tensor]:
        """At most 1024 evenly spaced entries of each weight, for a histogram; none of a shard."""
        return [_some_entries(effective_weight(module, weight)) for weight in self.weights]

    def measure(self, module: nn.Module) -> list[float]:
        """V of each monitored weight of ``module``, in float64."""
        self._moments = sample_moments([effective_weight(module, w) for w in self.weights])
        raw = self.moment == "raw"
        return [m2 / count + (mean**2 if raw else 0.0) for count, mean, m2 in self._moments]

    @property
    def means(self) -> list[float]:
        """Mean of each monitored weight when last measured."""
        return [mean for _, mean, _ in self._moments]

    @property
    def settled(self) -> int:
        """How many layers were stationary when last checked (a layer may begin to drift again)."""
        return sum(self._stationary)

    @property
    def states(self) -> tuple[DetectorState, ...]:
        """The detector of each layer."""
        return tuple(self._states)

    @property
    def latest(self) -> list[float]:
        """V of each layer when last sampled; empty before the first sample."""
        return self._variances[-1] if self._variances else []

    def decisions(self) -> list[Decision]:
        """The verdict on each layer."""
        return [decide(state) for state in self._states]

    def layer_forces(self, index: int) -> dict[str, Any]:
        """What moves a layer's variance, as `LayerReport` names it, from all samples so far."""
        found = self._forces.forces(index)
        present = self._variances[-1][index] if self._variances else math.nan
        return {
            "drive": found.drive,
            "decay": found.decay,
            "relaxation_steps": found.relaxation_steps,
            "steady_state": found.steady_ratio * present,
            "noise_steady_state": self._forces.noise_variance(index),
        }

    def fired_at_step(self, decision: Decision) -> int | None:
        """Probe step at which a layer was first found stationary."""
        if decision.fired_at is None or decision.verdict is not Verdict.STATIONARY:
            return None
        return self._detected_steps[decision.fired_at - 1]

    def history(self, initial: Sequence[float]) -> VarianceHistory:
        """The series of every layer, with ``initial`` as the sample at step 0."""
        unknown = [math.nan] * len(self.weights)
        return VarianceHistory(
            steps=(0, *self._steps),
            layers=tuple(weight.name for weight in self.weights),
            variances=tuple(zip(*[list(initial), *self._variances], strict=True)),
            drifts=tuple(zip(*[unknown, *self._drifts], strict=True)),
        )

    def _follow_learning_rates(self, rates: tuple[float, ...], step: int) -> None:
        if self._learning_rates is None:
            self._learning_rates = rates
        pairs = zip(self._learning_rates, rates, strict=False)
        changed = any(abs(now - then) > self._rate_change * min(now, then) for then, now in pairs)
        # A group of parameters may join during the training.
        if not changed and len(rates) == len(self._learning_rates):
            return
        self._learning_rates = rates
        self._states = [reset(state) for state in self._states]
        self._stationary = [False] * len(self._states)
        self._detected_steps = []
        self._forces.restart()
        self.resets.append(step)


def _some_entries(values: Tensor) -> Tensor:
    if hasattr(values, "device_mesh"):
        return values.new_empty(0)
    flat = values.detach().reshape(-1)
    stride = max(1, -(-flat.numel() // _ENTRIES))
    return flat[::stride].to("cpu", torch.float32, copy=True)


def sample_steps(budget: int, interval: int) -> tuple[int, ...]:
    """Steps at which to sample: every `interval`, and twice as often in the first tenth.

    The multiples of `interval` among them are evenly spaced, as a detector needs them.

    Args:
        budget: Optimizer steps to be looked at.
        interval: Steps between two samples after the first tenth.

    Example:
        >>> sample_steps(100, 6)[:10]
        (3, 6, 9, 12, 18, 24, 30, 36, 42, 48)
    """
    early = range(0, int(DENSE_SHARE * budget) + 1, max(1, interval // DENSER))
    usual = range(0, budget + 1, interval)
    return tuple(sorted({*early, *usual} - {0}))
