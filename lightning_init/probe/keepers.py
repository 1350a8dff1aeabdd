"""How each kind of object is put back: containers, attributes, random generators, caches."""

from __future__ import annotations

import array
import functools
import io
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from operator import is_
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_init.probe.contents import (
    GENERATORS,
    CData,
    Contents,
    PutBack,
    is_table,
    keep_generator,
    keep_table,
)
from lightning_init.probe.iterators import (
    COPIED,
    QUEUES,
    duplicate,
    keep_position,
    watch_iterator,
    watch_queue,
)
from lightning_init.probe.object_children import (
    LRU_CACHE,
    global_names,
    instance_dict,
    is_users,
    namespaces,
    slot_values,
    slots_of,
)


class Keeping:
    """What the captures of one walk share: the budget of bytes, and the iterators' duplicates."""

    def __init__(self) -> None:
        self.contents = Contents()
        self._duplicates: dict[int, Any] = {}

    def stand_ins(self, values: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Place and duplicate of every iterator among ``values`` that has one."""
        for place, value in enumerate(values):
            if type(value) in COPIED:
                copied = duplicate(value, self._duplicates)
                if copied is not None:
                    yield place, copied


Keep = Callable[[Any, Keeping], PutBack | None]


@functools.lru_cache(maxsize=4096)
def keepers_of(kind: Any) -> tuple[Keep, ...]:
    """What captures the parts of an object of this type."""
    for parents, keep in _WHOLE:
        if issubclass(kind, parents):
            return (keep,)
    if is_table(kind):
        return (lambda item, _: keep_table(item),)
    keepers = [keep for parents, keep in _PARTS if issubclass(kind, parents)]
    if hasattr(kind, "__next__") or kind.__module__ in QUEUES:
        keepers.append(_iterator)
    if slots_of(kind):
        keepers.append(_slots)
    return (*keepers, _loader_attributes if issubclass(kind, DataLoader) else _attributes)


# ------------------------------------------------------------------------------------- containers
def _dict(item: Any, keeping: Keeping) -> PutBack:
    base: Any = OrderedDict if isinstance(item, OrderedDict) else dict
    keys, values = tuple(base.keys(item)), tuple(base.values(item))
    if not COPIED.isdisjoint(map(type, values)):
        for place, copied in keeping.stand_ins(values):
            base.__setitem__(item, keys[place], copied)

    def put_back() -> None:
        if not (_same(base.values(item), values) and _same(base.keys(item), keys)):
            base.clear(item)
            for key, value in zip(keys, values, strict=True):
                base.__setitem__(item, key, value)

    return put_back


def _same(now: Any, saved: Any) -> bool:
    """Whether two rows hold the same objects; their own comparisons are not called."""
    return len(now) == len(saved) and all(map(is_, now, saved))


def _set(item: set[Any], _: Keeping) -> PutBack:
    saved = set.copy(item)
    order = list(set.__iter__(item))

    def put_back() -> None:
        if not _same(list(set.__iter__(item)), order):
            set.clear(item)
            set.update(item, saved)

    return put_back


def _sequence(item: Any, keeping: Keeping) -> PutBack:
    base: Any = list if isinstance(item, list) else deque
    values = list(base.__iter__(item))
    if not COPIED.isdisjoint(map(type, values)):
        for place, copied in keeping.stand_ins(values):
            base.__setitem__(item, place, copied)

    def put_back() -> None:
        if not _same(list(base.__iter__(item)), values):
            base.clear(item)
            base.extend(item, values)

    return put_back


# ------------------------------------------------------------------- attributes, cells and globals
def _attributes(item: Any, keeping: Keeping) -> PutBack | None:
    attributes = instance_dict(item)
    return None if attributes is None else _dict(attributes, keeping)


def _loader_attributes(item: Any, keeping: Keeping) -> PutBack | None:
    put_back = _attributes(item, keeping)
    # A probe opens an iterator of its own; all of this is put back with the other attributes.
    attributes = vars(item)
    if attributes.get("_initial_iter_for_state_dict"):
        # torchdata's has one waiting since its state was asked for: begin where that one stands.
        with suppress(Exception):
            attributes["next_iter_state"] = item.state_dict()
        attributes["_initial_iter_for_state_dict"] = False
    attributes["_iterator"] = None
    return put_back


def _named(
    read: Callable[[], dict[Any, Any]],
    write: Callable[[Any, Any], None],
    delete: Callable[[Any], None],
    keeping: Keeping,
) -> PutBack:
    """Put back what names stand for, where no dict of the object's own holds them."""
    saved = read()
    names = list(saved)
    for place, copied in keeping.stand_ins(saved.values()):
        write(names[place], copied)

    def put_back() -> None:
        now = read()
        for name, value in saved.items():
            if name not in now or now[name] is not value:
                write(name, value)
        for name in now.keys() - saved.keys():
            delete(name)

    return put_back


def _slots(item: Any, keeping: Keeping) -> PutBack:
    # By descriptor: a class and its parent may have a slot of one name each.
    return _named(
        lambda: {descriptor: value for _, descriptor, value in slot_values(item)},
        lambda descriptor, value: descriptor.__set__(item, value),
        lambda descriptor: descriptor.__delete__(item),
        keeping,
    )


def _cell(item: types.CellType, keeping: Keeping) -> PutBack | None:
    try:
        saved = item.cell_contents
    except ValueError:  # empty until the probe fills it, as the real run will
        return None
    for _, copied in keeping.stand_ins([saved]):
        item.cell_contents = copied

    def put_back() -> None:
        item.cell_contents = saved

    return put_back


def _globals(item: types.FunctionType, keeping: Keeping) -> PutBack | None:
    """The module-level names that a user's function may bind anew."""
    names = global_names(item)
    put_backs = [_bindings(held, names, keeping) for held in namespaces(item)]

    def put_back() -> None:
        for put_one_back in put_backs:
            put_one_back()

    return put_back if put_backs else None


def _bindings(held: dict[str, Any], names: set[str], keeping: Keeping) -> PutBack:
    def delete(name: str) -> None:
        if not isinstance(held[name], types.ModuleType):
            del held[name]

    return _named(
        lambda: {name: held[name] for name in names & held.keys()},
        held.__setitem__,
        delete,
        keeping,
    )


def _class(item: type, keeping: Keeping) -> PutBack | None:
    if not is_users(item.__module__):
        return None
    return _named(
        lambda: {n: value for n, value in vars(item).items() if not n.startswith("__")},
        functools.partial(type.__setattr__, item),
        functools.partial(type.__delattr__, item),
        keeping,
    )


# ------------------------------------------------------------------------------ contents and caches
def _contents(item: Any, keeping: Keeping) -> PutBack | None:
    return keeping.contents.keep(item)


def _gradient(item: Tensor, _: Keeping) -> PutBack | None:
    if not (item.is_leaf and item.requires_grad):
        return None
    saved = item.grad

    def put_back() -> None:
        item.grad = saved

    return put_back


def _cache(item: Any, _: Keeping) -> PutBack:
    before = item.cache_info()

    def put_back() -> bool:
        if item.cache_info() == before:
            return False
        if before.misses:  # what it held cannot be told
            return True
        item.cache_clear()
        return False

    return put_back


def _iterator(item: Any, _: Keeping) -> PutBack | None:
    return watch_iterator(item) or watch_queue(item)


# Kinds of which one capture is enough, and parts that an object may have several of.
_WHOLE: tuple[tuple[Any, Keep], ...] = (
    (GENERATORS, lambda item, _: keep_generator(item)),
    (io.IOBase, lambda item, _: keep_position(item)),
    (types.CellType, _cell),
    (type, _class),
    (CData, _contents),
)
_PARTS: tuple[tuple[Any, Keep], ...] = (
    (dict, _dict),
    ((list, deque), _sequence),
    (set, _set),
    (types.FunctionType, _globals),
    (LRU_CACHE, _cache),
    (Tensor, _gradient),
    ((Tensor, np.ndarray, bytearray, array.array), _contents),
)
