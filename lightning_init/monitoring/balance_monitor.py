"""Samples of the fluctuation-dissipation balance of each layer, where plain SGD trains it."""

from __future__ import annotations

from collections.abc import Sequence
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

# The relation holds for every coordinate, so that the first rows of a large layer stand for all.
MOST_WEIGHTS = 32_768


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
        self._slices: list[tuple[nn.Parameter, slice] | None] | None = None

    def restart(self) -> None:
        """Begin again, after the learning rate changed."""
        self._states = [None] * len(self._weights)

    @torch.no_grad()
    def sample(self, module: LightningModule, optimizers: Sequence[Optimizer]) -> None:
        """Look at every layer right after an optimizer step."""
        if not module.automatic_optimization:
            return
        found = _groups(optimizers)
        if not found:
            return
        if self._slices is None:
            self._slices = [_slice(module, weight) for weight in self._weights]
        for index, cut in enumerate(self._slices):
            if cut is not None and id(cut[0]) in found:
                self._states[index] = _updated(self._states[index], *cut, *found[id(cut[0])])

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
            if other_rule or not float(group["lr"] or 0.0) > 0:
                continue
            for parameter in group["params"]:
                found[id(parameter)] = (group, optimizer.state.get(parameter, {}))
    return found


def _updated(
    so_far: BalanceState | None,
    parameter: nn.Parameter,
    cut: slice,
    group: dict[str, Any],
    state: dict[str, Any],
) -> BalanceState | None:
    rate, decay = float(group["lr"]), float(group["weight_decay"])
    momentum = float(group["momentum"])
    if parameter.grad is None:
        return so_far
    buffer: Tensor | None = state.get("momentum_buffer") if momentum else parameter.grad
    if buffer is None:
        return so_far
    weight, gradient = (_local(tensor)[cut].reshape(-1) for tensor in (parameter, parameter.grad))
    if momentum:
        moving = _local(buffer)[cut].reshape(-1)
        dissipation, squares = _with_buffer(weight, gradient, moving, rate, decay)
    else:
        dissipation, squares = _without_buffer(weight, gradient, rate, decay)
    begun = start_balance(rate, momentum) if so_far is None else so_far
    # Between two restarts a schedule moves the rate by a few per cent at most.
    begun = begun if begun.learning_rate == rate else begun._replace(learning_rate=rate)
    return update_balance(begun, dissipation, squares)


def _local(tensor: Any) -> Tensor:
    """This process's part of a sharded tensor; rank zero's stands for all in the report."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach()
    return part


def _slice(module: nn.Module, weight: Weight) -> tuple[nn.Parameter, slice] | None:
    """The rows of a layer's parameter to look at; None if its weight is not a parameter."""
    if weight.parametrization is not None:
        return None
    parameter = parameters_of(module, weight)[0]
    values = _local(parameter)
    # Which rows of a block a shard holds is not looked into.
    if values.numel() == 0 or (values.shape != parameter.shape and weight.rows is not None):
        return None
    first, last = (0, values.shape[0]) if weight.rows is None else weight.rows
    per_row = max(1, values.numel() // values.shape[0])
    return parameter, slice(first, min(last, first + max(1, MOST_WEIGHTS // per_row)))


def _products(*pairs: tuple[Tensor, Tensor]) -> list[float]:
    """Inner products. One by one: to stack the vectors is to copy them into fresh memory."""
    return [float(torch.dot(one, other)) for one, other in pairs]


def _with_buffer(w: Tensor, g: Tensor, v: Tensor, rate: float, decay: float) -> tuple[float, float]:
    """<w, g> with w = after + rate v before the step and g = gradient + decay w; and |v|^2."""
    ww, wg, wv, gv, vv = _products((w, w), (w, g), (w, v), (g, v), (v, v))
    before = ww + 2 * rate * wv + rate**2 * vv
    return wg + rate * gv + decay * before, vv


def _without_buffer(w: Tensor, g: Tensor, rate: float, decay: float) -> tuple[float, float]:
    """The same without momentum, v = g: w = (after + rate gradient) / (1 - rate decay)."""
    ww, wg, gg = _products((w, w), (w, g), (g, g))
    shrunk = 1 - rate * decay
    cross = (wg + rate * gg) / shrunk
    before = (ww + 2 * rate * wg + rate**2 * gg) / shrunk**2
    return cross + decay * before, gg + 2 * decay * cross + decay**2 * before
