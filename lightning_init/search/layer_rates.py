"""Learning rate and weight decay of each layer: in the probe, and foreseen for the run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch import LightningModule
from torch.optim import Optimizer

from lightning_init.initialization.fill import parameters_of
from lightning_init.inspection.weights import Weight
from lightning_init.probe import ForeseenGroup, ForeseenRun, climb_steps


@dataclass
class LayerRates:
    """One parameter group per layer, and what the planned run will do with it.

    Args:
        foreseen: What the planned run will use.
        groups: Number of each layer's parameter group, over all optimizers; None without one.
        rates: Learning rate of each parameter group in the probe, when last sampled.
    """

    foreseen: ForeseenRun
    groups: tuple[int | None, ...]
    rates: tuple[float, ...]

    @classmethod
    def begin(
        cls,
        module: LightningModule,
        weights: Sequence[Weight],
        optimizers: Sequence[Optimizer],
        foreseen: ForeseenRun,
    ) -> LayerRates:
        """Find the group that trains each layer of the module that the probe trains."""
        numbers: dict[int, int] = {}
        count = 0
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                numbers |= {id(parameter): count for parameter in group["params"]}
                count += 1
        found = tuple(numbers.get(id(parameters_of(module, w)[0])) for w in weights)
        rates = cls(foreseen, found, ())
        rates.now(optimizers)
        return rates

    def now(self, optimizers: Sequence[Optimizer]) -> tuple[float, ...]:
        """Read the learning rate of every parameter group, and remember it.

        It is nan where the optimizer chooses its steps itself.
        """
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        rates = [group.get("lr") for group in groups]
        self.rates = tuple(math.nan if rate is None else float(rate) for rate in rates)
        return self.rates

    def climb_steps(self, learning_rate: str | float, budget: int) -> int:
        """Probe steps before the peak is reached."""
        if learning_rate != "peak" or self.foreseen.is_held:
            return 0
        return max((climb_steps(group, budget) for group in self._all_groups()), default=0)

    def rate(self, index: int) -> float:
        """Learning rate of a layer when last sampled; nan if no optimizer has it."""
        group = self.groups[index]
        return math.nan if group is None else self.rates[group]

    def peak(self, index: int) -> float:
        """Largest learning rate that the run will use for a layer, or can reach."""
        group = self.groups[index]
        return math.nan if group is None else self._all_groups()[group].peak_rate

    def is_below_peak(self, index: int, tolerance: float) -> bool:
        """Whether a layer's rate is below the run's peak by more than half the tolerance.

        At a steady state V is proportional to the rate: such a difference alone can move V by half
        of what the verdict allows.
        """
        return self.rate(index) < self.peak(index) * (1 - tolerance / 2)

    def forgotten_share(self, index: int) -> float:
        """Share of the initial variance that decay will have forgotten at the end of the run.

        1 - exp(-2 kappa), kappa the sum of rate times decay; nan where it is not known.
        """
        group = self.groups[index]
        looked_at_all = self.foreseen.looked_steps >= self.foreseen.planned_steps
        if group is None or self.foreseen.is_held or not looked_at_all:
            return math.nan
        kappa = self._all_groups()[group].decay_sum(self.foreseen.planned_steps)
        return -math.expm1(-2 * kappa)

    def _all_groups(self) -> list[ForeseenGroup]:
        return [group for groups in self.foreseen.groups for group in groups]
