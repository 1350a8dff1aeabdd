"""A series that grows by one sample at a time, at amortised constant cost."""

from __future__ import annotations

import numpy as np

from lightning_init.stationarity.drift import FloatArray

INITIAL_CAPACITY = 64


class AppendOnlySeries:
    """An immutable-looking series of floats: `append` returns a longer one.

    Successive series share one array. A sample is written only where no series has written before;
    otherwise, or when the array is full, the samples are copied. So a series never changes, and a
    chain of n appends costs O(n).

    Example:
        >>> short = AppendOnlySeries().append(1.0)
        >>> short.append(2.0).values.tolist(), short.append(3.0).values.tolist()
        ([1.0, 2.0], [1.0, 3.0])
        >>> short.length
        1
    """

    __slots__ = ("_shared", "length")

    def __init__(self, shared: _Shared | None = None, length: int = 0) -> None:
        self.length = length
        self._shared = shared or _Shared(np.empty(INITIAL_CAPACITY))

    def append(self, value: float) -> AppendOnlySeries:
        """The series with one more sample."""
        shared = self._shared
        if shared.used != self.length or self.length == len(shared.array):
            shared = shared.copy(self.length)
        shared.array[self.length] = value
        shared.used = self.length + 1
        return AppendOnlySeries(shared, self.length + 1)

    @property
    def values(self) -> FloatArray:
        """The samples, shape (length,), read-only."""
        view = self._shared.array[: self.length]
        view.flags.writeable = False
        return view


class _Shared:
    """An array and how much of it is taken."""

    __slots__ = ("array", "used")

    def __init__(self, array: FloatArray) -> None:
        self.array = array
        self.used = 0

    def copy(self, length: int) -> _Shared:
        other = _Shared(np.empty(max(2 * length, INITIAL_CAPACITY)))
        other.array[:length] = self.array[:length]
        return other
