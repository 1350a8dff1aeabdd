"""Random generators: their state, put back."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch

from lightning_init.probe.contents import PutBack


def _with_state(item: Any) -> PutBack:
    state = item.get_state()

    def put_back() -> None:
        item.set_state(state)

    return put_back


def _numpy(item: np.random.Generator) -> PutBack:
    source: Any = item.bit_generator
    state, spawned = copy.deepcopy(source.state), _spawned(source)

    def put_back() -> bool:
        source.state = state
        return _spawned(source) != spawned

    return put_back


def _spawned(source: Any) -> int | None:
    sequence = getattr(source, "seed_seq", None)
    return getattr(sequence, "n_children_spawned", None)


def _python_random(item: random.Random) -> PutBack | None:
    try:
        state = item.getstate()
    except NotImplementedError:  # drawn from the operating system
        return None
    attributes = dict(vars(item))

    def put_back() -> None:
        vars(item).update(attributes)
        item.setstate(state)

    return put_back


_KINDS: tuple[tuple[type, Any], ...] = (
    (torch.Generator, _with_state),
    (np.random.Generator, _numpy),
    (np.random.RandomState, _with_state),
    (random.Random, _python_random),
)

#: The types of generators.
GENERATORS = tuple(kind for kind, _ in _KINDS)


def keep_generator(item: Any) -> PutBack | None:
    """What puts the state of a generator back, or None if it has none."""
    keep = next(keep for kind, keep in _KINDS if isinstance(item, kind))
    put_back: PutBack | None = keep(item)
    return put_back
