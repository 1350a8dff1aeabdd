"""State in every corner of Python: behind data, in modules and in optimizers."""

from __future__ import annotations

import array
import collections
import copy
import csv
import ctypes
import dataclasses
import functools
import gzip
import io
import itertools
import multiprocessing
import queue
import random
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import contract_counters
import numpy as np
import pandas as pd
import torch
from contract_harness import Scenario, probe
from contract_models import FEATURES, TARGETS, Net, loader, momentum, table
from contract_registry import SCENARIOS, add
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, random_split

#: What differs from a run without a probe, but is told: a part of the warning.
TOLD: dict[str, tuple[Scenario, str]] = {}
_OF_OTHER_FILES = set(SCENARIOS)

Noise = Callable[[], float]


class Rows(Dataset[Any]):
    """The fixed problem, moved by whatever ``noise`` returns at each call."""

    def __init__(self, noise: Any) -> None:
        self.table = table()
        self.noise = noise

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Any:
        x, y = self.table[index]
        return x + 0.01 * float(self.noise() % 97), y


def noisy(name: str, make: Callable[[], Noise], **options: Any) -> None:
    """A scenario whose data are moved by the state that ``make`` makes."""
    add(name, train=lambda: loader(dataset=Rows(make())), **options)


def told(name: str, says: str, **options: Any) -> None:
    """A scenario that cannot be exact, and says so."""
    add(name, **options)
    TOLD[name] = SCENARIOS.pop(name), says


# ------------------------------------------------------------------------- generators, deep or odd
class Compose:
    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self) -> float:
        return sum(transform() for transform in self.transforms)


class Draws:
    def __init__(self) -> None:
        self.rng = np.random.default_rng(4)

    def __call__(self) -> float:
        return float(self.rng.normal())


MODULE_LEVEL = np.random.default_rng(6)
MODULE_LIST: list[int] = []
MODULE_COUNT = itertools.count()
CALLS = 0


def draw_from_the_module_level() -> float:
    return float(MODULE_LEVEL.normal())


def count_at_the_module_level() -> float:
    global CALLS
    CALLS += 1
    return CALLS


def append_at_the_module_level() -> float:
    MODULE_LIST.append(1)
    return len(MODULE_LIST) + next(MODULE_COUNT)


def _split() -> Any:
    return loader(dataset=random_split(Rows(Compose([Compose([Draws()])])), [28, 4])[0])


add("generator_six_deep", train=_split)
noisy("generator_at_the_module_level", lambda: draw_from_the_module_level)
noisy("global_number", lambda: count_at_the_module_level)
noisy("global_list_and_count", lambda: append_at_the_module_level)
noisy("python_random_in_a_partial", lambda: functools.partial(random.Random(3).uniform, 0, 1))
noisy("legacy_state_in_a_tuple", lambda: (np.random.RandomState(3),)[0].rand)


@dataclasses.dataclass(frozen=True)
class Frozen:
    parts: dict[str, torch.Generator]

    def __call__(self) -> float:
        return float(torch.rand((), generator=self.parts["a"]))


noisy("generator_in_a_frozen_dataclass", lambda: Frozen({"a": torch.Generator().manual_seed(1)}))
noisy("global_numpy", lambda: np.random.rand)
noisy("global_python_random", lambda: random.random)


# ----------------------------------------------------------------------------------- attributes
class Slotted:
    __slots__ = ("count", "late")

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> float:
        self.count += 1
        self.late = 1 + getattr(self, "late", 0)
        return self.count + self.late


class SlottedAndMore(Slotted):
    def __call__(self) -> float:
        self.extra = 1 + getattr(self, "extra", 0)
        return super().__call__() + self.extra


class CountsInTheClass:
    count = 0
    seen: dict[int, int] = {}

    def __call__(self) -> float:
        type(self).count += 1
        self.seen[self.count] = 1
        return self.count + len(self.seen)

    @classmethod
    def counted(cls) -> float:
        cls.count += 1
        return cls.count


class Hostile:
    """Its attributes, comparisons and truth raise."""

    def __init__(self) -> None:
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    __hash__ = object.__hash__

    def __bool__(self) -> bool:
        raise RuntimeError("truth")

    @property
    def trap(self) -> int:
        self.count += 1000
        return 1

    def __call__(self) -> float:
        self.count += 1
        return self.count


