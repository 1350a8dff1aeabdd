"""What an object holds, read without calling anything of the user's.

No property and no ``__getattr__`` runs. Children are read from ``__dict__``, ``__slots__``, cells,
defaults, class attributes and the globals that a user's function names, or, for iterators written
in C, from the garbage collector.
"""

from __future__ import annotations

import enum
import functools
import gc
import io
import itertools
import random
import sys
import sysconfig
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from lightning_init.probe import lightning_internals as internals

Children = Iterable[tuple[str, object]]

# Of longer containers a sample of evenly spaced items is looked at.
MOST_ITEMS = 10_000
SAMPLED_ITEMS = 1_000

ATOMS = frozenset({
    *(str, bytes, int, float, complex, bool, type(None), type(...), type(NotImplemented)),
    *(range, slice, types.CodeType, types.GenericAlias),
    *(types.GetSetDescriptorType, types.MemberDescriptorType),
    *(types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType),
    *(np.dtype, torch.dtype, torch.device, torch.Size),
})  # fmt: skip
_WITHOUT_CHILDREN = (
    *(types.ModuleType, types.FrameType, types.TracebackType, types.MappingProxyType),
    *(torch.Generator, np.random.Generator, np.random.RandomState),
    *(np.random.BitGenerator, random.Random, np.generic, io.IOBase, bytearray, enum.Enum),
)
# Handles of the process, and what has a snapshot of its own or works in other processes.
_MACHINERY = ("logging", "asyncio", "concurrent", "socket", "subprocess")
_LIGHTNING = tuple(
    f"{package}.{room}"
    for package in ("lightning.pytorch", "pytorch_lightning")
    for room in ("trainer.", "strategies.", "loops.", "loggers.", "accelerators.", "plugins.")
)
# Packages whose classes and functions keep no state of a training.
_FRAMEWORKS = frozenset({
    *sys.stdlib_module_names,
    *("torch", "torchvision", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics"),
    *("numpy", "pandas", "scipy", "lightning_utilities", "lightning_init"),
}) - {"__main__"}  # fmt: skip
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


#: Stands last among the children of which only a sample is given.
MORE = object()

#: The type of what `functools.lru_cache` makes.
LRU_CACHE = type(functools.lru_cache(lambda: None))


@functools.lru_cache(maxsize=4096)
def expander_of(kind: Any) -> Callable[[Any], Children] | None:
    """How to read the children of a type, or None if it is not entered at all."""
    if _is_stopped(kind):
        return None
    for parent, expand in _EXPANDERS:
        if issubclass(kind, parent):
            return expand
    if "__next__" in dir(kind) and kind.__module__ in ("builtins", "itertools", "_csv"):
        return _referents
    return attributes_of


def children_of(item: object) -> Children:
    """What an object holds, with the path to it; nothing if it is not entered."""
    if type(item) in ATOMS:
        return ()
    kind: Any = type(item)
    expand = expander_of(kind)
    return () if expand is None else expand(item)


def _is_stopped(kind: Any) -> bool:
    if issubclass(kind, threading.Thread):
        return True
    for parent in kind.__mro__:
        module = str(parent.__module__)
        if module.partition(".")[0] in _MACHINERY or f"{module}.".startswith(_LIGHTNING):
            return True
        if module.startswith("torch.utils.data.") and parent.__name__.endswith("DataLoaderIter"):
            return True
    # Of `multiprocessing` only shared values hold data of this process.
    module = str(kind.__module__)
    machinery = module.startswith(("multiprocessing.", "torch.multiprocessing."))
    return machinery and not module.endswith((".sharedctypes", ".queues"))


def instance_dict(item: object) -> dict[str, Any] | None:
    """The attributes of an object, without asking its class for them."""
    try:
        found = object.__getattribute__(item, "__dict__")
    except AttributeError:
        return None
    return found if type(found) is dict else None


@functools.lru_cache(maxsize=4096)
def slots_of(kind: Any) -> tuple[tuple[str, Any], ...]:
    """Names and descriptors of ``__slots__``, those of parent classes included."""
    return tuple(
        (name, value)
        for parent in kind.__mro__
        if "__slots__" in vars(parent)
        for name, value in vars(parent).items()
        if type(value) is types.MemberDescriptorType
    )


def slot_values(item: object) -> list[tuple[str, Any, Any]]:
    """Name, descriptor and value of every slot that is filled."""
    found = []
    kind: Any = type(item)
    for name, descriptor in slots_of(kind):
        try:
            found.append((name, descriptor, descriptor.__get__(item, type(item))))
        except AttributeError:  # empty
            continue
    return found


@functools.lru_cache(maxsize=4096)
def is_users(module_name: str | None) -> bool:
    """Whether a module is the user's own, not an installed package."""
    if module_name is None or module_name.partition(".")[0] in _FRAMEWORKS:
        return False
    file = getattr(sys.modules.get(module_name), "__file__", None)
    return file is None or not str(file).startswith(_INSTALLED)


def global_names(function: types.FunctionType) -> set[str]:
    """Names that the code of a function, and of functions inside it, may look up globally."""
    names: set[str] = set()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return names


def namespaces(function: types.FunctionType) -> Iterator[dict[str, Any]]:
    """Of the user's modules that a function lives in, names or imports."""
    if not is_users(function.__module__):
        return
    yield function.__globals__
    for name in sorted(global_names(function)):
        module = function.__globals__.get(name, sys.modules.get(name))
        if type(module) is types.ModuleType and is_users(module.__name__):
            yield vars(module)


# --------------------------------------------------------------------------------------- children
def attributes_of(item: Any) -> Children:
    """Attributes and slots, and the class, whose own attributes may hold state."""
    held = list((instance_dict(item) or {}).items())
    # Lightning keeps a loader's arguments under names of its own too: the user's comes first.
    if any(name.startswith("_") for name, _ in held):
        held.sort(key=lambda pair: pair[0].startswith("_"))
    for name, value in held:
        yield f".{name}", value
    for name, _, value in slot_values(item):
        yield f".{name}", value
    if str(type(item).__module__).partition(".")[0] not in _FRAMEWORKS:
        yield "", type(item)


def _class(item: type) -> Children:
    if not is_users(item.__module__):
        return
    for name, value in list(vars(item).items()):
        yield f".{name}", value
    for kind in (*item.__bases__, type(item)):
        yield "", kind


def closure_parts(item: types.FunctionType) -> Children:
    """Variables, defaults and attributes of a function, without the globals that it names."""
    for name, cell in zip(item.__code__.co_freevars, item.__closure__ or (), strict=True):
        yield f".{name}", cell
    defaults = (item.__defaults__ or ()) + tuple((item.__kwdefaults__ or {}).values())
    for number, value in enumerate(defaults):
        yield f".__defaults__[{number}]", value
    yield from ((f".{name}", value) for name, value in list(vars(item).items()))


def _function(item: types.FunctionType) -> Children:
    yield from closure_parts(item)
    for known in namespaces(item):
        for name in sorted(global_names(item) & known.keys()):
            yield f".{name}", known[name]


def _cell(item: types.CellType) -> Children:
    try:
        yield "", item.cell_contents
    except ValueError:  # a name that is bound later
        return


def _method(item: Any) -> Children:
    yield "", item.__self__
    yield f".{item.__name__}", getattr(item, "__func__", None)


def _wrapper(item: Any) -> Children:
    """What a property, a static method or a cached function is made of."""
    for name in ("__func__", "fget", "fset", "func", "__wrapped__"):
        yield f".{name}", getattr(item, name, None)


def _partial(item: Any) -> Children:
    yield ".func", item.func
    yield from ((f".args[{i}]", value) for i, value in enumerate(item.args))
    yield from ((f".{name}", value) for name, value in item.keywords.items())
    yield from attributes_of(item)


def _sequence(item: Any) -> Children:
    kind: Any = next(kind for kind in (list, tuple, deque) if issubclass(type(item), kind))
    yield from attributes_of(item)
    yield from _items(lambda: kind.__iter__(item), kind.__len__(item), range(kind.__len__(item)))


def _set(item: Any) -> Children:
    kind: Any = set if issubclass(type(item), set) else frozenset
    yield from attributes_of(item)
    yield from _items(lambda: kind.__iter__(item), kind.__len__(item), None)


def _dict(item: dict[Any, Any]) -> Children:
    yield from attributes_of(item)
    size = dict.__len__(item)
    yield from _items(lambda: itertools.islice(dict.keys(item), MOST_ITEMS), 0, None)
    yield from _items(lambda: iter(dict.values(item)), size, dict.keys(item))


def _array(item: np.ndarray[Any, Any]) -> Children:
    yield from attributes_of(item)
    if item.dtype == object:
        yield from _items(lambda: iter(item.flat), item.size, range(item.size))


def _items(values: Callable[[], Iterator[Any]], length: int, keys: Any) -> Children:
    if ATOMS.issuperset(map(type, values())):
        return
    step = 1 if length <= MOST_ITEMS else length // SAMPLED_ITEMS
    chosen = itertools.islice(values(), 0, None, step)
    names = itertools.repeat("") if keys is None else itertools.islice(keys, 0, None, step)
    for key, value in zip(names, chosen, strict=False):
        yield ("[...]" if keys is None else f"[{_shown(key)}]"), value
    if step > 1:
        yield "", MORE


def _shown(key: Any) -> str:
    return repr(key)[:40] if type(key) in ATOMS else type(key).__name__


def _generator(item: Any) -> Children:
    frame = item.gi_frame
    return [(f".{name}", value) for name, value in (frame.f_locals if frame else {}).items()]


def _referents(item: Any) -> Children:
    for value in gc.get_referents(item):
        # What `map` and `zip` keep their iterators in.
        yield from (("", part) for part in (value if type(value) is tuple else (value,)))


def _weak(item: Any) -> Children:
    yield "", item()


def _tensor(item: torch.Tensor) -> Children:
    yield from ((f".{name}", value) for name, value in list((instance_dict(item) or {}).items()))
    for hooks in internals.tensor_hooks(item):
        yield from (("", hook) for hook in hooks)


def _nothing(_: Any) -> Children:
    return ()


_EXPANDERS: tuple[tuple[Any, Callable[[Any], Children]], ...] = (
    (_WITHOUT_CHILDREN, _nothing),
    (type, _class),
    (types.FunctionType, _function),
    (types.CellType, _cell),
    ((types.MethodType, types.BuiltinMethodType), _method),
    (functools.partial, _partial),
    ((staticmethod, classmethod, property, functools.cached_property), _wrapper),
    (LRU_CACHE, _wrapper),
    ((list, tuple, deque), _sequence),
    ((set, frozenset), _set),
    (dict, _dict),
    (np.ndarray, _array),
    (torch.Tensor, _tensor),
    (types.GeneratorType, _generator),
    (weakref.ref, _weak),
)
