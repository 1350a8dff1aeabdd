"""One walk over the graph of Python objects behind data, module, optimizers and schedulers."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

from lightning_init.probe.object_children import ATOMS, MORE, attributes_of, expander_of

# The walk ends after so many objects; the items of a container that has many come last.
MOST_OBJECTS = 40_000
MANY_ITEMS = 200


class Found(NamedTuple):
    """An object that the walk met.

    Args:
        item: The object.
        parent: Index of the object that it was reached from, -1 for a root.
        label: How it is reached from there: ``.name``, ``[key]`` or nothing.
    """

    item: Any
    parent: int
    label: str


class ObjectWalk:
    """The objects reachable from ``roots``, each once, near ones first.

    Args:
        roots: Where to start, by the name that the user knows.
        leave: Objects that are not entered.
        most: After so many objects the walk ends; None for `MOST_OBJECTS`.

    Attributes:
        found: What was met.
        notes: What was not looked at, or only in part: one phrase each.
    """

    def __init__(
        self,
        roots: Mapping[str, object],
        leave: Iterable[object] = (),
        most: int | None = None,
    ) -> None:
        most = most or MOST_OBJECTS
        self.found: list[Found] = []
        self.notes: list[str] = []
        self._seen = {id(item): item for item in leave}  # kept: an id may not be used again
        self._is_cut = False
        near = deque(Found(item, -1, name) for name, item in roots.items())
        # Samples in their thousands come last: state is rather behind a loader's few attributes.
        crowd: deque[Found] = deque()
        while (near or crowd) and len(self.found) < most:
            entry = (near or crowd).popleft()
            key = id(entry.item)
            if key not in self._seen and type(entry.item) not in ATOMS:
                self._seen[key] = entry.item
                room = most - len(self.found) - len(near)
                children = self._enter(entry, room, room - len(crowd))
                (near if len(children) < MANY_ITEMS else crowd).extend(children)
        if near or crowd or self._is_cut:
            self.notes.append(f"only the nearest {most} objects were looked at")

    def name(self, index: int) -> str:
        """The path from a root, as ``train_dataloader.dataset.transforms[1].rng``."""
        path = [self.found[step].label for step in self.above(index)]
        return "".join(reversed(path))

    def above(self, index: int) -> Iterator[int]:
        """Indices from an object up to its root."""
        while index >= 0:
            yield index
            index = self.found[index].parent

    def _enter(self, entry: Found, room: int, room_for_many: int) -> list[Found]:
        """What an object holds that is new; of many things as many as there is room for."""
        kind: Any = type(entry.item)
        index = len(self.found)
        try:
            # What is asked for is entered in any case.
            expand = expander_of(kind) or (attributes_of if entry.parent < 0 else None)
            if expand is None:
                return []
            self.found.append(entry)
            held = (
                (label, child)
                for label, child in expand(entry.item)
                if type(child) not in ATOMS and id(child) not in self._seen
            )
            children = list(islice(held, min(MANY_ITEMS, room)))
            if len(children) == MANY_ITEMS:
                children += islice(held, max(0, room_for_many - MANY_ITEMS))
            self._is_cut |= next(held, None) is not None
        except Exception as error:
            name = self.name(entry.parent) + entry.label
            self.notes.append(f"{name} could not be read ({type(error).__name__})")
            return []
        if children and children[-1][1] is MORE:
            children.pop()
            self.notes.append(f"{len(children)} of the items of {self.name(index)} were looked at")
        return [Found(child, index, label) for label, child in children]


@contextmanager
def without_collections() -> Iterator[None]:
    """Hold the garbage collector: among so many new objects it takes longer than the walk."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