class CachesAProperty:
    def __init__(self) -> None:
        self.calls = 0

    @functools.cached_property
    def offset(self) -> float:
        return float(np.random.rand())

    def __call__(self) -> float:
        self.calls += 1
        return self.calls * self.offset


noisy("slots", Slotted)
noisy("slots_and_attributes", SlottedAndMore)
noisy("class_counter", CountsInTheClass)
noisy("class_method_counter", lambda: CountsInTheClass.counted)
noisy("hostile_object", Hostile)
noisy("cached_property", CachesAProperty)


class Aliased(Draws):
    """Holds types of containers: the namespace of a generic alias is no dictionary."""

    kinds = (list[int], dict[str, Net])

    def __init__(self) -> None:
        super().__init__()
        self.kind, self.other = list[int], dict[str, Slotted]
        self.rng = np.random.default_rng(7)


noisy("generic_aliases", Aliased)


def holding(value: Any, change: Callable[[Any], float]) -> Noise:
    """A bound method of an object that holds ``value`` in an attribute."""

    class Holder:
        def __init__(self) -> None:
            self.value = value

        def draw(self) -> float:
            return change(self.value)

    return Holder().draw


def _grow(value: Any) -> float:
    value[len(value)] = 1
    return len(value)


def _append(value: Any) -> float:
    value.append(1)
    return len(value)


def _increase(value: Any) -> float:
    value += 1
    return float(np.asarray(value).sum())


def _add_one(value: Any) -> float:
    return float(value.add_(1).sum())


def _first(value: Any) -> float:
    value[0] = (value[0] + 1) % 200
    return value[0]


class NamedDict(dict[Any, Any]):
    name = "mine"


class NamedList(list[Any]):
    name = "mine"


CONTAINERS: dict[str, tuple[Callable[[], Any], Callable[[Any], float]]] = {
    "dict": (dict, _grow),
    "ordered_dict": (collections.OrderedDict, _grow),
    "default_dict": (lambda: collections.defaultdict(int), _grow),
    "dict_subclass": (NamedDict, _grow),
    "user_dict": (collections.UserDict, _grow),
    "counter": (collections.Counter, _grow),
    "long_list": (lambda: list(range(5000)), _append),
    "list_subclass": (NamedList, _append),
    "deque_that_turns": (lambda: collections.deque(range(9)), lambda v: v.rotate(1) or v[0]),
    "set": (set, lambda v: v.add(len(v)) or len(v)),
    "array_module": (lambda: array.array("i", [0, 1]), _first),
    "bytearray": (lambda: bytearray(3), _first),
    "large_array": (lambda: np.zeros(5000), _increase),
    "scalar_array": (lambda: np.zeros(()), _increase),
    "strided_array": (lambda: np.zeros((40, 60))[::2, ::3], _increase),
    "object_array": (lambda: np.array([0, "a"], dtype=object), _first),
    "tensor": (lambda: torch.zeros(5000), _increase),
    "half_tensor": (lambda: torch.zeros(3, dtype=torch.bfloat16), _add_one),
    "written_through_numpy": (lambda: torch.zeros(2000), lambda v: _increase(v.numpy())),
    "shared_value": (lambda: multiprocessing.Value("i", 0), lambda v: _count_value(v)),
    "shared_array": (lambda: multiprocessing.Array("i", 3), _first),
    "ctypes": (lambda: ctypes.c_long(0), lambda v: _count_value(v)),
    "namespace": (lambda: types.SimpleNamespace(n=[0]), lambda v: _first(v.n)),
    "thread_queue": (lambda: queue.Queue(), lambda v: v.put(1) or v.qsize()),
    "event": (threading.Event, lambda v: float(v.is_set()) + float(bool(v.set()))),
    "table": (lambda: pd.DataFrame({"a": [0.0, 1.0]}), lambda v: _count_cell(v)),
    "memory_file": (lambda: io.BytesIO(bytes(range(90)) * 9), lambda v: v.read(1)[0]),
    "text_in_memory": (lambda: io.StringIO("123456789" * 99), lambda v: float(v.read(1))),
    "count": (itertools.count, next),
    "cycle": (lambda: itertools.cycle([0.5, 1.5, 7]), next),
    "slice_of_a_count": (lambda: itertools.islice(itertools.count(), 5, None), next),
    "pairs": (lambda: zip(itertools.count(), itertools.cycle("ab")), lambda v: next(v)[0]),
    "mapped": (lambda: map(abs, iter(range(1000))), next),
    "chained": (lambda: itertools.chain(range(7), range(5), itertools.count()), next),
    "enumerated": (lambda: enumerate(itertools.repeat(1)), lambda v: next(v)[0]),
    "accumulated": (lambda: itertools.accumulate(itertools.count()), next),
    "permuted": (lambda: itertools.permutations(range(7)), lambda v: next(v)[6]),
    "list_iterator": (lambda: iter(list(range(900))), next),
    "reversed_list": (lambda: reversed(list(range(900))), next),
    "in_a_list": (lambda: [itertools.count()], lambda v: next(v[0])),
}  # fmt: skip


