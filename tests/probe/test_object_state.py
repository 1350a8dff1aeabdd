"""One walk over objects: it finds state anywhere, changes nothing, never raises, and names."""

from __future__ import annotations

import collections
import copy
import functools
import itertools
import random
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_init.probe import object_children, object_walk
from lightning_init.probe.contents import MOST_COPIED
from lightning_init.probe.data_state import capture
from lightning_init.probe.object_walk import ObjectWalk


class Node:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def names(root: object) -> list[str]:
    walk = ObjectWalk({"root": root})
    return [walk.name(index) for index in range(len(walk.found))]


def test_paths_are_those_that_a_user_would_write() -> None:
    rng = np.random.default_rng(1)
    compose = Node(transforms=[None, Node(rng=rng)])
    walk = ObjectWalk({"loader": Node(dataset=Node(transform=compose))})
    found = {id(f.item): walk.name(i) for i, f in enumerate(walk.found)}
    assert found[id(rng)] == "loader.dataset.transform.transforms[1].rng"
    assert "root['a'][2]" in names({"a": (1, 2, [3])})
    assert "root.hidden" in names(closure([1]))


def closure(hidden: list[int]) -> Any:
    return lambda: hidden


def test_a_walk_ends_in_cycles_and_enters_everything_once() -> None:
    first, second = Node(), Node()
    first.other, second.other = second, first
    walk = ObjectWalk({"root": [first, second, first]})
    assert [found.item for found in walk.found].count(first) == 1


class Trap:
    """Whoever asks it anything is told by an exception."""

    __slots__ = ("filled", "unfilled")

    def __init__(self) -> None:
        self.filled = [1]

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        raise AssertionError(name)

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Any:
        raise AssertionError

    def __len__(self) -> int:
        raise AssertionError

    def __bool__(self) -> bool:
        raise AssertionError

    def __deepcopy__(self, memo: Any) -> Any:
        raise AssertionError

    @property
    def asked(self) -> Any:
        raise AssertionError


class Subclasses(dict[Any, Any]):
    def __iter__(self) -> Any:
        raise AssertionError

    def items(self) -> Any:
        raise AssertionError

    keys = values = copy = clear = update = items


class SubclassedList(list[Any]):
    def __iter__(self) -> Any:
        raise AssertionError

    __len__ = __getitem__ = copy = __iter__


def test_nothing_of_the_users_is_called() -> None:
    trap, table, row = Trap(), Subclasses(a=[1]), SubclassedList([[1]])
    state = capture({"data": [trap, table, row, Node(t=trap)]})
    filled = object.__getattribute__(trap, "filled")
    filled.append(2)
    dict.__setitem__(table, "b", 1)
    list.append(row, 2)
    assert state.restore() == []
    assert filled == [1]
    assert (dict.__len__(table), list.__len__(row)) == (1, 1)
    assert state.notes == []


def test_an_object_that_fails_is_skipped_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(np.random.RandomState):
        def get_state(self, legacy: bool = True) -> Any:
            raise RuntimeError

    count = [0]
    state = capture({"data": {"a": Broken(), "b": count}})
    count.append(1)
    assert state.restore() == []
    assert count == [0]
    assert state.notes == ["data['a'] could not be captured (RuntimeError)"]


def test_generic_aliases_classes_and_modules_are_left_alone() -> None:
    data = Node(alias=list[int], other=dict[str, Node], module=sys, kind=Node, union=int | None)
    before = dict(vars(data))
    state = capture([data, list[int], dict[str, Node]])
    data.alias = None
    assert state.restore() == []
    assert vars(data) == before


ELEMENTS = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3), st.none(), st.floats(allow_nan=False)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=2), inner, max_size=4),
        st.builds(lambda v: collections.deque(v), st.lists(inner, max_size=3)),
        st.builds(lambda v: Node(value=v), inner),
        st.builds(lambda v: {"set": set(v)}, st.lists(st.integers(), max_size=4)),
        st.builds(lambda v: np.array(v, dtype=float), st.lists(st.floats(-1, 1), max_size=4)),
    ),
    max_leaves=12,
)


def plain(value: Any) -> Any:
    if isinstance(value, Node):
        return ("node", plain(vars(value)))
    if isinstance(value, dict):
        return [(k, plain(v)) for k, v in value.items()]
    if isinstance(value, (list, collections.deque)):
        return [type(value).__name__, *map(plain, value)]
    return value.tolist() if isinstance(value, np.ndarray) else value


