"""Checksums of batches by sampling: cheap enough to be taken of every batch of a real run."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

# Entries taken of each tensor of a batch, and how deep its containers and objects are looked into.
SAMPLED_ENTRIES = 64
_DEPTH = 6

# Positions i * SAMPLED_STEP mod 1 cover an axis evenly and fall on no regular column of a table.
_SAMPLED_STEP = 0.6180339887498949


# So many batches are all looked at, then one of every few: what leaks shows at once or stays.
_ALL_UNTIL, _ONE_OF = 32, 8


def fingerprint_of(batch: Any, number: int) -> Fingerprint | None:
    """The fingerprint of the batch with this number, None for most of the later ones."""
    looked_at = number < _ALL_UNTIL or number % _ONE_OF == 0
    return Fingerprint(batch) if looked_at else None


class Fingerprint:
    """What identifies a batch: a checksum of its structure, and some entries of each tensor.

    The entries stay on the device of the batch, so that taking them does not wait for it.

    Args:
        batch: Tensors and arrays in any nesting of containers and objects; numbers and text in
            them count whole.
    """

    __slots__ = ("_structure", "_values")

    def __init__(self, batch: Any) -> None:
        self._structure = 0
        self._values: list[Tensor] = []
        for leaf in leaves_of(batch):
            if isinstance(leaf, Tensor):
                self._values.append(sampled_entries(leaf))
                leaf = (str(leaf.dtype), tuple(leaf.shape))
            self._structure = crc32(repr(leaf).encode(), self._structure)

    def equals(self, other: Fingerprint) -> bool:
        """Whether both are of the same batch, as far as the sample goes; nan equals nan."""
        return self._structure == other._structure and all(
            torch.equal(own, theirs)
            for own, theirs in zip(self._values, other._values, strict=True)
        )


def sampled_entries(tensor: Tensor) -> Tensor:
    """At most `SAMPLED_ENTRIES` entries of ``tensor``, or of this rank's shard of it, as bytes."""
    tensor = getattr(tensor, "to_local", lambda: tensor)().detach()
    if tensor.layout is not torch.strided or tensor.is_nested:
        return torch.empty(0, dtype=torch.uint8)
    entries = tensor.numel()
    if entries <= SAMPLED_ENTRIES:
        return tensor.reshape(-1).clone().view(torch.uint8)
    positions = _positions(entries, tensor.device)
    if tensor.is_contiguous():
        return tensor.view(-1)[positions].view(torch.uint8)
    return tensor[torch.unravel_index(positions, tensor.shape)].view(torch.uint8)


@functools.lru_cache(maxsize=256)
def _positions(entries: int, device: torch.device) -> Tensor:
    spread = torch.arange(SAMPLED_ENTRIES, dtype=torch.float64) * _SAMPLED_STEP % 1.0
    return (spread * entries).long().to(device)


def leaves_of(item: Any, depth: int = _DEPTH) -> Iterator[Any]:
    """Tensors, and text for everything else, in the order of the containers."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, np.ndarray) and item.dtype.kind in "biufc":
        yield torch.from_numpy(np.ascontiguousarray(item))
    elif item is None or isinstance(item, (bool, int, float, complex, str, bytes)):
        yield item
    elif depth == 0 or isinstance(item, (type, nn.Module)):
        yield type(item).__name__
    elif isinstance(item, Mapping):
        for key, value in item.items():
            yield str(key)
            yield from leaves_of(value, depth - 1)
    elif isinstance(item, (list, tuple)):
        yield len(item)
        for value in item:
            yield from leaves_of(value, depth - 1)
    else:
        yield type(item).__name__
        yield from leaves_of(getattr(item, "__dict__", None), depth - 1)
