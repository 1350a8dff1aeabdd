"""What a nested fit would change, captured and put back.

A probe trains new objects (:func:`copy_training`) wherever it can, so that
the user's own objects need no repair. What is shared by nature - random streams, the attributes
of Trainer and strategy, the data (:mod:`.data_state`) - is captured by value and restored.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_init.probe import lightning_internals as internals

Restore = Callable[[], None]


def capture_random_state() -> Restore:
    """Capture the global streams of torch (CPU, CUDA), numpy and ``random``."""
    torch_state = torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    numpy_state = np.random.get_state()
    python_state = random.getstate()

    def restore() -> None:
        torch.set_rng_state(torch_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
        np.random.set_state(numpy_state)
        random.setstate(python_state)

    return restore


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Leave the global random streams as they were found, also after an exception."""
    restore = capture_random_state()
    try:
        yield
    finally:
        restore()


def capture_attributes(holder: object) -> Restore:
    """Capture the attributes of ``holder``: which objects it refers to, not their state."""
    saved = dict(vars(holder))

    def restore() -> None:
        vars(holder).clear()
        vars(holder).update(saved)

    return restore


def capture_optimizers(optimizers: Iterable[Optimizer]) -> Restore:
    """Capture attributes and parameter groups, which a scheduler built on them would change."""
    restores: list[Callable[[], object]] = []
    for optimizer in optimizers:
        attributes = capture_attributes(optimizer)
        groups = [(group, dict(group)) for group in optimizer.param_groups]

        def restore(
            attributes: Restore = attributes,
            groups: list[tuple[dict[str, Any], dict[str, Any]]] = groups,
        ) -> None:
            attributes()
            for group, saved in groups:
                group.clear()
                group.update(saved)

        restores.append(restore)
    return functools.partial(_run_all, restores)


def _run_all(restores: list[Callable[[], object]]) -> None:
    for restore in restores:
        restore()


# ------------------------------------------------------------------------------------------ copies
@dataclass(frozen=True)
class TrainingCopy:
    """One graph of copies: the module, what optimizes it, and who is whose copy."""

    module: LightningModule
    optimizers: list[Optimizer]
    schedulers: list[Any]
    memo: dict[int, Any]
    """Maps ``id(original)`` to its copy."""


def copy_training(
    trainer: Trainer,
    module: LightningModule,
    optimizers: list[Optimizer],
    schedulers: list[Any],
    shared_data: list[object],
) -> TrainingCopy:
    """Deep-copy module, optimizers and schedulers together, so that all stay tied to each other.

    The copies come from what the Trainer already built, instead of calling ``configure_optimizers``
    a second time: a hook may be written to run once, and LightningCLI returns the same optimizer
    object, on the original parameters, whenever it is asked.

    What refuses to be copied (a lock, an open file) is shared with the original, and so is
    ``shared_data``, which may fill the memory.
    """
    # Someone may keep the Trainer itself in an attribute: it is never copied.
    shared: dict[int, Any] = {id(item): item for item in [trainer, *shared_data]}
    try:
        return _copy_graph(module, optimizers, schedulers, dict(shared))
    except Exception:
        shared.update(_uncopyable_attributes([*module.modules(), *optimizers]))
        return _copy_graph(module, optimizers, schedulers, shared)


def _copy_graph(
    module: LightningModule,
    optimizers: list[Optimizer],
    schedulers: list[Any],
    memo: dict[int, Any],
) -> TrainingCopy:
    for value in _non_leaf_tensors(module):
        memo[id(value)] = value.detach().clone()
    for parameter in module.parameters():
        copy.deepcopy(parameter, memo)
    copied_optimizers = [_copy_optimizer(optimizer, memo) for optimizer in optimizers]
    copied_module = copy.deepcopy(module, memo)
    copied_schedulers = copy.deepcopy(schedulers, memo)
    for submodule in copied_module.modules():
        if isinstance(submodule, LightningModule):
            internals.forget_metric_attributes(submodule)
    return TrainingCopy(copied_module, copied_optimizers, copied_schedulers, memo)


def _copy_optimizer(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
    """Copy through ``__dict__``: ``Optimizer.__getstate__`` drops what LBFGS and others add."""
    if id(optimizer) in memo:  # held by another optimizer, as SAM holds its base
        known: Optimizer = memo[id(optimizer)]
        return known
    duplicate: Optimizer = object.__new__(type(optimizer))
    memo[id(optimizer)] = duplicate
    for name, value in vars(optimizer).items():
        if name != "step":  # a scheduler's wrapper, bound to the original
            vars(duplicate)[name] = copy.deepcopy(value, memo)
    if "step" in vars(optimizer):
        internals.rewrap_step(duplicate)
    return duplicate


def _non_leaf_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors with a graph behind them, as old-style weight norm and pruning leave on a module."""
    for submodule in module.modules():
        for value in vars(submodule).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                yield value


def _uncopyable_attributes(holders: list[Any]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    whole = {id(holder): holder for holder in holders}
    for holder in holders:
        for value in vars(holder).values():
            try:
                copy.deepcopy(value, dict(whole))
            except Exception:
                is_generator = isinstance(value, torch.Generator)
                found[id(value)] = value.clone_state() if is_generator else value
    return found
