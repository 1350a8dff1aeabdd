"""Squared weights beside the learning rate and decay that act on them: what moves each layer."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_init.initialization.fill import parameters_of
from lightning_init.inspection.weights import Weight
from lightning_init.monitoring.weight_moments import Moments
from lightning_init.stationarity.forces import (
    Forces,
    decay_per_step,
    noise_steady_state,
    split_forces,
)

# Steps that are linear in the gradient, decay included: eta / (1 - b) takes the place of eta.
LINEAR = (torch.optim.SGD, torch.optim.ASGD)
# Decay passes through the normalization, unless the group says otherwise: it is part of the drive.
NORMALIZED_WITH_DECAY = (
    torch.optim.Adadelta,
    torch.optim.Adagrad,
    torch.optim.Adam,
    torch.optim.Adamax,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.RMSprop,
)


class StepRule(NamedTuple):
    """What an optimizer's group says about the steps of its parameters.

    Args:
        learning_rate: Of the group.
        weight_decay: Of the group; 0 where it does not act on the weights themselves.
        decay: Share of |w|^2 that weight decay takes in one step.
        memory_steps: Steps over which gradients are averaged, 1 / (1 - b).
        adam_like: Whether a step has unit size whatever the gradient, with decoupled decay.
    """

    learning_rate: float
    weight_decay: float
    decay: float
    memory_steps: float
    adam_like: bool


def step_rule(optimizer: Optimizer, group: dict[str, Any]) -> StepRule:
    """Read the rule of a parameter group as it stands.

    Any optimizer that is not one of torch's with decay in the gradient is taken to have decoupled
    decay, as most others do.

    Example:
        >>> optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.01, 0.9, weight_decay=0.1)
        >>> rule = step_rule(optimizer, optimizer.param_groups[0])
        >>> round(rule.decay, 4), round(rule.memory_steps)
        (0.0199, 10)
    """
    rate, weight_decay = float(group["lr"]), float(group.get("weight_decay") or 0.0)
    averaging = _averaging(group)
    linear = isinstance(optimizer, LINEAR)
    decoupled = group.get("decoupled_weight_decay")
    if decoupled is None:
        decoupled = not isinstance(optimizer, NORMALIZED_WITH_DECAY)
    if linear:
        effective = rate * (1 - group.get("dampening", 0.0))
        decay = decay_per_step(effective, weight_decay, averaging, coupled=True)
    else:
        weight_decay = weight_decay if decoupled else 0.0
        decay = decay_per_step(rate, weight_decay)
    adam_like = bool(decoupled) and "adam" in type(optimizer).__name__.lower()
    return StepRule(rate, weight_decay, decay, 1 / (1 - averaging), adam_like)


def _averaging(group: dict[str, Any]) -> float:
    """The coefficient of momentum, 0 where none is named."""
    betas = group.get("betas")
    named = betas[0] if isinstance(betas, (tuple, list)) else group.get("momentum", 0.0)
    return float(named) if 0 <= float(named or 0.0) < 1 else 0.0


class ForceMonitor:
    """One series of squared weights per layer, with the rule of its group at every sample.

    It reads parameters, learning rates and decays alone, so that it holds for every optimizer, for
    shards and in any training. Under weight normalization the rule is that of the norms.

    Args:
        weights: The monitored weights.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        self._weights = tuple(weights)
        # Weak: what a probe trained is not kept, moments and all, as long as its series.
        self._optimizers: tuple[tuple[weakref.ref[Optimizer], int], ...] = ()
        self._places: list[tuple[int, int] | None] = []
        self.restart()

    def restart(self) -> None:
        """Begin again, after the learning rate changed."""
        self._steps: list[int] = []
        self._squares: list[list[float]] = []
        self._rules: list[list[StepRule | None]] = []

    def sample(
        self,
        module: nn.Module,
        step: int,
        moments: Sequence[Moments],
        optimizers: Sequence[Optimizer],
    ) -> None:
        """Add one sample of every layer; none without optimizers.

        Args:
            module: What is trained.
            step: Optimizer steps so far.
            moments: (n, mean, M2) of each weight after that step.
            optimizers: What trains it.
        """
        if not optimizers:
            return
        self._find_groups(module, optimizers)
        self._steps.append(step)
        self._squares.append([m2 + count * mean * mean for count, mean, m2 in moments])
        # Without a rate the optimizer chooses its steps itself.
        rules = [
            [
                None if group.get("lr") is None else step_rule(one, group)
                for group in one.param_groups
            ]
            for one in optimizers
        ]
        self._rules.append([at and rules[at[0]][at[1]] for at in self._places])

    def forces(self, index: int) -> Forces:
        """What moves one layer; unknown if no optimizer trains it."""
        rule = self._rule(index)
        if rule is None:
            return Forces()
        squares = [row[index] for row in self._squares]
        decays = [known.decay for row in self._rules if (known := row[index]) is not None]
        return split_forces(self._steps, squares, decays, rule.memory_steps)

    def noise_variance(self, index: int) -> float:
        """V that Adam-like steps of pure noise would keep; nan under any other rule."""
        rule = self._rule(index)
        if rule is None or not rule.adam_like:
            return math.nan
        return noise_steady_state(rule.learning_rate, rule.weight_decay)

    def _rule(self, index: int) -> StepRule | None:
        return self._rules[-1][index] if self._rules else None

    def _find_groups(self, module: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        """Find the group of every layer's parameter, again when optimizers or groups changed."""
        known = tuple((weakref.ref(one), len(one.param_groups)) for one in optimizers)
        if known == self._optimizers:
            return
        self._optimizers = known
        self.restart()
        places = {
            id(parameter): (place, index)
            for place, optimizer in enumerate(optimizers)
            for index, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        }
        leaves = [parameters_of(module, weight)[0] for weight in self._weights]
        self._places = [places.get(id(leaf)) for leaf in leaves]
