"""Iterators and files: a stand-in that the probe may use up, or a position to go back to."""

from __future__ import annotations

import functools
import io
import itertools
import os
import types
from collections.abc import Callable
from typing import Any

from lightning_init.probe.contents import PutBack

# Of a text file that was read line by line the position is known only by what is left of it.
MOST_REREAD = 16 * 2**20

_ITERTOOLS = (
    *(itertools.count, itertools.cycle, itertools.chain, itertools.islice, itertools.repeat),
    *(itertools.accumulate, itertools.compress, itertools.dropwhile, itertools.takewhile),
    *(itertools.filterfalse, itertools.starmap, itertools.zip_longest, itertools.product),
    *(itertools.permutations, itertools.combinations, itertools.combinations_with_replacement),
)
_BUILT = (zip, map, filter, enumerate, reversed)
_CONTAINERS: tuple[Any, ...] = ([], (), "", "é", b"", bytearray(), range(0), range(2**70))
_OVER_CONTAINERS = (*map(type, map(iter, _CONTAINERS)), type(reversed([])))

#: Modules of the queues between processes, and of the one written in C.
QUEUES = ("_queue", "multiprocessing.queues")

#: Types that `duplicate` may know how to copy.
COPIED = frozenset({*_ITERTOOLS, *_BUILT, *_OVER_CONTAINERS})


def duplicate(iterator: Any, known: dict[int, Any]) -> Any:
    """An iterator at the same place, which moves alone; what it iterates over is shared.

    Args:
        iterator: One of the types `COPIED`.
        known: By id, what was duplicated before.

    Returns:
        The duplicate, or None where the iterator, or one below it, cannot be duplicated.
    """
    if id(iterator) not in known:
        try:
            known[id(iterator)] = _rebuilt(iterator, known)
        except (TypeError, NotImplementedError):
            known[id(iterator)] = None
    return known[id(iterator)]


def _rebuilt(iterator: Any, known: dict[int, Any]) -> Any:
    reduced = iterator.__reduce__()
    make, arguments, state = (*reduced, None)[:3]
    if type(iterator) in _OVER_CONTAINERS:
        # The items of a tuple, of which `chain` keeps one, cannot be replaced where they are held.
        inside = [_items_moved_alone(a, known) if type(a) is tuple else a for a in arguments]
        built = make(*inside)
    else:
        built = make(*(_moved_alone(argument, known) for argument in arguments))
    if state is not None:
        built.__setstate__(_state_moved_alone(state, known))
    return built


def _state_moved_alone(state: Any, known: dict[int, Any]) -> Any:
    if not isinstance(state, tuple):
        return state
    # `cycle` adds to its list of what it has seen.
    return tuple(list(s) if type(s) is list else _moved_alone(s, known) for s in state)


def _items_moved_alone(items: tuple[Any, ...], known: dict[int, Any]) -> tuple[Any, ...]:
    return tuple(_moved_alone(item, known) for item in items)


def _moved_alone(value: Any, known: dict[int, Any]) -> Any:
    if isinstance(value, tuple) and value and all(hasattr(type(v), "__next__") for v in value):
        return _items_moved_alone(value, known)
    if not hasattr(type(value), "__next__"):
        return value
    copied = duplicate(value, known) if type(value) in COPIED else None
    if copied is None:
        raise TypeError
    return copied


def watch_iterator(item: Any) -> PutBack | None:
    """Notices that an iterator which cannot be duplicated has moved."""
    if isinstance(item, types.GeneratorType):
        before = _frame_state(item)
        return lambda: _frame_state(item) != before
    if type(item).__module__ == "_csv" and hasattr(item, "line_num"):
        return None  # the file below it is put back
    if type(item) in COPIED:
        return _watch(item, _position)
    return None


def _watch(item: Any, read: Callable[[Any], Any]) -> PutBack:
    before = read(item)
    return lambda: bool(read(item) != before)


def _frame_state(generator: Any) -> Any:
    frame = generator.gi_frame
    return frame and (frame.f_lasti, {name: id(value) for name, value in frame.f_locals.items()})


def _position(iterator: Any) -> Any:
    try:
        _, *rest = iterator.__reduce__()
    except TypeError:  # an iterator below it cannot be copied; that one is watched too
        return None
    return repr([part for part in rest if type(part) in (int, tuple)])[:1000]


def watch_queue(item: Any) -> PutBack | None:
    """Notices that a queue between processes, or one written in C, has another length."""
    kind = type(item)
    if kind.__module__ not in QUEUES:
        return None
    read = item.empty if kind.__name__ == "SimpleQueue" and kind.__module__ != "_queue" else None
    return _watch(item, lambda queue: (read or queue.qsize)())


def keep_position(file: Any) -> PutBack | None:
    """Goes back to where a readable file stood."""
    if isinstance(file, (io.BytesIO, io.StringIO)):
        memory: Any = file  # of which typeshed does not say that it can be pickled
        return functools.partial(memory.__setstate__, memory.__getstate__())
    if file.closed or not (file.readable() and file.seekable()):
        return None
    try:
        return functools.partial(_seek, file, file.tell())
    except OSError:  # a text file that was read by `next`
        return _keep_text_position(file)


def _seek(file: Any, position: int) -> bool:
    if file.closed:
        return True
    file.seek(position)
    return False


def _keep_text_position(file: Any) -> PutBack:
    """How many characters were read, from what is left of the file."""
    if os.fstat(file.fileno()).st_size > MOST_REREAD:
        return _watch(file.buffer, lambda buffer: buffer.tell())
    left = len(file.read())
    file.seek(0)
    read = len(file.read()) - left

    def put_back() -> None:
        file.seek(0)
        file.read(read)

    put_back()
    return put_back