def _count_value(value: Any) -> float:
    value.value += 1
    return value.value


def _count_cell(frame: Any) -> float:
    frame.iloc[0, 0] += 1
    return frame["a"].sum()


for _name, (_make, _change) in CONTAINERS.items():
    noisy(f"data_hold_{_name}", functools.partial(lambda m, c: holding(m(), c), _make, _change))


# -------------------------------------------------------------------------------------- functions
def counts_in_a_closure() -> Noise:
    count = 0

    def noise() -> float:
        nonlocal count
        count += 1
        return count

    return noise


def counts_in_a_default() -> Noise:
    def noise(seen: list[int] = []) -> float:  # noqa: B006
        seen.append(1)
        return len(seen)

    return noise


def counts_in_an_attribute() -> Noise:
    def noise() -> float:
        noise.calls = getattr(noise, "calls", 0) + 1  # type: ignore[attr-defined]
        return noise.calls  # type: ignore[attr-defined]

    return noise


def counts_two_closures_deep() -> Noise:
    inner = counts_in_a_closure()
    return functools.partial(lambda f: f() + next(MODULE_COUNT), lambda: inner())


@functools.lru_cache(maxsize=64)
def _augmentation(key: int) -> float:
    return float(np.random.rand()) + key


def remembers_random_numbers() -> Noise:
    count = itertools.count()
    return lambda: _augmentation(next(count) % 5)


noisy("nonlocal_counter", counts_in_a_closure)
noisy("default_argument", counts_in_a_default)
noisy("function_attribute", counts_in_an_attribute)
noisy("closures_in_closures", counts_two_closures_deep)
noisy("cached_augmentation", remembers_random_numbers)


class Transform(nn.Module):
    """A transform that is a module, with a buffer and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.odd = 0

    def forward(self) -> float:
        self.calls += 1
        self.odd += 2
        return float(self.calls) + self.odd


noisy("module_as_transform", Transform)
noisy("weakly_held_state", lambda: _weakly(Slotted()))


def _weakly(held: Any) -> Noise:
    class Target:
        count = 0

    target = Target()
    reference = weakref.ref(target)

    def noise(keeps: Any = target) -> float:
        found = reference()
        assert found is not None
        found.count += 1
        return found.count + held()

    return noise


# ------------------------------------------------------------------------- loaders and samplers
class Positioned(DataLoader[Any]):
    """Counts its batches and begins at an odd place; Lightning stores that in checkpoints."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.position = 0
        self.skip = 2

    def __iter__(self) -> Iterator[Any]:
        skip, self.skip = self.skip, 0
        for batch in itertools.islice(super().__iter__(), skip, None):
            self.position += 1
            yield [batch[0] + 0.001 * self.position, batch[1]]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}


class Walking(RandomSampler):
    """A sampler that begins each epoch elsewhere."""

    start = 0

    def __iter__(self) -> Iterator[int]:
        self.start += 3
        return iter([(i + self.start) % 32 for i in range(32)])


def _batches() -> Any:
    count = itertools.count()

    class Batches:
        def __len__(self) -> int:
            return 8

        def __iter__(self) -> Iterator[list[int]]:
            for _ in range(8):
                first = next(count)
                yield [(first + i) % 32 for i in range(4)]

    return DataLoader(table(), batch_sampler=Batches())  # type: ignore[arg-type]


