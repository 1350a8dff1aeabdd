"""One batch of the training data, taken before the run without leaving a trace."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lightning_init.probe import lightning_internals as internals
from lightning_init.probe.data_state import (
    AFTER_A_BATCH,
    capture_data_state,
    everything_behind,
)
from lightning_init.probe.lightning_packages import is_a, module_for
from lightning_init.probe.refusals import is_read_once
from lightning_init.probe.snapshot import capture_attributes, preserved_random_state

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
