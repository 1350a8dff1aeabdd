"""Iteration state of the data: what reading a loader changes, captured and put back."""

from __future__ import annotations

import copy
import functools
import operator
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinMethodType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.lightning_packages import classes, is_a

Restore = Callable[[], object]

# How far the search goes below a loader: loader, dataset, transform, list, item.
_SEARCH_DEPTH = 6
_SEARCH_LIMIT = 20_000
_LEAVES = (str, bytes, int, float, complex, bool, type(None), type, nn.Module, ModuleType)

# Containers and arrays up to this size are put back; of larger ones a change is only noticed.
_LARGEST_RESTORED = 1000

# Packages whose objects hold handles of the process, not the state of an iteration.
_MACHINERY = ("threading", "multiprocessing", "queue", "logging", "concurrent", "asyncio", "torch")


def capture_data_state(roots: Iterable[object]) -> Callable[[], None]:
    """Capture the iteration state reachable from ``roots`` (loaders, datasets, datamodules).

    Random generators (torch, numpy, ``random``), sampler epochs, the attributes of datasets and of
    the user's own objects below them, and small containers and arrays are put back. Iterators kept
    by persistent workers are hidden meanwhile, so that a probe opens its own. Large containers are
    not copied; if one changed, the restore says so in a warning.
    """
    restores: list[Restore] = []
    unrestored: list[Callable[[], str | None]] = []
    for item in _reachable(roots):
        restore = _capture(item)
        if restore is not None:
            restores.append(restore)
        elif (watch := _watch(item)) is not None:
            unrestored.append(watch)

    def put_back() -> None:
        changed = [what for watch in unrestored if (what := watch()) is not None]
        for restore in restores:
            restore()
        if changed:
            rank_zero_warn(
                f"The training data keep state that the probe changed ({changed[0]}), so the run"
                " may differ from one without a probe; pass `isolate_dataset=True` or, for an"
                " iterator, `probe_dataloaders=`."
            )

    return put_back


def _capture(item: Any) -> Restore | None:
    """What puts ``item`` back, or ``None`` if it holds no state that can be."""
    if isinstance(item, torch.Generator):
        return functools.partial(item.set_state, item.get_state())
    if isinstance(item, np.random.Generator):
        state = copy.deepcopy(item.bit_generator.state)
        return functools.partial(setattr, item.bit_generator, "state", state)
    if isinstance(item, np.random.RandomState):
        return functools.partial(item.set_state, item.get_state())
    if isinstance(item, random.Random):
        return functools.partial(item.setstate, item.getstate())
    if isinstance(item, (Tensor, np.ndarray, list, dict, set, deque)):
        return _capture_contents(item)
    if isinstance(item, DataLoader):
        iterator = internals.loader_iterator(item)
        internals.set_loader_iterator(item, None)
        return functools.partial(internals.set_loader_iterator, item, iterator)
    if _keeps_state(item):
        return _attributes(item)
    return None


def _capture_contents(item: Any) -> Restore | None:
    if isinstance(item, Tensor):
        if item.numel() > _LARGEST_RESTORED or item.requires_grad:
            return None
        return _if_changed(item, functools.partial(item.data.copy_, item.detach().clone()))
    if isinstance(item, np.ndarray):
        if item.size > _LARGEST_RESTORED or not item.flags.writeable:
            return None
        return functools.partial(np.copyto, item, item.copy())
    if len(item) > _LARGEST_RESTORED:
        return None
    saved = copy.copy(item)

    def restore() -> None:
        item.clear()
        item.extend(saved) if isinstance(item, (list, deque)) else item.update(saved)

    return restore


def _if_changed(tensor: Tensor, restore: Restore) -> Restore:
    written = internals.write_count(tensor)
    return lambda: restore() if internals.write_count(tensor) != written else None


def _watch(item: Any) -> Callable[[], str | None] | None:
    """Notices a change of something too large to be copied."""
    name = type(item).__name__
    if isinstance(item, Tensor):
        written = internals.write_count(item)
        message = f"a {name} of {item.numel()} elements"
        return lambda: message if internals.write_count(item) != written else None
    if isinstance(item, (list, dict, set, deque)):
        length = len(item)
        return lambda: f"a {name} of {length} items" if len(item) != length else None
    if isinstance(item, Iterator) and not hasattr(item, "__dict__"):
        position = _position(item)
        return lambda: f"an iterator ({name})" if _position(item) != position else None
    return None


def _position(iterator: Any) -> Any:
    """Something that differs once a generator or built-in iterator has moved on."""
    if isinstance(iterator, GeneratorType):
        frame = iterator.gi_frame
        return frame and (frame.f_lasti, {k: id(v) for k, v in frame.f_locals.items()})
    return operator.length_hint(iterator, -1)


def _keeps_state(item: Any) -> bool:
    if isinstance(item, (FunctionType, MethodType, BuiltinMethodType)):
        return False
    if is_a(item, "Trainer", "LightningModule"):
        return False
    if isinstance(item, (Dataset, Sampler)) or is_a(item, "utilities.CombinedLoader"):
        return True
    package = type(item).__module__.partition(".")[0]
    return hasattr(item, "__dict__") and package not in _MACHINERY


def _attributes(holder: object) -> Restore:
    saved = dict(vars(holder))

    def restore() -> None:
        vars(holder).clear()
        vars(holder).update(saved)

    return restore


def _reachable(roots: Iterable[object]) -> Iterator[object]:
    seen: dict[int, object] = {}  # holds on to what it saw: an id may not be used again
    level = list(roots)
    for _ in range(_SEARCH_DEPTH):
        following: list[object] = []
        for item in level:
            if id(item) in seen or isinstance(item, _LEAVES) or len(seen) > _SEARCH_LIMIT:
                continue
            seen[id(item)] = item
            yield item
            following.extend(_children(item))
        level = following


def _children(item: object) -> Iterable[object]:
    if isinstance(item, (Tensor, np.ndarray)) or is_a(item, "Trainer", "LightningModule"):
        return ()
    if isinstance(item, dict):
        return list(item.values()) if len(item) <= _LARGEST_RESTORED else ()
    if isinstance(item, (list, tuple, set, deque)):
        return list(item) if len(item) <= _LARGEST_RESTORED else ()
    bound = getattr(item, "__self__", None)
    if bound is not None:
        return (bound,)
    children = list(vars(item).values()) if hasattr(item, "__dict__") else []
    if isinstance(item, functools.partial):
        children += [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, FunctionType):
        children += [cell.cell_contents for cell in item.__closure__ or () if _is_filled(cell)]
    if is_a(item, "utilities.CombinedLoader"):
        children += list(item.flattened)  # type: ignore[attr-defined]
    return children


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is bound later
        return False


def data_held_by(module: LightningModule) -> list[object]:
    """Datasets, samplers and loaders in the attributes of ``module``, also in lists and dicts."""
    kinds = (Dataset, Sampler, DataLoader, *classes("utilities.CombinedLoader"))
    found: list[object] = []
    for submodule in module.modules():
        for value in vars(submodule).values():
            items = value.values() if isinstance(value, dict) else (value,)
            for item in value if isinstance(value, (list, tuple)) else items:
                if isinstance(item, kinds):
                    found.append(item)
    return found
