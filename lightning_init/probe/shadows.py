"""A redraw is whole, or it was not: copies of the weights follow it, a failure takes it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.object_walk import ObjectWalk
from lightning_init.user_line import warn_user

# One weight, or all in a row, as `parameters_to_vector` gives them.
Source = Callable[[], Tensor]


@contextmanager
def shadows_follow(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Copy weights written inside the block to every copy of them; put them back if it fails.

    A tensor or array in an attribute of the module, its optimizers or another callback is a copy
    when its values equal those of a weight before the block; a teacher or any other model keeps its
    own. A tensor of one value alone tells nothing: a zero bias follows where the weight beside it
    does. What cannot be written is named in a warning.
    """
    with torch.no_grad():
        search = _Search(trainer, module)
    with _put_back_if_it_fails(module) as weights_before:
        yield
    with torch.no_grad():
        stale = [name for name, write in search.copies if not _succeeds(write)]
        stale += search.equal_to(weights_before)
    if stale:
        warn_user(
            f"{stale[0]} holds a copy of the weights from before the redraw and was not"
            " written; make it anew in `on_train_start`."
        )


@contextmanager
def _put_back_if_it_fails(module: LightningModule) -> Iterator[list[tuple[nn.Parameter, Tensor]]]:
    """Yields each trained weight with its values from before the block."""
    # Neither gradients nor optimizer states exist yet: this copy is not the peak of a run's memory.
    trained = [p for p in module.parameters() if _has_values(p) and p.requires_grad]
    saved = [(p, p.detach().clone()) for p in trained]
    try:
        yield saved
    except BaseException:
        with torch.no_grad():
            for parameter, values in saved:
                parameter.copy_(values)
        raise


class _Search:
    """Finds copies of a module's weights.

    Attributes:
        copies: Name of each copy, and what writes the present weight to it.
    """

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        self.copies: list[tuple[str, Callable[[], object]]] = []
        strategy = trainer.strategy
        self._all = [p for p in module.parameters() if _has_values(p)]
        optimized = {
            id(p) for o in strategy.optimizers for g in o.param_groups for p in g["params"]
        }
        # A target network is a part of the module too: its weights are those not trained.
        self._named = {
            name: p
            for name, p in module.named_parameters()
            if _has_values(p) and p.requires_grad and (not optimized or id(p) in optimized)
        }
        self._owners = {id(p): m for m in module.modules() for p in m.parameters(recurse=False)}
        self._storages = {p.data_ptr() for p in self._named.values()}
        self._shapes = {tuple(p.shape) for p in self._named.values()}
        self._total = sum(p.numel() for p in self._all)
        roots: dict[str, object] = {type(c).__name__: c for c in internals.callbacks(trainer)}
        if not internals.trains_in_place(strategy):
            roots |= {"module": module, "optimizers": strategy.optimizers}
        self._walk = ObjectWalk(roots, [trainer, strategy, *self._named.values()])
        self._find()

    def _find(self) -> None:
        follows: dict[int, list[nn.Parameter]] = {}  # by the holder, what it holds copies of
        constant: list[int] = []
        for index, found in enumerate(self._walk.found):
            values = self._values(found.item)
            if values is None:
                continue
            if _is_constant(values):
                constant.append(index)
            elif (parameter := self._equal_one(values)) is not None:
                self._add(index, lambda p=parameter: p)  # type: ignore[misc]
                follows.setdefault(found.parent, []).append(parameter)
            elif values.shape == (self._total,) and _same(values, self._all_in_a_row()):
                self._add(index, self._all_in_a_row)
        for index in constant:
            found = self._walk.found[index]
            beside = follows.get(found.parent)
            values = self._values(found.item)
            alike = self._named_alike(found.label, beside) if beside else None
            if values is not None and alike is not None and _same(values, alike):
                self._add(index, lambda p=alike: p)  # type: ignore[misc]

    def _values(self, item: Any) -> Tensor | None:
        """The values of a floating-point tensor or array that has the shape of a weight."""
        if isinstance(item, np.ndarray) and item.dtype.kind == "f":
            item = torch.from_numpy(item) if item.flags.writeable else torch.tensor(item)
        if not isinstance(item, Tensor) or not _has_values(item) or not item.is_floating_point():
            return None
        fits = tuple(item.shape) in self._shapes or tuple(item.shape) == (self._total,)
        values = item.detach()
        return values if fits and values.data_ptr() not in self._storages else None

    def _equal_one(self, values: Tensor) -> nn.Parameter | None:
        return next((p for p in self._named.values() if _same(values, p)), None)

    def _all_in_a_row(self) -> Tensor:
        return nn.utils.parameters_to_vector(self._all)

    def _named_alike(self, label: str, beside: list[nn.Parameter]) -> nn.Parameter | None:
        """The weight that a constant tensor stands for, by its key in the table that holds it."""
        key = label.strip("[]").strip("'\"")
        if key in self._named:
            return self._named[key]
        owners = [self._owners[id(p)] for p in beside]
        found = [dict(owner.named_parameters(recurse=False)).get(key) for owner in owners]
        return next((parameter for parameter in found if parameter is not None), None)

    def _add(self, index: int, source: Source) -> None:
        item = self._walk.found[index].item
        self.copies.append((self._walk.name(index), lambda: _write(item, source())))

    def equal_to(self, weights: list[tuple[nn.Parameter, Tensor]]) -> list[str]:
        """Names of what still has the values from before of a weight that has others now."""
        changed = [values for p, values in weights if not _same(values, p)]
        found = ((i, self._values(entry.item)) for i, entry in enumerate(self._walk.found))
        return [
            self._walk.name(index)
            for index, values in found
            if values is not None
            and not _is_constant(values)
            and any(_same(values, before) for before in changed)
        ]


def _succeeds(write: Callable[[], object]) -> bool:
    try:
        write()
    except Exception:
        return False
    return True


def _has_values(tensor: Tensor) -> bool:
    """Whether a tensor holds a dense array of values."""
    if nn.parameter.is_lazy(tensor):
        return False
    return tensor.device.type != "meta" and tensor.layout == torch.strided


def _is_constant(values: Tensor) -> bool:
    first = values.reshape(-1)[:1]
    return bool((values == first).all()) if values.numel() else True


def _same(values: Tensor, parameter: Tensor) -> bool:
    if values.shape != parameter.shape:
        return False
    if hasattr(values, "device_mesh") != hasattr(parameter, "device_mesh"):
        return False
    return torch.equal(values, parameter.detach().to(values.device, values.dtype))


def _write(item: Any, weight: Tensor) -> None:
    if isinstance(item, np.ndarray):
        np.copyto(item, weight.detach().cpu().to(torch.float64).numpy(), casting="same_kind")
    else:
        item.copy_(weight)
