"""What a nested fit would change, captured and put back.

A probe trains new objects (:func:`copy_training`) wherever it can, so that
the user's own objects need no repair. What is shared by nature - random streams, loaders and
samplers, the attributes of Trainer and strategy - is captured by value and restored.
"""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from lightning_init.probe import lightning_internals as internals

if TYPE_CHECKING:
    from types import MethodType

Restore = Callable[[], None]

# How far random generators are searched for below a loader: loader, dataset, transform, list, item.
_SEARCH_DEPTH = 6
_SEARCH_LIMIT = 20_000
_LEAVES = (str, bytes, int, float, complex, bool, type(None), Tensor, np.ndarray, type, nn.Module)


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


def capture_loaders(roots: Iterable[object]) -> Restore:
    """Capture every piece of iteration state reachable from ``roots`` (loaders, datamodules).

    Random generators (torch, numpy, ``random``), sampler epochs and iterators kept by persistent
    workers are put back; the iterators are also hidden meanwhile, so that the probe opens its own.
    Counters that a dataset keeps in plain attributes are not seen: that is what a deep copy of the
    data (``isolate_dataset=True``) is for.
    """
    restores: list[Callable[[], object]] = []
    for item in _reachable(roots):
        if isinstance(item, torch.Generator):
            restores.append(functools.partial(item.set_state, item.get_state()))
        elif isinstance(item, np.random.Generator):
            state = copy.deepcopy(item.bit_generator.state)
            restores.append(functools.partial(setattr, item.bit_generator, "state", state))
        elif isinstance(item, np.random.RandomState):
            restores.append(functools.partial(item.set_state, item.get_state()))
        elif isinstance(item, random.Random):
            restores.append(functools.partial(item.setstate, item.getstate()))
        elif isinstance(item, CombinedLoader):
            restores.append(capture_attributes(item))
        elif isinstance(item, DataLoader):
            iterator = internals.loader_iterator(item)
            internals.set_loader_iterator(item, None)
            restores.append(functools.partial(internals.set_loader_iterator, item, iterator))
        elif callable(getattr(item, "set_epoch", None)) and hasattr(item, "epoch"):
            restores.append(functools.partial(setattr, item, "epoch", item.epoch))
    return functools.partial(_run_all, restores)


def _reachable(roots: Iterable[object]) -> Iterator[object]:
    seen: set[int] = set()
    level = list(roots)
    for _ in range(_SEARCH_DEPTH):
        following: list[object] = []
        for item in level:
            if id(item) in seen or isinstance(item, _LEAVES) or len(seen) > _SEARCH_LIMIT:
                continue
            seen.add(id(item))
            yield item
            following.extend(_children(item))
        level = following


def _children(item: object) -> Iterable[object]:
    if isinstance(item, (Trainer, LightningModule)):
        return ()
    if isinstance(item, dict):
        return item.values() if len(item) <= 1000 else ()
    if isinstance(item, (list, tuple, set)):
        return item if len(item) <= 1000 else ()
    bound: MethodType | None = getattr(item, "__self__", None)
    if bound is not None:
        return (bound,)
    children = list(vars(item).values()) if hasattr(item, "__dict__") else []
    if isinstance(item, functools.partial):
        children += [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, CombinedLoader):
        children += list(item.flattened)
    return children


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
    trainer: Trainer, module: LightningModule, optimizers: list[Optimizer], schedulers: list[Any]
) -> TrainingCopy:
    """Deep-copy module, optimizers and schedulers together, so that all stay tied to each other.

    The copies come from what the Trainer already built, instead of calling ``configure_optimizers``
    a second time: a hook may be written to run once, and LightningCLI returns the same optimizer
    object, on the original parameters, whenever it is asked.

    What refuses to be copied (a lock, an open file) is shared with the original.
    """
    # Someone may keep the Trainer itself in an attribute: it is never copied.
    shared: dict[int, Any] = {id(trainer): trainer}
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