class Collates(Net):
    """The collate function is a method of the module that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.collated: list[int] = []

    def collate(self, rows: list[Any]) -> Any:
        self.collated.append(len(rows))
        x, y = map(torch.stack, zip(*rows, strict=True))
        return x + 0.01 * len(self.collated), y

    def train_dataloader(self) -> Any:
        return loader(collate_fn=self.collate)


class WritesInWorkers(Dataset[Any]):
    """Workers write to memory that they share with the run."""

    def __init__(self) -> None:
        self.shared = torch.zeros(2000).share_memory_()

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        x, y = table()[index]
        self.shared[index] += 1
        return x + 0.1 * self.shared[index], y


def _partial_collate() -> Any:
    counter = collections.Counter()

    def collate(counts: Any, rows: list[Any]) -> Any:
        counts["calls"] += 1
        x, y = map(torch.stack, zip(*rows, strict=True))
        return x + 0.01 * counts["calls"], y

    return loader(collate_fn=functools.partial(collate, counter))


add("loader_with_position", train=lambda: Positioned(table(), batch_size=4))
add("sampler_with_state", train=lambda: loader(shuffle=False, sampler=Walking(table())))
add("batch_sampler_over_a_closure", train=_batches)
add("collate_is_the_modules", model=Collates, train=None)
add("collate_with_counter", train=_partial_collate)
add("workers_write_shared_memory", train=lambda: loader(dataset=WritesInWorkers(), num_workers=1))


# ------------------------------------------------------------------- iterators behind iterable data
class Stream(IterableDataset[Any]):
    """Reads numbers from ``source``, which goes on where it stopped."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __iter__(self) -> Iterator[Any]:
        for _, value in zip(range(32), self.source, strict=False):
            x = torch.full((FEATURES,), float(_number(value)) % 31 / 31) * torch.arange(FEATURES)
            yield x, x[:TARGETS] * 0.5 - 0.2


def _number(value: Any) -> float:
    return float(value[0] if isinstance(value, (list, tuple)) else value)


def numbers_file(header: bool = False) -> Path:
    """A file of numbers, one on each line."""
    path = Path("numbers.csv")
    path.write_text("number\r\n" * header + "".join(f"{i},é\r\n" for i in range(2000)))
    return path


def _after_header() -> Any:
    reader = csv.reader(numbers_file(header=True).open(encoding="utf-8"))
    next(reader)
    return reader


def _plain_lines() -> Any:
    path = Path("plain.txt")
    path.write_text("".join(f"{i}\n" for i in range(2000)))
    return path.open()


def _lines_after_the_first() -> Any:
    file = _plain_lines()
    next(file)
    return file


def _packed_lines() -> Any:
    with gzip.open("numbers.gz", "wt") as file:
        file.write("".join(f"{i}\n" for i in range(2000)))
    return gzip.open("numbers.gz", "rt")


class ReadsAFile:
    def __init__(self) -> None:
        self.file = _plain_lines()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        return line


SOURCES: dict[str, Callable[[], Any]] = {
    "open_file": _plain_lines,
    "open_file_after_a_line": _lines_after_the_first,
    "packed_file": _packed_lines,
    "csv_reader": lambda: csv.reader(numbers_file().open(encoding="utf-8")),
    "csv_reader_after_header": _after_header,
    "class_with_a_file": ReadsAFile,
    "zip": lambda: zip(iter(range(2000)), itertools.count(), strict=False),
    "map": lambda: map(float, iter(range(2000))),
    "filter": lambda: filter(None, iter(range(2000))),
    "chain": lambda: itertools.chain(range(30), range(2000)),
    "cycle": lambda: itertools.cycle(range(21)),
    "count": itertools.count,
}
for _name, _source in SOURCES.items():
    add(
        f"stream_over_{_name}",
        train=functools.partial(lambda s: DataLoader(Stream(s()), batch_size=4), _source),
    )


# ----------------------------------------------------------------------------------------- modules
class HooksFeatures(Net):
    """The usual feature hook, read back in `training_step`."""

    def __init__(self) -> None:
        super().__init__()
        self.features: dict[str, Tensor] = {}
        self.net[0].register_forward_hook(lambda m, i, o: self.features.update(h=o))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.features.clear()
        return super().training_step(batch, batch_idx) + 0.01 * self.features["h"].square().mean()


class WrappedForward(Net):
    """A submodule's forward is wrapped in a closure."""

    def __init__(self) -> None:
        super().__init__()
        for layer in (self.net[0], self.net[4]):
            self._wrap(layer, layer.forward)

    def _wrap(self, layer: nn.Module, forward: Any) -> None:
        @functools.wraps(forward)
        def wrapped(x: Tensor) -> Tensor:
            self.calls += 1
            return forward(x) * 1.5

        layer.forward = wrapped  # type: ignore[method-assign]


