"""The calls between two weight matrices, recorded so that they can be run again with other values.

A tensor of the trace is either a root, whose values the region may be given anew, or the result of
a recorded call. Only constants are held, never the activations of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from lightning_init.inspection.operation_names import DROPOUTS, LAYOUTS, SELECTIONS
from lightning_init.inspection.signals import Signal

PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size})
_NARROW = frozenset({"half", "bfloat16"})  # run in single precision
MOST_CALLS = 120  # a longer region is no activation and no norm
SPLITS = frozenset(
    {"chunk", "split", "tensor_split", "unsafe_chunk", "unsafe_split", "split_with_sizes"}
    | {"unbind", "hsplit", "vsplit", "dsplit", "narrow", "select", "slice", "getitem"}
)
RESHAPES = LAYOUTS - SPLITS - {"expand", "expand_as", "tile", "repeat", "tril", "triu"}


Found = TypeVar("Found")


@dataclass(eq=False, slots=True)
class Node:
    """A tensor of the trace, known by how it was made.

    Args:
        shape: Its shape.
        dtype: Its type.
        device: Where it lies.
        signal: What is known of a root; None for the result of a call.
        values: The tensor itself, of a root that is given to the model.
        operation: Name of the call, "" for a root.
        function: What was called.
        args: Its arguments, with a node in place of every tensor that has one.
        kwargs: Likewise.
        pick: Which tensor of the call's result this is.
        from_weight: Whether the root is the output of a weight matrix, or a part of one.
        doubtful: Whether its law cannot be told from the names of the calls.
        inputs: The nodes that the call was given; read off its arguments if they are not named.
        roots: The roots that it is made of.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    signal: Signal | None = None
    values: Tensor | None = None
    operation: str = ""
    function: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    pick: int = 0
    from_weight: bool = False
    doubtful: bool = False
    inputs: tuple[Node, ...] = ()
    roots: frozenset[Node] = frozenset()

    def __post_init__(self) -> None:
        if self.function is None:
            self.roots = frozenset({self})
            return
        if not self.inputs:
            self.inputs = tuple(dict.fromkeys(found_in((self.args, self.kwargs), Node)))
        self.roots = self._roots_behind()
        self.doubtful = self.doubtful or any(node.doubtful for node in self.inputs)

    def _roots_behind(self) -> frozenset[Node]:
        if len(self.inputs) == 1:
            return self.inputs[0].roots
        return frozenset[Node]().union(*(node.roots for node in self.inputs))

    @property
    def drops(self) -> bool:
        """Whether it is the result of a dropout, which is run as the identity."""
        return self.operation in DROPOUTS

    @property
    def reshapes(self) -> bool:
        """Whether it holds the same values as its only input, in the same or another order."""
        if len(self.inputs) != 1 or self.inputs[0].shape.numel() != self.shape.numel():
            return False
        return self.operation in RESHAPES or self.operation in SPLITS or self.drops

    @property
    def is_layout(self) -> bool:
        """Whether it holds values of one root and nothing else, in whatever order."""
        if self.function is None:
            return True
        same = self.operation in LAYOUTS or self.operation in SELECTIONS or self.drops
        return same and len(self.inputs) == 1 and self.inputs[0].is_layout


def found_in(value: Any, kind: type[Found]) -> list[Found]:
    """What of one kind nested tuples, lists, dicts and slices hold, in order."""
    found: list[Found] = []
    _collect((value,), kind, found)
    return found


def _collect(items: Iterable[Any], kind: type[Found], found: list[Found]) -> None:
    for item in items:
        if type(item) in PLAIN:  # nearly all there is
            continue
        if isinstance(item, kind):
            found.append(item)
        elif isinstance(item, (tuple, list)):
            _collect(item, kind, found)
        elif isinstance(item, slice):
            _collect((item.start, item.stop, item.step), kind, found)
        elif not isinstance(item, _LEAVES) and isinstance(item, Mapping):
            _collect(item.values(), kind, found)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors inside nested tuples, lists, dicts and slices, in order."""
    if isinstance(value, Tensor):  # what most calls give
        return [value]
    found: list[Tensor] = []
    _collect(value if type(value) is tuple else (value,), Tensor, found)
    return found


def arguments_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors inside the arguments of a call, in order."""
    found: list[Tensor] = []
    _collect(args, Tensor, found)
    if kwargs:
        _collect(kwargs.values(), Tensor, found)
    return found


# What is never looked into.
_LEAVES = (Tensor, Node)


def memory_of(tensor: Tensor) -> int:
    """Where a tensor's storage begins; 0 if it has no memory that could be shared."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Change every leaf of nested tuples, lists, dicts and slices."""
    if type(value) in PLAIN or isinstance(value, _LEAVES):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[mapped(item, change) for item in value])
    if isinstance(value, (tuple, list)):
        return type(value)([mapped(item, change) for item in value])
    if isinstance(value, slice):
        return slice(change(value.start), change(value.stop), change(value.step))
    if isinstance(value, Mapping):
        return {key: mapped(item, change) for key, item in value.items()}
    return change(value)


