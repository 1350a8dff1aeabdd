"""A memo for `copy.deepcopy` that also copies what deepcopy shares, and shares what it refuses.

Deepcopy takes functions and weak references as they are. A hook that is a closure over the module,
a wrapped ``forward`` or a weak reference to a parent would then bind the copy to the original. Here
they are made anew, over the copies. What no copy can be made of (an open file, a generator, a
handle of the process) is shared alone, not the whole attribute that holds it.
"""

from __future__ import annotations

import copy
import functools
import io
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch

from lightning_init.probe.object_children import LRU_CACHE, children_of, closure_parts
from lightning_init.probe.object_walk import ObjectWalk

Make = Callable[[Any, "CopyMemo"], Any]

# A closure is followed through so many objects in search of what is copied.
MOST_FOLLOWED = 2_000

_LOCK, _RLOCK = type(threading.Lock()), type(threading.RLock())
_SHARED: tuple[type, ...] = (
    *(types.ModuleType, types.FrameType, types.TracebackType, types.MappingProxyType),
    *(types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, io.IOBase, memoryview),
    *(threading.Thread, threading.local),
)
_SHARED_PACKAGES = ("multiprocessing.", "torch.multiprocessing.", "concurrent.", "socket", "_csv")


class CopyMemo(dict[int, Any]):
    """The memo; give it to every `deepcopy` of one graph.

    Args:
        given: By id, what is copied or shared already.
        walk: The graph.
        copied: The objects that get a copy: what reaches one of them is made anew.
    """

    def __init__(self, given: dict[int, Any], walk: ObjectWalk, copied: Iterable[object]) -> None:
        super().__init__(given)
        self._copied = {id(item) for item in copied}
        self._walk = walk  # keeps alive what the ids stand for
        self._to_make: dict[int, tuple[Any, Make]] = {}
        for found in walk.found:
            make = self._maker(found.item)
            if make is not None and id(found.item) not in self:
                self._to_make[id(found.item)] = found.item, make
        self._follow_shared_cells()

    def get(self, key: int, default: Any = None) -> Any:
        """The copy of the object with this id; `deepcopy` asks here first."""
        if key in self._to_make:
            item, make = self._to_make.pop(key)
            made = make(item, self)
            self.setdefault(key, made)
        return super().get(key, default)

    def _maker(self, item: Any) -> Make | None:
        kind = type(item)
        if kind is types.FunctionType:
            return _function if self._reaches(item) else None
        if kind is LRU_CACHE:
            return _cache if self._reaches(item) else None
        if kind in (weakref.ref, weakref.WeakMethod):
            return _weak if id(_referent(item)) in self._copied else None
        if kind is types.BuiltinMethodType:
            bound = not isinstance(item.__self__, (types.ModuleType, type, types.NoneType))
            if not bound:
                return None
            return lambda method, memo: getattr(
                copy.deepcopy(method.__self__, memo), method.__name__
            )
        if kind in (_LOCK, _RLOCK):
            return lambda *_: threading.RLock() if kind is _RLOCK else threading.Lock()
        if kind is torch.Generator:
            return lambda generator, _: generator.clone_state()
        package = f"{kind.__module__}."
        if issubclass(kind, _SHARED) or package.startswith(_SHARED_PACKAGES):
            return lambda shared, _: shared
        return None

    def _reaches(self, start: Any) -> bool:
        """Whether a closure leads to something that is copied."""
        if str(start.__module__).startswith("torch._dynamo"):
            return False  # what a compiler keeps is not the user's
        seen: dict[int, object] = {}
        waiting: list[Any] = [start]
        while waiting and len(seen) < MOST_FOLLOWED:
            item = waiting.pop()
            if id(item) in self._copied:
                return True
            if id(item) not in seen:
                seen[id(item)] = item
                is_function = isinstance(item, types.FunctionType)
                waiting += [c for _, c in (closure_parts if is_function else children_of)(item)]
        return False

    def _follow_shared_cells(self) -> None:
        """Functions that share a variable with one that is made anew are made anew too."""
        functions = [f.item for f in self._walk.found if type(f.item) is types.FunctionType]
        more = True
        while more:
            ours = [f for f in functions if id(f) in self._to_make]
            cells = {id(cell) for f in ours for cell in f.__closure__ or ()}
            others = [f for f in functions if id(f) not in self._to_make and id(f) not in self]
            found = [f for f in others if any(id(c) in cells for c in f.__closure__ or ())]
            self._to_make |= {id(f): (f, _function) for f in found}
            more = bool(found)


def _function(item: types.FunctionType, memo: CopyMemo) -> Any:
    cells = []
    fresh = []
    for cell in item.__closure__ or ():
        if id(cell) not in memo:
            memo[id(cell)] = types.CellType()
            fresh.append(cell)
        cells.append(memo[id(cell)])
    made = types.FunctionType(
        item.__code__, item.__globals__, item.__name__, item.__defaults__, tuple(cells)
    )
    memo[id(item)] = made  # before its contents, which may lead back here
    for cell in fresh:
        try:
            memo[id(cell)].cell_contents = copy.deepcopy(cell.cell_contents, memo)
        except ValueError:  # empty
            continue
    made.__defaults__ = copy.deepcopy(item.__defaults__, memo)
    made.__kwdefaults__ = copy.deepcopy(item.__kwdefaults__, memo)
    made.__module__, made.__qualname__ = item.__module__, item.__qualname__
    made.__doc__, made.__annotations__ = item.__doc__, item.__annotations__
    vars(made).update(copy.deepcopy(vars(item), memo))
    return made


def _cache(item: Any, memo: CopyMemo) -> Any:
    function = copy.deepcopy(item.__wrapped__, memo)
    return functools.lru_cache(**item.cache_parameters())(function)


def _referent(item: Any) -> object:
    target = item()
    return target.__self__ if isinstance(item, weakref.WeakMethod) and target else target


def _weak(item: Any, memo: CopyMemo) -> Any:
    return type(item)(copy.deepcopy(item(), memo))
