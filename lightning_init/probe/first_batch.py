"""One batch and one training step, before the run, of which nothing and nobody else learns."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.profilers import PassThroughProfiler
from torch import Tensor

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.copying import copy_training
from lightning_init.probe.data_state import (
    AFTER_A_BATCH,
    capture_data_state,
    data_held_by,
    everything_behind,
)
from lightning_init.probe.fingerprints import leaves_of
from lightning_init.probe.lightning_packages import is_a, module_for
from lightning_init.probe.refusals import is_read_once
from lightning_init.probe.snapshot import capture_attributes, preserved_random_state

_SILENT = (
    *("log", "log_dict", "print", "manual_backward", "backward", "toggle_optimizer"),
    *("untoggle_optimizer", "clip_gradients", "configure_gradient_clipping", "optimizer_step"),
    *("lr_scheduler_step", "optimizer_zero_grad"),
)


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def first_batch(trainer: Trainer, module: LightningModule) -> Any:
    """Read one batch as the run would, on its device, then put back what reading it changed.

    Random streams, sampler epochs, iterators and counters of the data, and the attributes of the
    module that provides it are restored, also after an exception. Data that can be read only once
    are not touched.

    Args:
        trainer: The Trainer, at the start of a fit.
        module: Its module.

    Returns:
        The batch, or None if the data can be read only once or are empty.
    """
    instance, name = internals.train_data_source(trainer)
    with ExitStack() as stack:
        stack.enter_context(preserved_random_state())
        stack.callback(capture_data_state(*everything_behind(trainer, module), AFTER_A_BATCH))
        stack.callback(capture_attributes(module))
        hook = is_a(instance, "LightningModule", "LightningDataModule")
        loaders = getattr(instance, name)() if hook else instance
        if is_read_once(loaders):
            return None
        combined = _combined(trainer, loaders)
        stack.callback(capture_data_state([loaders], (), AFTER_A_BATCH))
        batch = next(iter(combined), (None,))[0]
        return None if batch is None else _transferred(trainer, module, batch)


def _combined(trainer: Trainer, loaders: Any) -> Any:
    if is_a(loaders, "utilities.CombinedLoader"):
        return loaders
    return module_for(trainer, "utilities").CombinedLoader(loaders, "max_size_cycle")


def _transferred(trainer: Trainer, module: LightningModule, batch: Any) -> Any:
    batch = trainer.precision_plugin.convert_input(batch)
    batch = internals.before_batch_transfer(module, batch)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def forward_arguments(module: LightningModule, batch: Any) -> Any:
    """What of a batch the module's `forward` takes, as positional arguments or keywords.

    Of a tuple or list as many items as `forward` requires, at least one: (x, y) gives x. Of a dict
    those that bear the name of a parameter of `forward`, or the whole dict if none does.

    Args:
        module: The module.
        batch: A batch of its training data.

    Returns:
        A tuple of positional arguments or a dict of keyword arguments.

    Example:
        >>> class Module(LightningModule):
        ...     def forward(self, x, mask=None): ...
        >>> forward_arguments(Module(), ["image", "label"])
        ('image',)
        >>> forward_arguments(Module(), {"x": "image", "label": "label"})
        {'x': 'image'}
    """
    parameters = inspect.signature(module.forward).parameters.values()
    if isinstance(batch, Mapping):
        named = {p.name: batch[p.name] for p in parameters if p.kind in _NAMED and p.name in batch}
        return named or (batch,)
    if isinstance(batch, (tuple, list)):
        needed = [p for p in parameters if p.kind in _POSITIONAL and p.default is p.empty]
        return tuple(batch[: max(1, len(needed))])
    return (batch,)


class SilentStep:
    """A module's own training step on one batch, run on a deep copy.

    The copy logs nowhere, its optimizers and schedulers do nothing, and the Trainer that it sees
    forwards what is read and keeps what is written to itself. Metrics and whatever else the module
    holds are copies. What refuses to be copied, as an open file does, is shared.

    Args:
        trainer: The Trainer, at the start of a fit.
        module: Its module.
        batch: A batch, as the training step gets it.
    """

    def __init__(self, trainer: Trainer, module: LightningModule, batch: Any) -> None:
        self.batch = batch
        self.module = copy_training(trainer, module, [], [], data_held_by(module)).module
        internals.uncompile(self.module)
        self._trainer = trainer
        silent = _SilentTrainer(trainer, self.module)
        for submodule in self.module.modules():
            if isinstance(submodule, LightningModule):
                internals.attach_trainer(submodule, silent)
                vars(submodule).update(dict.fromkeys(_SILENT, _nothing))
                vars(submodule)["optimizers"] = silent.module_optimizers
                vars(submodule)["lr_schedulers"] = silent.module_schedulers

    @property
    def inputs(self) -> list[Tensor]:
        """Every tensor of the batch, those inside its own objects too."""
        return [leaf for leaf in leaves_of(self.batch) if isinstance(leaf, Tensor)]

    def run(self, observer: AbstractContextManager[Any]) -> Any:
        """Run the step while ``observer`` is entered; returns what the step returns."""
        step = self.module.training_step
        precision = self._trainer.precision_plugin.train_step_context()
        with preserved_random_state(), warnings.catch_warnings(), torch.enable_grad(), precision:
            warnings.simplefilter("ignore")
            with observer:
                return step(*_arguments(step, self.batch))


def first_loss(trainer: Trainer, module: LightningModule, batch: Any) -> float | None:
    """The loss of a training step on a copy; None without a batch, a whole copy, or a loss."""
    if batch is None or not internals.distributed_with_copies(trainer.strategy):
        return None
    with suppress(Exception):
        found = SilentStep(trainer, module, batch).run(nullcontext())
        loss = found["loss"] if isinstance(found, Mapping) else found
        return float(loss.detach())
    return None


def _arguments(step: Any, batch: Any) -> tuple[Any, ...]:
    parameters = inspect.signature(step).parameters
    if "dataloader_iter" in parameters:
        return (iter([(batch, 0, 0)]),)
    positional = sum(one.kind is not one.KEYWORD_ONLY for one in parameters.values())
    several = any(one.kind is one.VAR_POSITIONAL for one in parameters.values())
    given = (batch, 0) if several else (batch, 0, 0)
    return given if several else given[: max(1, positional)]


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing, in place of a method with an effect."""