class Region(NamedTuple):
    """The calls from some roots to one result.

    Args:
        result: What they make.
        calls: The results of the calls, each behind what it is made of.
        roots: Where they start, in the order in which they are met.
    """

    result: Node
    calls: tuple[Node, ...]
    roots: tuple[Node, ...]

    @property
    def free_roots(self) -> tuple[Node, ...]:
        """The roots whose values may be chosen: what the model is given only if there is no other.

        A mask that is given keeps the values of the trace.
        """
        computed = tuple(root for root in self.roots if root.values is None)
        return computed or tuple(root for root in self.roots if root.dtype.is_floating_point)

    def users(self, node: Node) -> list[Node]:
        """The calls that were given `node`."""
        return [call for call in self.calls if node in call.inputs]

    def run(self, values: Mapping[Node, Tensor]) -> dict[Node, Tensor]:
        """Run the calls again, from these values of the free roots; dropout keeps everything."""
        found: dict[Node, Tensor] = {}
        for root in self.roots:
            found[root] = values[root] if root in values else _constant(root.values)
        for call in self.calls:
            found[call] = _run(call, found)
        return found

    def key(self) -> Any:
        """What two regions that compute the same function share."""
        index = {node: place for place, node in enumerate((*self.roots, *self.calls))}
        roots = tuple((root.shape, root.dtype, _print(root.values)) for root in self.roots)
        calls = tuple(
            [
                (call.function, call.pick, _frozen(call.args, index), _frozen(call.kwargs, index))
                for call in self.calls
            ]
        )
        return roots, calls


def region_of(result: Node, cuts: Iterable[Node] = ()) -> Region | None:
    """The calls behind `result` up to the roots, and to `cuts`; None if there are too many."""
    ends = set(cuts)
    calls: dict[Node, None] = {}
    roots: dict[Node, None] = {}
    stack: list[tuple[Node, bool]] = [(result, False)]
    while stack:
        node, done = stack.pop()
        if done:
            calls[node] = None
        elif node.function is None or node in ends:
            roots[node] = None
        elif node not in calls:
            stack.append((node, True))
            stack.extend((other, False) for other in reversed(node.inputs) if other not in calls)
        if len(calls) > MOST_CALLS or len(stack) > 4 * MOST_CALLS:
            return None
    return Region(result, tuple(calls), tuple(roots))


def working_type(dtype: torch.dtype) -> torch.dtype:
    """The type in which a region is run: narrow ones are widened."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def working_device(device: torch.device) -> torch.device:
    """The device on which a region is run: what lies on none is run on the CPU."""
    return torch.device("cpu") if device.type == "meta" else device


def _run(call: Node, found: Mapping[Node, Tensor]) -> Tensor:
    def value_of(leaf: Any) -> Any:
        return found[leaf] if isinstance(leaf, Node) else _constant(leaf)

    args, kwargs = mapped(call.args, value_of), mapped(call.kwargs, value_of)
    if call.drops or call.operation in _NARROW:
        kept: Tensor = args[0] if args else kwargs["input"]
        return kept
    if args and isinstance(args[0], Tensor):
        args = (args[0].clone(), *args[1:])  # the call may write in place
    assert call.function is not None
    results = tensors_in(call.function(*args, **kwargs))
    return results[call.pick] if results else args[0]


def _constant(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return working_device(leaf)
    if isinstance(leaf, torch.dtype):
        return working_type(leaf)
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.is_meta:  # it has no values: those of a scale that changes nothing
        return torch.ones(leaf.shape, dtype=working_type(leaf.dtype))
    return leaf.detach().to(working_type(leaf.dtype))


def _frozen(value: Any, index: Mapping[Node, int]) -> Any:
    """Arguments as something to look up, with the places of nodes for the nodes."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, Node):
        return "#", index[value]
    if isinstance(value, (tuple, list)):
        return tuple([_frozen(item, index) for item in value])
    if isinstance(value, slice):
        return "slice", _frozen((value.start, value.stop, value.step), index)
    if isinstance(value, Mapping):
        return tuple([(key, _frozen(item, index)) for key, item in value.items()])
    return _print(value) if isinstance(value, Tensor) else str(value)


def _print(tensor: Tensor | None) -> Any:
    """What tells a constant from others of its shape, without holding its values."""
    if tensor is None:
        return None
    about = (tuple(tensor.shape), tensor.dtype)
    if tensor.is_meta or tensor.numel() == 0 or tensor.layout != torch.strided:
        return about
    values = tensor.detach()
    return (*about, values.reshape(-1)[0].item(), values.double().abs().sum().item())
