"""The state of objects: captured below some roots, put back; what could not be is named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning_init.probe.contents import PutBack
from lightning_init.probe.keepers import Keeping, keepers_of
from lightning_init.probe.object_walk import ObjectWalk, without_collections


def capture(
    roots: Mapping[str, object] | Iterable[object], leave: Iterable[object] = ()
) -> CapturedState:
    """Capture what a training may change in the objects reachable from ``roots``.

    Until `restore` is called, iterators are replaced by duplicates where they are held, and the
    iterators of persistent workers are hidden, so that a probe opens its own.

    Args:
        roots: Loaders, datasets, modules, optimizers; by the name that the user knows, or in a
            row, to be named by their class.
        leave: Objects that are not entered.

    Example:
        >>> import random
        >>> data = {"rng": random.Random(1)}
        >>> state = capture({"data": data})
        >>> first = data["rng"].random()
        >>> state.restore()
        []
        >>> data["rng"].random() == first
        True
    """
    named = roots if isinstance(roots, Mapping) else _named(roots)
    with without_collections():
        return CapturedState(ObjectWalk(named, leave))


def _named(roots: Iterable[object]) -> dict[str, object]:
    named: dict[str, object] = {}
    for root in roots:
        name = type(root).__name__
        named[name if name not in named else f"{name} {len(named)}"] = root
    return named


class CapturedState:
    """What was captured; `restore` puts it back.

    Attributes:
        notes: What was not looked at, or only in part: one phrase each.
    """

    def __init__(self, walk: ObjectWalk) -> None:
        self.notes = walk.notes
        self._walk = walk
        self._kept: list[tuple[int, PutBack]] = []
        keeping = Keeping()
        for index, found in enumerate(walk.found):
            kind: Any = type(found.item)
            for keep in keepers_of(kind):
                try:
                    put_back = keep(found.item, keeping)
                except Exception as error:
                    reason = type(error).__name__
                    self.notes.append(f"{walk.name(index)} could not be captured ({reason})")
                    continue
                if put_back is not None:
                    self._kept.append((index, put_back))
            if keeping.contents.sampled:
                keeping.contents.sampled = False
                self.notes.append(f"of {walk.name(index)} a sample of the contents was compared")

    def restore(self) -> list[str]:
        """Put everything back.

        Returns:
            Names of what changed and could not be put back, as ``DataLoader.dataset.stream``.
        """
        lost: dict[int, str] = {}
        for index, put_back in self._kept:
            try:
                changed = put_back()
            except Exception:
                changed = True
            # What moved inside a generator that moved says nothing more.
            if changed and lost.keys().isdisjoint(self._walk.above(index)):
                lost[index] = self._walk.name(index)
        return list(dict.fromkeys(lost.values()))
