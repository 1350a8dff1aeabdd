"""A probe on copies: module, optimizers and schedulers are duplicated, the originals stay still."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple, TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.copy_memo import CopyMemo
from lightning_init.probe.lightning_packages import is_a
from lightning_init.probe.object_children import children_of
from lightning_init.probe.object_walk import ObjectWalk
from lightning_init.probe.snapshot import capture_gradients

Copied = TypeVar("Copied")


class CopiedTraining:
    """Trains a deep copy of the module; for strategies under which every rank holds it whole.

    Args:
        trainer: The Trainer whose fit is about to start.
        module: The user's module.
        shared_data: Data below the module that the copy shares with it.
        stack: Takes what puts things back.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: LightningModule,
        shared_data: list[object],
        stack: ExitStack,
    ) -> None:
        tensors = [*module.named_parameters(), *module.named_buffers()]
        self._written = [(name, t, internals.write_count(t)) for name, t in tensors]
        self._original = module
        # A closure over a parameter may still lead to the original.
        stack.callback(capture_gradients(module))
        strategy = trainer.strategy
        self.module, self.optimizers, self.schedulers = copy_training(
            trainer, module, strategy.optimizers, strategy.lr_scheduler_configs, shared_data
        )
        internals.uncompile(self.module)

    def connect(self, trainer: Trainer, schedulers: list[Any]) -> None:
        """Set the strategy up with the copy: it gets a wrapper of its own."""
        strategy = trainer.strategy

        def setup_optimizers(_: Trainer) -> None:
            strategy.optimizers, strategy.lr_scheduler_configs = self.optimizers, schedulers

        vars(strategy)["setup_optimizers"] = setup_optimizers
        strategy.connect(self.module)
        strategy.setup(trainer)

    def has_moved(self, trainer: Trainer) -> bool:
        """Whether a trained weight of the copy differs from the original's."""
        originals = dict(self._original.named_parameters())
        for name, parameter in self.module.named_parameters():
            original = originals.get(name)
            if original is None or not parameter.requires_grad:
                continue
            if original.shape != parameter.shape or not torch.equal(
                original.detach().to(parameter.device), parameter.detach()
            ):
                return True
        return False

    def verify_restored(self) -> None:
        """Refuse a probe that wrote to the real model."""
        for name, tensor, count in self._written:
            if internals.write_count(tensor) != count:
                raise MisconfigurationException(
                    f"The probe modified {name!r} of the real model, so the restart would not be"
                    " fair; look for a hook or closure that writes to the original module."
                )


class TrainingCopy(NamedTuple):
    """One graph of copies: the module, what optimizes it, and what schedules that."""

    module: LightningModule
    optimizers: list[Optimizer]
    schedulers: list[Any]


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
    holders = [*module.modules(), *optimizers]
    # Someone may keep the Trainer itself in an attribute: it is never copied.
    shared = {id(item): item for item in [trainer, trainer.strategy, *shared_data]}
    copied = [*holders, *schedulers, *module.parameters(), *module.buffers()]
    roots = {"module": module, "optimizers": optimizers, "schedulers": schedulers}
    walk = ObjectWalk(roots, shared.values())
    return sharing_what_cannot_be_copied(
        lambda memo: _copy_graph(module, optimizers, schedulers, memo),
        shared,
        whole={id(holder): holder for holder in holders},
        values=lambda: (value for holder in holders for value in vars(holder).values()),
        prepare=lambda memo: CopyMemo(memo, walk, copied),
    )


def copy_alone(item: Copied, given: dict[int, Any]) -> Copied:
    """Deep-copy ``item``; what refuses to be copied (a generator, an open file) is shared.

    Args:
        item: A precision plugin, a datamodule, loaders.
        given: By id, what stands in the copy for something else.
    """
    walk = ObjectWalk({"item": item}, given.values())
    return sharing_what_cannot_be_copied(
        lambda memo: copy.deepcopy(item, memo),
        given,
        whole={id(found.item): found.item for found in walk.found[:1]},
        values=lambda: (value for _, value in children_of(item)),
        prepare=lambda memo: CopyMemo(memo, walk, [item]),
    )


def sharing_what_cannot_be_copied(
    duplicate: Callable[[dict[int, Any]], Copied],
    shared: dict[int, Any],
    whole: dict[int, Any],
    values: Callable[[], Iterable[Any]],
    prepare: Callable[[dict[int, Any]], dict[int, Any]] = dict,
) -> Copied:
    """Call ``duplicate`` with a memo; if it fails, again with what refuses to be copied shared.

    Args:
        duplicate: Deep-copies with the memo that it is given.
        shared: By id, what is shared in any case.
        whole: By id, what holds the values: not looked into while they are tried one by one.
        values: The values, one of which may have refused.
        prepare: Makes the memo out of a dict.
    """
    try:
        return duplicate(prepare(dict(shared)))
    except Exception:
        found = dict(shared)
        for value in values():
            try:
                copy.deepcopy(value, prepare(shared | whole))
            except Exception:
                is_generator = isinstance(value, torch.Generator)
                found[id(value)] = value.clone_state() if is_generator else value
        return duplicate(prepare(found))


def _copy_graph(
    module: LightningModule,
    optimizers: list[Optimizer],
    schedulers: list[Any],
    memo: dict[int, Any],
) -> TrainingCopy:
    for value in _non_leaf_tensors(module):
        memo[id(value)] = value.detach().clone()
    pairs = [(p, copy.deepcopy(p, memo)) for p in module.parameters()]
    copied_optimizers = [copy_optimizer(optimizer, memo) for optimizer in optimizers]
    copied_module = copy.deepcopy(module, memo)
    copied_schedulers = copy.deepcopy(schedulers, memo)
    for parameter, copied in pairs:
        _copy_what_belongs_to(parameter, copied, memo)
    for submodule in copied_module.modules():
        if is_a(submodule, "LightningModule"):
            internals.forget_metric_attributes(submodule)
    return TrainingCopy(copied_module, copied_optimizers, copied_schedulers)


def _copy_what_belongs_to(parameter: nn.Parameter, copied: nn.Parameter, memo: Any) -> None:
    """Attributes and hooks, which torch leaves behind when it copies a parameter."""
    for name, value in vars(parameter).items():
        if name not in vars(copied):
            vars(copied)[name] = copy.deepcopy(value, memo)
    target: Any = copied
    on_gradient, after_accumulation = internals.tensor_hooks(parameter)
    for hook in copy.deepcopy(on_gradient, memo):
        target.register_hook(hook)
    for hook in copy.deepcopy(after_accumulation, memo):
        target.register_post_accumulate_grad_hook(hook)


def copy_optimizer(optimizer: Optimizer, memo: dict[int, Any]) -> Optimizer:
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
