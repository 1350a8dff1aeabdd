"""Is a probe still a training? Its losses and variances say when it has diverged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_init.monitoring.variance_monitor import VarianceMonitor
from lightning_init.probe.observer import loss_of
from lightning_init.stationarity import (
    LARGEST_FACTOR,
    LARGEST_WEIGHT,
    loss_ends,
    loss_rose,
)


class ProbeHealth:
    """Follows the training loss of a probe, and judges it with the variances.

    Losses stay on their device until a check, which reads all new ones at once.

    Args:
        trainer: Its ranks judge together.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._waiting: list[Tensor] = []
        self._losses: list[float] = []
        self._reason = ""

    def follow(self, outputs_of_step: Any) -> None:
        """Note the loss of one optimizer step, if there is one."""
        loss = loss_of(outputs_of_step)
        if loss is not None:
            self._waiting.append(loss.detach().float().mean())

    def check(
        self, monitor: VarianceMonitor, initial: Sequence[float], step: int, budget: int
    ) -> bool:
        """Whether the probe has diverged, on any rank."""
        self._read()
        reason = self._loss_reason(step, budget) or _variance_reason(monitor, initial, step)
        if not self._trainer.strategy.reduce_boolean_decision(bool(reason), all=False):
            return False
        found = self._trainer.strategy.broadcast(reason)
        self._reason = found or f"it diverged on another rank by probe step {step}"
        return True

    @property
    def divergence(self) -> str:
        """Why nothing of the probe can be trusted, as a clause; empty if it can."""
        return self._reason

    def loss_ends(self, budget: int) -> tuple[float, float]:
        """Mean training loss over the first tenth and over the last, of all ranks."""
        self._read()
        first, last = loss_ends(self._losses, budget)
        both = torch.tensor([first, last], device=self._trainer.strategy.root_device)
        reduced = self._trainer.strategy.reduce(both, reduce_op="mean")
        ends: list[float] = reduced.tolist()
        return ends[0], ends[1]

    def _read(self) -> None:
        if self._waiting:
            self._losses += torch.stack(self._waiting).tolist()
            self._waiting = []

    def _loss_reason(self, step: int, budget: int) -> str:
        if not all(map(math.isfinite, self._losses)):
            lost = next(i for i, loss in enumerate(self._losses) if not math.isfinite(loss))
            return f"the training loss was not finite at probe step {lost + 1}"
        if loss_rose(self._losses, budget):
            first, last = loss_ends(self._losses, budget)
            return f"the training loss rose from {first:.3g} to {last:.3g} by probe step {step}"
        return ""


def _variance_reason(monitor: VarianceMonitor, initial: Sequence[float], step: int) -> str:
    latest = monitor.latest
    for weight, value, mean, start in zip(
        monitor.weights, latest, monitor.means, initial, strict=False
    ):
        where = f"of {weight.name!r} by probe step {step}"
        if not math.isfinite(value):
            return f"the variance {where} was not finite"
        if value + mean**2 > max(LARGEST_WEIGHT**2, LARGEST_FACTOR * start):
            return f"the root mean square weight {where} was {(value + mean**2) ** 0.5:.3g}"
        if start > 0 and not 1 / LARGEST_FACTOR <= value / start <= LARGEST_FACTOR:
            return f"the variance {where} was {value / start:.3g} times what it was"
    return ""
