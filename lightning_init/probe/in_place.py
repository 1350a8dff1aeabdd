"""A probe on the module itself, for sharded models, which cannot be copied: all is put back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.copying import copy_optimizer, sharing_what_cannot_be_copied
from lightning_init.probe.snapshot import capture_gradients, capture_tables

# Attributes of every module, its tables of parameters, buffers, children and hooks among them.
_FIELDS = frozenset(vars(nn.Module()))


class TrainingInPlace:
    """Trains the user's module with copies of its optimizers, from a snapshot that is put back.

    Each rank keeps its own shards of every parameter and buffer: one copy of the weights. Other
    attributes of the module and its submodules are replaced by copies while the probe runs, so
    that the user's own lists, counters and metric states are not written to.

    Args:
        trainer: The Trainer whose fit is about to start.
        module: The user's module, already sharded.
        shared_data: Data below the module that are not copied.
        stack: Takes what puts everything back, on every exit.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        shared_data: list[object],
        stack: ExitStack,
    ) -> None:
        self.module = module
        internals.reshard(module)
        self._parameters = dict(module.named_parameters())
        tensors = [*self._parameters.items(), *module.named_buffers()]
        self._saved = [(name, tensor, _local(tensor).clone()) for name, tensor in tensors]
        stack.callback(self._restore, capture_gradients(module), _capture_modules(module))

        strategy = trainer.strategy
        submodules = list(module.modules())
        optimizers, schedulers = strategy.optimizers, strategy.lr_scheduler_configs
        kept = [trainer, strategy, *shared_data, *submodules, *(t for _, t in tensors)]
        attributes = [own_attributes(submodule) for submodule in submodules]

        def duplicate(memo: dict[int, Any]) -> Any:
            duplicates = [copy_optimizer(optimizer, memo) for optimizer in optimizers]
            return duplicates, copy.deepcopy(schedulers, memo), copy.deepcopy(attributes, memo)

        holders = [*attributes, *map(vars, optimizers)]
        self.optimizers, self.schedulers, copied = sharing_what_cannot_be_copied(
            duplicate,
            {id(item): item for item in kept},
            whole={id(optimizer): optimizer for optimizer in optimizers},
            values=lambda: (value for holder in holders for value in holder.values()),
        )
        for submodule, values in zip(submodules, copied, strict=True):
            vars(submodule).update(values)
        for parameter in module.parameters():
            parameter.grad = None

    def connect(self, trainer: Trainer, schedulers: list[Any]) -> None:
        """Hand the optimizers to the strategy, which is set up with the module already."""
        trainer.strategy.optimizers = self.optimizers
        trainer.strategy.lr_scheduler_configs = schedulers

    @torch.no_grad()
    def has_moved(self, trainer: Trainer) -> bool:
        """Whether a trained weight differs from the snapshot, on any rank."""
        internals.reshard(self.module)
        moved = any(t.requires_grad and not _same(_local(t), saved) for _, t, saved in self._saved)
        decision: bool = trainer.strategy.reduce_boolean_decision(moved, all=False)
        return decision

    @torch.no_grad()
    def verify_restored(self) -> None:
        """Refuse a restart in which a parameter or buffer is not, bit for bit, what it was."""
        found = dict(self.module.named_parameters())
        replaced = [name for name, p in self._parameters.items() if found.get(name) is not p]
        changed = [name for name, t, saved in self._saved if not _same(_local(t), saved)]
        for name in replaced + changed:
            raise MisconfigurationException(
                f"The probe left {name!r} changed, so the restart would not be fair; probe once on"
                " one device and apply the recipe here: OptimalVarianceInit(recipe=...)."
            )

    @torch.no_grad()
    def _restore(self, *restores: Callable[[], None]) -> None:
        # An exception between forward and backward leaves whole parameters on the module.
        internals.reshard(self.module)
        for restore in restores:
            restore()
        for _, tensor, saved in self._saved:
            _local(tensor).copy_(saved)


def _local(tensor: Any) -> Tensor:
    """This rank's part of a DTensor, or the tensor itself; in the same memory."""
    with torch.no_grad():
        part: Tensor = tensor.to_local() if hasattr(tensor, "device_mesh") else tensor.detach()
    return part


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit: nan equals nan, and 0 does not equal -0."""
    return torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _capture_modules(module: nn.Module) -> Callable[[], None]:
    """Attributes of every submodule, and what its tables of parameters, hooks and the like hold."""
    own = [vars(submodule) for submodule in module.modules()]
    fields = [attributes.get(name) for attributes in own for name in _FIELDS]
    tables = [*(field for field in fields if isinstance(field, (dict, set))), *own]
    put_back = capture_tables(tables)

    def restore() -> None:
        # Hooks that sharding added at the first forward stay.
        hooks = [(table, _hooks_of_sharding(table)) for table in tables if isinstance(table, dict)]
        put_back()
        for table, found in hooks:
            table.update({key: hook for key, hook in found.items() if key not in table})

    return restore


def _hooks_of_sharding(table: dict[Any, Any]) -> dict[Any, Any]:
    return {
        key: value
        for key, value in table.items()
        if callable(value) and _of_torch_distributed(getattr(value, "__module__", None))
    }


def own_attributes(submodule: nn.Module) -> dict[str, Any]:
    """Attributes that a training may change, beyond those of every module and of its sharding."""
    return {
        name: value
        for name, value in vars(submodule).items()
        if name not in _FIELDS and not _is_sharding_state(value)
    }


def _is_sharding_state(value: Any) -> bool:
    held = value.values() if isinstance(value, dict) else (value,)
    return any(_of_torch_distributed(type(item).__module__) for item in held)


def _of_torch_distributed(name: Any) -> bool:
    return isinstance(name, str) and name.startswith("torch.distributed")
