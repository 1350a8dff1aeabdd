"""What a nested fit would change, captured and put back.

A probe trains new objects (:mod:`.copying`) wherever it can, so that the user's own objects need
no repair. What is shared by nature - random streams, the attributes of Trainer and strategy, the
data (:mod:`.data_state`) - is captured by value and restored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

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


def capture_tables(tables: Iterable[Any]) -> Restore:
    """Capture the entries of dicts and sets: which objects they hold, not their state."""
    saved = [(table, table.copy()) for table in tables]

    def restore() -> None:
        for table, entries in saved:
            table.clear()
            table.update(entries)

    return restore


def capture_attributes(holder: object) -> Restore:
    """Capture the attributes of ``holder``: which objects it refers to, not their state."""
    return capture_tables([vars(holder)])


def capture_gradients(module: nn.Module) -> Restore:
    """Capture which gradients the parameters hold, and which parameters ask for one."""
    saved = [(p, p.grad, p.requires_grad) for p in module.parameters()]

    def restore() -> None:
        for parameter, gradient, requires_grad in saved:
            parameter.grad = gradient
            parameter.requires_grad_(requires_grad)

    return restore


def capture_optimizers(optimizers: Iterable[Optimizer]) -> Restore:
    """Capture attributes and parameter groups, which a scheduler built on them would change."""
    return capture_tables(table for one in optimizers for table in (vars(one), *one.param_groups))
