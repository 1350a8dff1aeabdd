"""One walk over the graph of Python objects behind data, module, optimizers and schedulers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lightning_init.probe.object_children import ATOMS, MORE, attributes_of, expander_of

# The walk ends after so many objects; the items of a container that has many come last.
MOST_OBJECTS = 50_000
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

    Attributes:
        found: What was met.
        notes: What was not looked at, or only in part: one phrase each.
    """

    def __init__(self, roots: Mapping[str, object], leave: Iterable[object] = ()) -> None:
        self.found: list[Found] = []
        self.notes: list[str] = []
        self._seen = {id(item): item for item in leave}  # kept: an id may not be used again
        near = deque(Found(item, -1, name) for name, item in roots.items())
        # Samples in their thousands come last: state is rather behind a loader's few attributes.
        crowd: deque[Found] = deque()
        while near or crowd:
            if len(self.found) >= MOST_OBJECTS:
                self.notes.append(f"only the nearest {MOST_OBJECTS} objects were looked at")
                break
            entry = (near or crowd).popleft()
            key = id(entry.item)
            if key not in self._seen and type(entry.item) not in ATOMS:
                self._seen[key] = entry.item
                children = self._enter(entry)
                room = MOST_OBJECTS - len(near) - len(crowd)
                (near if len(children) < MANY_ITEMS else crowd).extend(children[:room])

    def name(self, index: int) -> str:
        """The path from a root, as ``train_dataloader.dataset.transforms[1].rng``."""
        path = [self.found[step].label for step in self.above(index)]
        return "".join(reversed(path))

    def above(self, index: int) -> Iterator[int]:
        """Indices from an object up to its root."""
        while index >= 0:
            yield index
            index = self.found[index].parent

    def _enter(self, entry: Found) -> list[Found]:
        kind: Any = type(entry.item)
        index = len(self.found)
        try:
            # What is asked for is entered in any case.
            expand = expander_of(kind) or (attributes_of if entry.parent < 0 else None)
            if expand is None:
                return []
            self.found.append(entry)
            children = list(expand(entry.item))
        except Exception as error:
            name = self.name(entry.parent) + entry.label
            self.notes.append(f"{name} could not be read ({type(error).__name__})")
            return []
        if children and children[-1][1] is MORE:
            children.pop()
            self.notes.append(f"{len(children)} of the items of {self.name(index)} were looked at")
        return [Found(child, index, label) for label, child in children if type(child) not in ATOMS]