def spoil(value: Any, rng: random.Random) -> None:
    """Change whatever can be changed, below first."""
    if isinstance(value, Node):
        spoil(vars(value), rng)
        value.late = 1
    elif isinstance(value, dict):
        for key in list(value):
            spoil(value[key], rng)
            if rng.random() < 0.5:
                value[key] = value.pop(key) if rng.random() < 0.5 else "other"
    elif isinstance(value, (list, collections.deque)):
        for item in value:
            spoil(item, rng)
        value.append(3)
    elif isinstance(value, set):
        value.add(object())
    elif isinstance(value, np.ndarray):
        value += 1


@settings(max_examples=60, deadline=None)
@given(ELEMENTS, st.integers(0, 999))
def test_whatever_is_changed_is_put_back(value: Any, seed: int) -> None:
    root = Node(value=value)
    before = copy.deepcopy(plain(root))
    state = capture({"root": root})
    spoil(root, random.Random(seed))
    assert state.restore() == []
    assert plain(root) == before
    assert state.restore() == []  # a second time changes nothing


@pytest.mark.parametrize(
    "make",
    [
        lambda: iter([1, 2, 3]),
        lambda: iter((1, 2, 3)),
        lambda: iter(range(3)),
        lambda: itertools.count(),
        lambda: itertools.cycle([1, 2]),
        lambda: zip(itertools.count(), [4, 5, 6], strict=False),
        lambda: map(abs, itertools.chain([1], itertools.count())),
        lambda: enumerate(iter("abc")),
        lambda: itertools.islice(itertools.cycle("ab"), 1, None),
        lambda: itertools.accumulate(itertools.count()),
        lambda: itertools.product([1, 2], [3, 4]),
        lambda: reversed([1, 2, 3]),
    ],
)
@pytest.mark.parametrize("advanced", [0, 1])
@pytest.mark.parametrize("holder", ["attribute", "list", "deque", "cell", "slot", "class"])
def test_iterators_go_on_where_they_were(make: Any, advanced: int, holder: str) -> None:
    iterator, expected = make(), make()
    for _ in range(advanced):
        next(iterator), next(expected)
    held, take = holders(iterator)[holder]
    state = capture({"data": held})
    for _ in range(2):
        next(take())
    assert state.restore() == []
    assert take() is iterator
    assert next(iterator) == next(expected)


def holders(iterator: Any) -> dict[str, tuple[Any, Any]]:
    node, row, trap = Node(it=iterator), [iterator], Slotted()
    trap.it = iterator

    def closing() -> Any:
        return iterator

    kind = type("Holder", (), {"it": iterator, "__module__": "mine"})
    queue = collections.deque([iterator])
    return {
        "deque": (queue, lambda: queue[0]),
        "attribute": (node, lambda: node.it),
        "list": (row, lambda: row[0]),
        "cell": (closing, closing),
        "slot": (trap, lambda: trap.it),
        "class": (kind(), lambda: kind.it),
    }


class Slotted:
    __slots__ = ("it",)


class SlottedAgain(Slotted):
    __slots__ = ("it",)


def test_a_slot_that_a_parent_class_has_too_goes_back() -> None:
    held, parents = SlottedAgain(), vars(Slotted)["it"]
    held.it = "own"
    parents.__set__(held, "parent's")
    state = capture({"data": held})
    held.it = "changed"
    parents.__set__(held, "changed")
    assert state.restore() == []
    assert (held.it, parents.__get__(held)) == ("own", "parent's")


def test_what_moved_and_cannot_go_back_is_named_once() -> None:
    inner = random.Random(1)

    def numbers() -> Any:
        while True:
            yield inner.random()

    data = Node(stream=numbers(), parts=[map(abs, numbers())])
    state = capture({"data": data})
    assert state.restore() == []
    next(data.stream), next(data.parts[0])
    assert state.restore() == ["data.stream", "data.parts[0]"]


