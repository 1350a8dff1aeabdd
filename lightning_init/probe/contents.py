"""Contents of arrays, tensors, shared values and random generators: put back, or compared."""

from __future__ import annotations

import array
import copy
import ctypes
import random
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Puts contents back; True if they changed and could not be.
PutBack = Callable[[], bool | None]

# Larger arrays are not copied, nor is more than this in total; a checksum tells whether they
# changed, of all bytes up to a budget, then of evenly spaced blocks.
MOST_COPIED = 2**20
COPIED_IN_TOTAL = 64 * 2**20
CHECKED_IN_TOTAL = 256 * 2**20
_BLOCKS, _BLOCK = 64, 64 * 2**10

# The parent of every ctypes type; its name is private.
CData = ctypes.c_int.__mro__[-2]


class Contents:
    """Keeps contents within a budget of bytes.

    Attributes:
        sampled: Whether the checksum of the last call skipped bytes.
    """

    def __init__(self) -> None:
        self._seen: set[tuple[int, int, str]] = set()
        self._copied = 0
        self._checked = 0
        self.sampled = False

    def keep(self, item: Any) -> PutBack | None:
        """What puts the contents of ``item`` back, or None if it holds none that can change."""
        self.sampled = False
        if isinstance(item, Tensor):
            return self._keep_tensor(item)
        if isinstance(item, np.ndarray):
            return self._keep_array(item)
        if isinstance(item, (bytearray, array.array)):
            return _keep_buffer(item)
        if isinstance(item, CData):
            return _keep_shared(item)
        return None

    def _keep_tensor(self, tensor: Tensor) -> PutBack | None:
        if tensor.layout != torch.strided or tensor.device.type == "meta" or tensor.is_quantized:
            return None
        # The memory as it is: a view may be spread over it, or repeat parts of it.
        storage = tensor.untyped_storage()
        return self._keep_bytes(
            torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
        )

    def _keep_array(self, given: np.ndarray[Any, Any]) -> PutBack | None:
        owner = given.view(np.ndarray)
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if owner.dtype.hasobject:
            return _keep_objects(given.view(np.ndarray))
        if not owner.flags.writeable or not owner.flags.forc or owner.nbytes == 0:
            return None
        flat = owner.reshape(-1, order="A").view(np.ndarray).view(np.uint8)
        return self._keep_bytes(torch.from_numpy(flat))

    def _keep_bytes(self, data: Tensor) -> PutBack | None:
        place = (data.data_ptr(), data.numel(), str(data.device))
        if place in self._seen or not data.numel():
            return None
        self._seen.add(place)
        if data.numel() > MOST_COPIED or self._copied + data.numel() > COPIED_IN_TOTAL:
            return self._watch(data)
        self._copied += data.numel()
        saved = data.clone()

        def put_back() -> None:
            if not torch.equal(data, saved):
                data.copy_(saved)

        return put_back

    def _watch(self, data: Tensor) -> PutBack:
        sampled = data.is_cuda or self._checked + data.numel() > CHECKED_IN_TOTAL
        if not sampled:
            self._checked += data.numel()
        self.sampled = sampled
        before = _checksum(data, sampled)
        return lambda: _checksum(data, sampled) != before


def _keep_buffer(item: Any) -> PutBack:
    saved = item[:]

    def put_back() -> None:
        if item != saved:
            item[:] = saved

    return put_back


def _keep_shared(item: Any) -> PutBack | None:
    size = ctypes.sizeof(item)
    if size > MOST_COPIED:
        return None
    saved = bytes(memoryview(item).cast("B"))

    def put_back() -> None:
        ctypes.memmove(ctypes.addressof(item), saved, size)

    return put_back


def _keep_objects(values: np.ndarray[Any, Any]) -> PutBack | None:
    if not values.flags.writeable or values.dtype != object:
        return None
    saved = values.copy()

    def put_back() -> None:
        if any(a is not b for a, b in zip(values.flat, saved.flat, strict=True)):
            np.copyto(values, saved)

    return put_back


def _checksum(data: Tensor, sampled: bool) -> int:
    if not sampled:
        return zlib.crc32(_buffer(data))
    total = 0
    for start in range(0, data.numel(), max(_BLOCK, data.numel() // _BLOCKS)):
        total = zlib.crc32(_buffer(data[start : start + _BLOCK]), total)
    return total


def _buffer(data: Tensor) -> Any:
    return data.cpu().numpy()


def is_table(kind: type) -> bool:
    """Whether a type is a table or a column of pandas."""
    pandas: Any = sys.modules.get("pandas")
    return pandas is not None and issubclass(kind, (pandas.DataFrame, pandas.Series))


def keep_table(item: Any) -> PutBack:
    """Let the probe read a copy of a small table's data; a large one is compared by checksum."""
    pandas: Any = sys.modules["pandas"]
    if int(np.sum(item.memory_usage(index=False))) > MOST_COPIED:
        return _watch_table(item, pandas)
    original = vars(item)["_mgr"]
    vars(item)["_mgr"] = vars(item.copy(deep=True))["_mgr"]

    def put_back() -> None:
        vars(item)["_mgr"] = original

    return put_back


def _watch_table(item: Any, pandas: Any) -> PutBack:
    def read() -> int:
        rows = item.iloc[:: max(1, len(item) // 100_000)]
        return zlib.crc32(pandas.util.hash_pandas_object(rows).to_numpy())

    before = read()
    return lambda: read() != before


# ------------------------------------------------------------------------------ random generators
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
