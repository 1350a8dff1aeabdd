"""Samples of the fluctuation-dissipation balance of each layer, where plain SGD trains it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_init.initialization.fill import parameters_of
from lightning_init.inspection.weights import Weight
from lightning_init.stationarity.fluctuation_dissipation import (
    Balance,
    BalanceState,
    balance,
    start_balance,
    update_balance,
)


class BalanceMonitor:
    """One balance per layer; none for a layer to which the relation does not apply.

    It applies to layers that `torch.optim.SGD` trains without dampening, Nesterov momentum or
    `maximize` in automatic optimization, where the gradient of the step is still there after it
    (clipped, accumulated and averaged over ranks as the optimizer saw it).

    Args:
        weights: The monitored weights.
    """

    def __init__(self, weights: Sequence[Weight]) -> None:
        self._weights = tuple(weights)
        self._states: list[BalanceState | None] = [None] * len(self._weights)

    def restart(self) -> None:
        """Begin again, after the learning rate changed."""
        self._states = [None] * len(self._weights)

    def sample(self, module: LightningModule, optimizers: Sequence[Optimizer]) -> None:
        """Look at every layer right after an optimizer step."""
        if not module.automatic_optimization:
            return
        found = _groups(optimizers)
        for index, weight in enumerate(self._weights):
            if weight.parametrization is not None:
                continue
            parameter = parameters_of(module, weight)[0]
            if id(parameter) in found:
                group, state = found[id(parameter)]
                self._states[index] = _updated(
                    self._states[index], parameter, group, state, weight.rows
                )

    def balances(self) -> list[Balance | None]:
        """The balance of each layer, None where there is none."""
        return [None if state is None else balance(state) for state in self._states]


def _groups(optimizers: Sequence[Optimizer]) -> dict[int, tuple[dict[str, Any], dict[str, Any]]]:
    """Parameter group and state by parameter, for the parameters that plain SGD trains."""
    found = {}
    for optimizer in optimizers:
        if type(optimizer) is not torch.optim.SGD:
            continue
        for group in optimizer.param_groups:
            other_rule = group["dampening"] or group["nesterov"] or group["maximize"]
            if other_rule or not float(group["lr"]) > 0:
                continue
            for parameter in group["params"]:
                found[id(parameter)] = (group, optimizer.state.get(parameter, {}))
    return found


@torch.no_grad()
def _updated(
    so_far: BalanceState | None,
    parameter: nn.Parameter,
    group: dict[str, Any],
    state: dict[str, Any],
    rows: tuple[int, int] | None,
) -> BalanceState | None:
    rate, decay = float(group["lr"]), float(group["weight_decay"])
    momentum = float(group["momentum"])
    if parameter.grad is None:
        return so_far
    cut = slice(None) if rows is None else slice(*rows)
    after, gradient = parameter.detach()[cut], parameter.grad[cut]
    if momentum:
        buffer = state.get("momentum_buffer")
        if buffer is None:
            return so_far
        dissipation, squares = _with_buffer(after, gradient, buffer[cut], rate, decay)
    else:
        dissipation, squares = _without_buffer(after, gradient, rate, decay)
    begun = start_balance(rate, momentum) if so_far is None else so_far
    # Between two restarts a schedule moves the rate by a few per cent at most.
    return update_balance(replace(begun, learning_rate=rate), dissipation, squares)


def _with_buffer(
    after: Tensor, gradient: Tensor, buffer: Tensor, rate: float, decay: float
) -> tuple[float, float]:
    """<w, g> with w = after + rate v before the step and g = gradient + decay w; and |v|^2."""
    squares = _dot(buffer, buffer)
    dissipation = _dot(after, gradient) + rate * _dot(buffer, gradient)
    if decay:
        before = _dot(after, after) + 2 * rate * _dot(after, buffer) + rate**2 * squares
        dissipation += decay * before
    return dissipation, squares


def _without_buffer(
    after: Tensor, gradient: Tensor, rate: float, decay: float
) -> tuple[float, float]:
    """The same with v = g: w = (after + rate gradient) / (1 - rate decay)."""
    gg, wg = _dot(gradient, gradient), _dot(after, gradient)
    if not decay:
        return wg + rate * gg, gg
    shrunk = 1 - rate * decay
    ww = (_dot(after, after) + 2 * rate * wg + rate**2 * gg) / shrunk**2
    cross = (wg + rate * gg) / shrunk
    return cross + decay * ww, gg + 2 * decay * cross + decay**2 * ww


def _dot(a: Tensor, b: Tensor) -> float:
    return torch.dot(a.reshape(-1), b.reshape(-1)).item()