class Child(nn.Module):
    """Knows its parent by a weak reference."""

    def __init__(self, parent: Any) -> None:
        super().__init__()
        self.parent = weakref.ref(parent)
        self.ask = weakref.WeakMethod(parent.note)

    def forward(self, x: Tensor) -> Tensor:
        parent, ask = self.parent(), self.ask()
        assert parent is not None
        assert ask is not None
        return x * ask() * parent.scale


class Parent(Net):
    def __init__(self) -> None:
        super().__init__()
        self.notes = 0
        self.scale = nn.Parameter(torch.ones(TARGETS))
        self.child = Child(self)

    def note(self) -> float:
        self.notes += 1
        return 1 + 0.01 * (self.notes % 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.child(super().forward(x))


class Lambdas(Net):
    """Lambdas over the module and over a parameter."""

    def __init__(self) -> None:
        super().__init__()
        weight = self.net[0].weight
        self.penalty = lambda: weight.square().sum()
        self.tables = {"count": [lambda: self.calls % 5]}
        self.last = functools.partial(lambda net, x: net.net(x), self)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss + 0.01 * self.penalty() * (1 + self.tables["count"][0]())


class Memoizes(Net):
    """A cached method, and a cached function over the module."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn = functools.lru_cache(maxsize=8)(
            lambda key: float(np.random.rand()) + self.calls
        )

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def factor(self, key: int) -> float:
        return float(np.random.rand())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        factor = self.factor(batch_idx % 3) + 0.01 * self.drawn(batch_idx % 4)
        return super().training_step(batch, batch_idx) * (1 + factor)


class HoldsHandles(Net):
    """Locks, conditions, queues and a file in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.lock, self.again = threading.Lock(), threading.RLock()
        self.condition, self.gate = threading.Condition(), threading.Semaphore(3)
        self.items: Any = queue.Queue()
        self.numbers = io.StringIO("12345678" * 99)
        self.machinery = np
        self.put = self.items.put

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with self.lock, self.again, self.condition, self.gate:
            self.put(batch_idx)
        factor = float(self.numbers.read(1)) + self.items.qsize() % 9
        return super().training_step(batch, batch_idx) * factor


class LockAcrossHooks(Net):
    """Takes a lock before a batch and releases it after."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        assert self.lock.acquire(timeout=5)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.lock.release()


class StepHooks(Net):
    """Hooks around the optimizer's step and on gradients, over the module."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.net[4].weight.register_hook(lambda gradient: gradient * (1 + 0.1 * (self.calls % 3)))

    def _count(self) -> None:
        self.steps += 1

    def configure_optimizers(self) -> Any:
        optimizer = momentum(self)
        optimizer.register_step_post_hook(lambda *_: self._count())
        optimizer.register_step_pre_hook(lambda *_: setattr(self, "seen_steps", self.steps))
        return optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * (1 + 0.1 * (self.steps % 4))


class ScheduleWithState(Net):
    """A schedule whose function counts its calls and reads the module."""

    def configure_optimizers(self) -> Any:
        optimizer = momentum(self)
        calls = itertools.count(1)

        def factor(epoch: int) -> float:
            return 1 / next(calls) + 0.001 * (self.calls % 2)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class ClassState(Net):
    """Counts in its class and in a module-level list."""

    total = 0
    recent: collections.deque[int] = collections.deque(maxlen=3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        type(self).total += 1
        self.recent.append(batch_idx)
        MODULE_LIST.append(batch_idx)
        factor = 1 + 0.01 * ((self.total + sum(self.recent) + len(MODULE_LIST)) % 7)
        return super().training_step(batch, batch_idx) * factor


class TagsParameters(Net):
    """Attributes on parameters, which torch's own copy drops."""

    def __init__(self) -> None:
        super().__init__()
        for number, parameter in enumerate(self.parameters()):
            parameter.tag = number  # type: ignore[attr-defined]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        total = sum(p.tag for p in self.parameters())  # type: ignore[attr-defined]
        return super().training_step(batch, batch_idx) * (1 + 0.001 * total)


class HoldsAliases(Net):
    """Types of containers in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = [list[int], dict[str, Slotted], list]
        self.owner = {"me": self, "kinds": self.kinds}


MODULES: tuple[type[Net], ...] = (
    *(HooksFeatures, WrappedForward, Parent, Lambdas, Memoizes, HoldsHandles, LockAcrossHooks),
    *(StepHooks, ScheduleWithState, ClassState, TagsParameters, HoldsAliases),
)
for _module in MODULES:
    add(f"module_{_module.__name__}", model=_module)


# ------------------------------------------------------------------------------ told, never silent
class ReadsAGenerator(Net):
    """Takes numbers from a generator in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = (float(i % 5) for i in range(9999))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * (1 + next(self.stream))


def _filled_queue() -> Any:
    filled: Any = multiprocessing.SimpleQueue()
    for i in range(900):
        filled.put(i % 9)
    return filled


def _gets(filled: Any) -> Noise:
    return holding(filled, lambda v: v.get())


def _filled(kind: Any) -> Any:
    filled = kind()
    for i in range(900):
        filled.put(i % 9)
    return filled


def _large_state() -> Noise:
    return holding(np.zeros(2_000_000, dtype=np.float32), _increase)


def _spawning() -> Noise:
    rng = np.random.default_rng(3)
    return lambda: float(rng.spawn(1)[0].normal())


def _generator_function() -> Iterator[float]:
    for i in range(9999):
        yield float(i % 11)


def _isolated(source: Callable[[], Any]) -> dict[str, Any]:
    return {
        "train": lambda: DataLoader(Stream(source()), batch_size=4),
        "ours": lambda: [probe(isolate_dataset=True)],
    }


told("module_reads_a_generator", "module.stream", model=ReadsAGenerator)
told("stream_over_a_generator", "dataset.source", train=lambda: _stream(_generator_function()))
told(
    "stream_over_a_mapped_generator",
    "dataset.source",
    train=lambda: _stream(map(float, _generator_function())),
)
told("isolated_generator_in_data", "dataset.source", **_isolated(_generator_function))
for _name, _kind in {"in_c": queue.SimpleQueue, "between_processes": multiprocessing.Queue}.items():
    # Not probed at all: a queue that a probe empties leaves the run without data.
    add(
        f"queue_{_name}",
        train=lambda kind=_kind: _rows(_gets(_filled(kind))),
        ours=lambda: [probe(on_probe_failure="skip")],
        redraws=False,
    )
told("large_array_written", "noise", train=lambda: _rows(_large_state()))
told("spawned_generators", "noise", train=lambda: _rows(_spawning()))


def _stream(source: Any) -> Any:
    return DataLoader(Stream(source), batch_size=4)


def _rows(noise: Noise) -> Any:
    return loader(dataset=Rows(noise))


# What may be used up once is read from a copy where there is one.
add("isolated_stream_over_a_count", **_isolated(itertools.count))
add(
    "isolated_large_array",
    train=lambda: _rows(_large_state()),
    ours=lambda: [probe(isolate_dataset=True)],
)


# --------------------------------------------------------------------------- copies of the weights
class KeepsAverage(Net):
    """An average of the weights in a plain dictionary, made in `setup`."""

    def setup(self, stage: str) -> None:
        self.average = {n: p.detach().clone() for n, p in self.named_parameters()}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for name, parameter in self.named_parameters():
            self.average[name].lerp_(parameter.detach(), 0.1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        distance = (self.net[0].weight - self.average["net.0.weight"]).square().sum()
        return super().training_step(batch, batch_idx) + 0.01 * distance


class FollowsSlowly(Net):
    """A frozen target network, equal to the online one at the start."""

    def setup(self, stage: str) -> None:
        self.target = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with torch.no_grad():
            goal = self.target(batch[0])
        return super().training_step(batch, batch_idx) + (self(batch[0]) - goal).square().mean()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for slow, fast in zip(self.target.parameters(), self.net.parameters(), strict=True):
            slow.data.lerp_(fast.detach(), 0.1)


add("average_in_a_dictionary", model=KeepsAverage)
add("target_network", model=FollowsSlowly)


# ------------------------------------------------------------------------- further off than before
def count_in_another_module() -> float:
    return contract_counters.tick()


def bind_in_another_module() -> float:
    contract_counters.number += 1
    return float(contract_counters.number)


def import_and_count() -> float:
    import contract_counters as imported_late

    return imported_late.tick()


class CountsMakings(type):
    made = 0


class CountsInTheMetaclass(metaclass=CountsMakings):
    def __call__(self) -> float:
        CountsMakings.made += 1
        return float(type(type(self)).made)


class Counting:
    """A descriptor that counts how often it was read."""

    def __init__(self) -> None:
        self.reads = 0

    def __get__(self, instance: object, owner: type) -> int:
        self.reads += 1
        return self.reads


class ReadsADescriptor:
    reads = Counting()

    def __call__(self) -> float:
        return float(self.reads)


class NoisyAdam(torch.optim.Optimizer):
    """Wraps another optimizer, whose groups it shares, and draws noise of its own."""

    def __init__(self, parameters: Any) -> None:
        parameters = list(parameters)
        self.inner = torch.optim.Adam(parameters, lr=0.01)
        super().__init__(parameters, {"lr": 0.01})
        self.param_groups = self.inner.param_groups
        self.noise = np.random.default_rng(3)

    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else closure()
        for parameter in self.param_groups[0]["params"]:
            parameter.grad.add_(1e-3 * float(self.noise.normal()))
        self.inner.step()
        return loss


class Replays(Net):
    """Trains on earlier batches too, which it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.earlier: collections.deque[Any] = collections.deque(maxlen=20)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.earlier.append([part.clone() for part in batch])
        again = self.earlier[random.randrange(len(self.earlier))]
        return super().training_step(batch, batch_idx) + self.loss(again)


class SwapsItsStep(Net):
    """Replaces its own method on the instance."""

    def doubled(self, batch: Any, batch_idx: int) -> Any:
        return 2 * self.loss(batch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == 4:
            self.training_step = self.doubled


class GrowsEachEpoch(torch.utils.data.Sampler[int]):
    """Gives more samples each time it is asked."""

    def __init__(self) -> None:
        self.level = 4

    def __iter__(self) -> Iterator[int]:
        self.level = min(32, self.level + 8)
        return iter(random.Random(self.level).sample(range(32), self.level))

    def __len__(self) -> int:
        return self.level


class WritesToItsData(Net):
    """Tells the dataset how far it is."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        data: Any = self.trainer.train_dataloader
        data.dataset.noise.counter.reads += 1
        return super().training_step(batch, batch_idx)


class Told:
    def __init__(self) -> None:
        self.counter = Counting()

    def __call__(self) -> float:
        return float(self.counter.reads)


noisy("function_of_another_module", lambda: count_in_another_module)
noisy("name_of_another_module", lambda: bind_in_another_module)
noisy("module_imported_late", lambda: import_and_count)
noisy("metaclass_counter", CountsInTheMetaclass)
noisy("descriptor_counter", ReadsADescriptor)
noisy(
    "quasi_random_numbers",
    lambda: functools.partial(
        lambda engine: 50 * engine.draw(1), torch.quasirandom.SobolEngine(1, scramble=True, seed=2)
    ),
)
add("optimizer_in_an_optimizer", model=lambda: Net(lambda net: NoisyAdam(net.parameters())))
add("module_keeps_batches", model=Replays)
add("module_swaps_its_step", model=SwapsItsStep)
add(
    "sampler_that_grows",
    train=lambda: DataLoader(table(), batch_size=4, sampler=GrowsEachEpoch()),
)
add("module_writes_to_its_data", model=WritesToItsData, train=lambda: _rows(Told()))


# ----------------------------------------------------------------------------------------- listing
#: What users of an earlier version had found; every other scenario here was thought of beside it.
FOUND_BY_OTHERS = {
    *("generator_six_deep", "generator_at_the_module_level", "loader_with_position"),
    *("module_as_transform", "cached_augmentation", "workers_write_shared_memory", "slots"),
    *("nonlocal_counter", "default_argument", "function_attribute", "class_counter"),
    *("collate_is_the_modules", "generic_aliases", "average_in_a_dictionary", "target_network"),
    *("queue_between_processes", "isolated_generator_in_data", "module_reads_a_generator"),
    *(f"data_hold_{name}" for name in ("large_array", "count", "cycle", "shared_value", "table")),
    *(f"data_hold_{name}" for name in ("array_module", "bytearray")),
    *(f"stream_over_{name}" for name in ("open_file", "csv_reader", "class_with_a_file", "zip")),
    *(f"stream_over_{name}" for name in ("map", "chain", "cycle", "count")),
    *(f"module_{name}" for name in ("Lambdas", "HooksFeatures", "Parent", "Memoizes", "StepHooks")),
    *(f"module_{name}" for name in ("HoldsHandles", "HoldsAliases", "LockAcrossHooks")),
    "module_WrappedForward",
}
ABOUT_STATE = (set(SCENARIOS) - _OF_OTHER_FILES) | set(TOLD)