class _SilentOptimizer:
    """Reads as the optimizer that it stands for, and changes nothing."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self.optimizer = self
        groups = [] if original is None else original.param_groups
        self.param_groups = [dict(group) for group in groups]
        self.state: dict[Any, Any] = {}

    def step(self, closure: Any = None, **_: Any) -> Any:
        """Compute the loss that a closure gives, and no more."""
        return None if closure is None else closure()

    def zero_grad(self, *_: Any, **__: Any) -> None:
        """Leave the gradients."""

    def toggle_model(self, *_: Any, **__: Any) -> AbstractContextManager[None]:
        """Leave `requires_grad`."""
        return nullcontext()

    def __getattr__(self, name: str) -> Any:
        if self._original is None or callable(found := getattr(self._original, name)):
            return _nothing
        return found


class _SilentTrainer:
    """Forwards what is read to the real Trainer, and keeps what is written to itself."""

    def __init__(self, trainer: Trainer, module: LightningModule) -> None:
        logs = trainer.logger is not None
        optimizers = [_SilentOptimizer(one) for one in trainer.optimizers]
        vars(self).update(
            _real=trainer,
            lightning_module=module,
            model=module,
            logger=DummyLogger() if logs else None,
            loggers=[DummyLogger()] if logs else [],
            profiler=PassThroughProfiler(),
            optimizers=optimizers or [_SilentOptimizer(None)],
            lr_scheduler_configs=[],
            training=True,
            save_checkpoint=_nothing,
            callback_metrics={},
            logged_metrics={},
            progress_bar_metrics={},
            estimated_stepping_batches=max(1, trainer.max_steps),  # the real one opens the loader
        )

    def module_optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """What `LightningModule.optimizers()` gives: one optimizer, or a list of several."""
        found = vars(self)["optimizers"]
        return found[0] if len(found) == 1 else found

    def module_schedulers(self) -> Any:
        """What `LightningModule.lr_schedulers()` gives."""
        real = vars(self)["_real"]
        found = [_SilentOptimizer(None) for _ in real.lr_scheduler_configs]
        return None if not found else found[0] if len(found) == 1 else found

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_real"], name)