@pytest.mark.parametrize("lines", [5, 5000])
@pytest.mark.parametrize("start", ["fresh", "next", "readline", "read"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_files_go_back_to_where_they_stood(
    lines: int, start: str, end: str, tmp_path: Path
) -> None:
    path = tmp_path / "text"
    path.write_bytes("".join(f"{i} äöü{end}" for i in range(lines)).encode())
    with path.open(encoding="utf-8") as file:
        if start != "fresh":
            {"next": lambda: next(file), "readline": file.readline, "read": lambda: file.read(7)}[
                start
            ]()
        state = capture({"file": file})
        first = file.read(9)
        for _ in range(2):
            next(file, None)
        assert state.restore() == []
        assert file.read(9) == first


def test_memory_behind_views_is_kept_as_it_is() -> None:
    base = torch.zeros(6)
    data = {
        "expanded": torch.zeros(1).expand(1_000_000_000),
        "view": base[1:4],
        "strided": np.zeros((4, 6))[::2, ::3],
        "broadcast": np.broadcast_to(np.zeros(1), (1000, 1_000_000)),
        "half": torch.zeros(3, dtype=torch.bfloat16),
        "sparse": torch.eye(3).to_sparse(),
        "meta": torch.zeros(3, device="meta"),
        "empty": torch.zeros(0),
        "read_only": np.frombuffer(b"12345678"),
        "text": np.array(["a", "b"]),
        "record": np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
    }
    state = capture({"data": data})
    base.fill_(3)
    data["expanded"][:1] += 1
    data["strided"] += 1
    data["half"] += 1
    data["text"][0] = "z"
    data["record"]["b"] = 7
    assert state.restore() == []
    assert base.sum() == 0
    assert data["expanded"][0] == 0
    assert data["strided"].sum() == 0
    assert data["half"].sum() == 0
    assert data["text"][0] == "a"
    assert data["record"]["b"].sum() == 0
    assert state.notes == []


def test_large_contents_are_compared_by_checksum() -> None:
    large = np.zeros(MOST_COPIED + 8, dtype=np.uint8)
    state = capture({"data": {"large": large, "same": torch.from_numpy(large)}})
    assert state.restore() == []
    large[12345] = 1
    assert state.restore() == ["data['large']"]


def test_long_containers_are_sampled_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_children, "MOST_ITEMS", 100)
    monkeypatch.setattr(object_children, "SAMPLED_ITEMS", 10)
    deep = random.Random(1)
    data = Node(samples=[[i, [[[[[[i]]]]]]] for i in range(1000)], numbers=list(range(1000)))
    data.transform = Node(inner=Node(inner=Node(inner=Node(rng=deep))))
    monkeypatch.setattr(object_walk, "MOST_OBJECTS", 60)
    state = capture({"data": data})
    assert "10 of the items of data.samples were looked at" in state.notes
    assert "only the nearest 60 objects were looked at" in state.notes
    # The crowd of samples does not keep the walk from what is deep, and the list itself is kept.
    drawn = deep.random()
    data.samples.pop()
    data.numbers[500] = -1
    assert state.restore() == []
    assert deep.random() == drawn
    assert len(data.samples) == 1000
    assert data.numbers[500] == 500


@pytest.mark.parametrize("samples", [500, 5000])
def test_a_crowd_of_samples_leaves_room_for_what_is_near(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_walk, "MOST_OBJECTS", 300)
    deep = random.Random(1)
    data = Node(samples={i: [[i]] for i in range(samples)})
    data.transform = Node(rng=deep)
    for _ in range(5):
        data.transform = Node(means=[0.5], spreads=[0.5], inner=data.transform)
    state = capture({"data": data})
    assert state.notes == ["only the nearest 300 objects were looked at"]
    drawn = deep.random()
    assert state.restore() == []
    assert deep.random() == drawn


def test_what_many_objects_share_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_walk, "MOST_OBJECTS", 300)
    shared = [1]
    rows = [Node(shared=shared, rng=random.Random(i)) for i in range(60)]
    state = capture({"rows": rows})
    assert state.notes == []
    drawn = rows[-1].rng.random()
    assert state.restore() == []
    assert rows[-1].rng.random() == drawn


def test_caches_are_emptied_where_they_were_empty() -> None:
    empty, used = functools.lru_cache(lambda x: x), functools.lru_cache(lambda x: x)
    used(1)
    state = capture({"data": [empty, used]})
    empty(1)
    assert state.restore() == []
    assert empty.cache_info().misses == 0
    used(2)
    assert state.restore() == ["data[1]"]


def test_threads_and_the_machinery_of_processes_are_not_entered() -> None:
    event = threading.Event()
    thread = threading.Thread(target=event.wait)
    state = capture({"data": Node(thread=thread, event=event)})
    thread.start()
    event.set()
    thread.join()
    assert state.restore() == []
    assert not event.is_set()
    assert not thread.is_alive()


def test_globals_that_a_users_function_names_are_put_back() -> None:
    module = types.ModuleType("users_own_module")
    exec("count = 0\nrow = []\ndef call():\n global count, late\n count += 1; late = 1; row.append(1)", vars(module))  # fmt: skip  # noqa: E501
    sys.modules["users_own_module"] = module
    try:
        state = capture({"data": module.call})
        module.call()
        assert state.restore() == []
        assert (module.count, module.row, hasattr(module, "late")) == (0, [], False)
    finally:
        del sys.modules["users_own_module"]


def test_the_state_of_a_communication_hook_is_put_back() -> None:
    from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState

    hook = PowerSGDState(process_group=None, matrix_approximation_rank=1)
    state = capture({"communication hook": hook})
    drawn = hook.rng.randint(1_000_000)
    hook.iter += 3
    hook.error_dict[0] = torch.ones(3)
    assert state.restore() == []
    assert (hook.iter, hook.error_dict) == (0, {})
    assert hook.rng.randint(1_000_000) == drawn
