"""Values by tensor, as a trace looks them up some thousand times."""

from __future__ import annotations

import weakref
from typing import Any, Generic, TypeVar

from torch import Tensor

Value = TypeVar("Value")


class _Reference(weakref.ref):  # type: ignore[type-arg]
    __slots__ = ("identity",)
    identity: int


class TensorTable(Generic[Value]):
    """Values by the identity of tensors, held weakly: a tensor takes its value with it.

    What `torch.utils.weak.WeakTensorKeyDictionary` does, at a tenth of the time of a look-up.

    Args:
        beside: Another table, mostly of the same tensors: both share one reference to each.

    Example:
        >>> import torch
        >>> table, tensor = TensorTable(), torch.ones(2)
        >>> table[tensor] = "ones"
        >>> table.get(tensor), table.get(torch.ones(2)), len(table.values)
        ('ones', None, 1)
        >>> del tensor
        >>> len(table.values)
        0
    """

    def __init__(self, beside: TensorTable[Any] | None = None) -> None:
        self.values: dict[int, Value] = {}
        shared = ({}, []) if beside is None else beside.shared
        self.shared: tuple[dict[int, _Reference], list[dict[int, Any]]] = shared
        self._references, self._tables = shared
        self._tables.append(self.values)

    def get(self, tensor: Tensor) -> Value | None:
        """The value of a tensor, None if it has none."""
        return self.values.get(id(tensor))

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self.values

    def __setitem__(self, tensor: Tensor, value: Value) -> None:
        identity = id(tensor)
        if identity not in self._references:
            self._references[identity] = reference = _Reference(tensor, self._forget)
            reference.identity = identity
        self.values[identity] = value

    def discard(self, tensor: Tensor) -> None:
        """Forget a tensor."""
        self.values.pop(id(tensor), None)

    def living(self) -> list[tuple[Tensor, Value]]:
        """The tensors that are still there, with their values."""
        found: list[tuple[Any, Value]] = []
        for identity, value in list(self.values.items()):
            if (tensor := self._references[identity]()) is not None:
                tensor._fix_weakref()  # noqa: SLF001 - torch may have been its only owner
                found.append((tensor, value))
        return found

    def _forget(self, reference: _Reference) -> None:
        del self._references[reference.identity]
        for values in self._tables:
            values.pop(reference.identity, None)
