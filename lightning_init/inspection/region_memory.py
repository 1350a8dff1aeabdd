"""Remembers the region behind every tensor of a trace, and what each region turned out to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from lightning_init.inspection.calls import Call
from lightning_init.inspection.mixing import merged, product
from lightning_init.inspection.operation_names import NEIGHBOURS, PRODUCTS, SUMS
from lightning_init.inspection.recognition import Finding, is_softmax, recognize
from lightning_init.inspection.regions import PLAIN, SPLITS, Node, Region, mapped, region_of
from lightning_init.inspection.signals import SCALE_NOTE, Signal, activate, scale, undecided
from lightning_init.inspection.tensor_table import TensorTable

_PLAIN = Signal().rule
_MOST = 1024  # regions of a process that are remembered; a large model has a dozen different ones
_found: dict[Any, Any] = {}
_T = TypeVar("_T")


class RegionMemory:
    """The regions of one trace; equal regions are looked into once in a process.

    Args:
        signals: What is known of the same tensors.
    """

    def __init__(self, signals: TensorTable[Signal] | None = None) -> None:
        self._nodes: TensorTable[Node] = TensorTable(signals)
        self._uses: dict[str, set[Node]] = {}
        self._inside_norms: set[Node] = set()

    def begin(
        self, tensor: Tensor, signal: Signal, *, given: bool = False, from_weight: bool = False
    ) -> None:
        """Let a region start at `tensor`; what only counts or indexes keeps its values."""
        values = tensor.detach() if given or not tensor.dtype.is_floating_point else None
        self._nodes[tensor] = _node(tensor, signal=signal, values=values, from_weight=from_weight)

    def put(self, tensor: Tensor, node: Node) -> None:
        """Give a tensor the node that `extend` made for it."""
        self._nodes[tensor] = node

    def extend(self, call: Call, outputs: list[Tensor], after: Signal) -> tuple[Node, ...]:
        """One node for each result of a call that keeps to its region."""
        inputs: dict[Node, None] = {}

        def leaf(value: Any) -> Any:
            node = self._nodes.values.get(id(value)) if isinstance(value, Tensor) else None
            if node is None:
                return value
            inputs[node] = None
            return node

        args = tuple(
            [
                v if type(v) in PLAIN else leaf(v) if isinstance(v, Tensor) else mapped(v, leaf)
                for v in call.args
            ]
        )
        kwargs = {key: mapped(value, leaf) for key, value in call.kwargs.items()}
        if call.name in NEIGHBOURS and args and args[0] is outputs[0]:
            args = (torch.zeros_like(outputs[0]), *args[1:])  # as it was before it was written to
        # A product of what is fed in may be its norm; a sum of one signal's functions, anything.
        several = len(call.carriers) > 1
        doubtful = several and (call.name in SUMS or (after.from_input and call.name in PRODUCTS))
        given = tuple(inputs)
        found = []
        for pick, tensor in enumerate(outputs):
            node = Node(
                tensor.shape,
                tensor.dtype,
                tensor.device,
                operation=call.name,
                function=call.function,
                args=args,
                kwargs=kwargs,
                pick=pick,
                doubtful=doubtful,
                inputs=given,
            )
            found.append(_part(node, tensor, after))
        return tuple(found)

    def share_a_root(self, carriers: Iterable[tuple[Tensor, Signal]]) -> bool:
        """Whether all these tensors are made of the same roots."""
        nodes = [self._nodes.get(tensor) for tensor, _ in carriers]
        roots = {node.roots if node is not None else None for node in nodes}
        return len(roots) == 1 and None not in roots

    def product(self, call: Call) -> Signal:
        """The signal behind a matrix product of signals; linear if one is a matrix of a weight's.

        The outputs of a weight that are laid out as a matrix are independent normal numbers.
        """
        if len(call.carriers) != 2:
            return product(call)
        matrix = call.carriers[1][0]
        entered, node = (self._nodes.get(tensor) for tensor, _ in call.carriers)
        while node is not None and node.operation in ("view", "reshape", "unflatten"):
            (node,) = node.inputs
        if entered is None or node is None or not node.from_weight or node in entered.roots:
            return product(call)
        if node.shape[-1] != matrix.shape[-2:].numel():
            return product(call)
        return Signal(marks=merged(call.signals).marks, notes=(SCALE_NOTE,))

    def is_softmax(self, call: Call, nodes: tuple[Node, ...]) -> bool:
        """Whether a call divides a signal by a sum of itself, as over the neighbours of a node."""
        if "div" not in call.name or not nodes:
            return False
        inner = [signal for signal in call.signals if not signal.from_input]
        region = region_of(nodes[0]) if len(inner) == 2 else None
        return region is not None and _remembered(is_softmax, region)

    def resolve(self, tensor: Tensor, signal: Signal) -> Signal:
        """Return the signal that a tensor carries, by its region where `signal` does not tell."""
        node = self._nodes.get(tensor)
        if node is None or node.function is None or (signal.decided and not node.doubtful):
            return signal
        region = region_of(node)
        if region is None or any(_rule(root) != _PLAIN for root in region.free_roots):
            return signal
        finding = _remembered(recognize, region)
        if finding is None:
            return signal
        self._inside_norms.update(region.calls[place] for place in finding.inside_norms)
        starts = [region.roots[place] for place in finding.starts]
        known = _behind([root.signal for root in starts if root.signal], finding, signal.dropout)
        if known.rule == _PLAIN:
            self.begin(tensor, known, from_weight=all(root.from_weight for root in starts))
        return known

    def note_use(self, names: Iterable[str], node: Node) -> None:
        """Note that the outputs of these weights go into a call that keeps to its region."""
        for name in names:
            self._uses.setdefault(name, set()).add(node)

    def into_norms(self) -> set[str]:
        """The weights whose output goes into norms that are written out."""
        return {name for name, nodes in self._uses.items() if nodes & self._inside_norms}

    def used_outside_norms(self) -> set[str]:
        """The weights whose output goes into a call that does not lead up to a norm."""
        return {name for name, nodes in self._uses.items() if nodes - self._inside_norms}


def _remembered(look: Callable[[Region], _T], region: Region) -> _T:
    """What `look` finds in a region; equal ones are looked into once in a process."""
    key = (look, region.key())
    if key not in _found:
        if len(_found) >= _MOST:
            _found.clear()
        _found[key] = look(region)
    found: _T = _found[key]
    return found


def _rule(root: Node) -> Any:
    return root.signal.rule if root.signal is not None else None


def _node(tensor: Tensor, **about: Any) -> Node:
    return Node(tensor.shape, tensor.dtype, tensor.device, **about)


def _part(node: Node, tensor: Tensor, after: Signal) -> Node:
    """A part of a root is a root of its own: the halves of an output are two signals."""
    selects = node.operation in SPLITS and len(node.inputs) == 1 and not node.reshapes
    if not (selects and after.rule == _PLAIN and node.inputs[0].is_layout):
        return node
    (whole,) = node.roots
    values = None if whole.values is None else tensor.detach()
    return _node(tensor, signal=after, values=values, from_weight=whole.from_weight)


def _behind(signals: list[Signal], finding: Finding, dropout: float) -> Signal:
    """The signal behind a region that starts at `signals`."""
    marks = frozenset().union(*(signal.marks for signal in signals))
    from_input = all(signal.from_input for signal in signals)
    if finding.normalized:
        before = Signal(marks=marks | {"normalized"}, from_input=from_input)
    elif len(signals) == 1:
        before = signals[0]
    else:
        notes = tuple(dict.fromkeys(note for signal in signals for note in signal.notes))
        decided = all(signal.decided for signal in signals)
        before = Signal(marks=marks, notes=notes, decided=decided, from_input=from_input)
    name, param = finding.rule
    for note in finding.notes:
        before = scale(before) if finding.decided else undecided(before, note)
    after = before if name == "linear" else activate(before, name, param)
    after = after._replace(dropout=dropout)
    if finding.drops_first and name != "linear":
        note = f"dropout stands before {name}: rule for dropout behind it used"
        return undecided(after, note)
    return after
