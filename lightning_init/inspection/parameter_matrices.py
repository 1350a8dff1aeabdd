"""Follows parameters to the linear maps that they take part in, whatever class holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_init.inspection.calls import Call
from lightning_init.inspection.fans import Fans
from lightning_init.inspection.matrices import fans_in_call
from lightning_init.inspection.recognition import computed_from
from lightning_init.inspection.regions import Node, mapped, region_of
from lightning_init.inspection.tensor_table import TensorTable
from lightning_init.inspection.weights import Weight


class ParameterMatrices:
    """What is made of the parameters of a model during one trace.

    Args:
        parameters: Every parameter, with the weights that it makes up.
        candidates: By identity, the names of those that are a weight if a linear map uses them.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[nn.Parameter, tuple[Weight, ...]]],
        candidates: Mapping[int, str],
    ) -> None:
        self.found: dict[str, tuple[int, Fans]] = {}
        self.standardized: set[str] = set()
        self._made_of: TensorTable[tuple[Weight, ...]] = TensorTable()
        self._nodes: TensorTable[Node] = TensorTable()
        self._candidates = candidates
        self._names: dict[Node, tuple[str, int]] = {}
        self._held: dict[Node, tuple[Weight, ...]] = {}
        # The model holds them: no reference is needed.
        self._parameters = {id(parameter): weights for parameter, weights in parameters}
        self._made_of.values.update(self._parameters)

    def any_in(self, tensors: Iterable[Any]) -> bool:
        """Whether one of these is a parameter, or made of parameters only."""
        return not self._made_of.values.keys().isdisjoint(map(id, tensors))

    def weights_in(self, tensors: Iterable[Any]) -> tuple[Weight, ...]:
        """The weights that these tensors are made of."""
        found = [w for one in tensors for w in self._made_of.values.get(id(one), ())]
        return tuple(dict.fromkeys(found))

    def _node_of(self, tensor: Tensor) -> Node | None:
        """How a tensor is made of parameters; that of a parameter is made when it is asked for."""
        node = self._nodes.get(tensor)
        weights = self._parameters.get(id(tensor)) if node is None else None
        if weights is None:
            return node
        self._nodes[tensor] = node = Node(tensor.shape, tensor.dtype, tensor.device)
        self._held[node] = tuple([w for w in weights if w.parametrization is None])
        if id(tensor) in self._candidates:
            self._names[node] = self._candidates[id(tensor)], id(tensor)
        return node

    def extend(
        self,
        call: Call,
        tensor: Tensor,
        pick: int,
        weights: tuple[Weight, ...],
    ) -> None:
        """Note what a call makes of parameters only."""
        if tensor in self._made_of:
            return
        self._made_of[tensor] = weights

        def leaf(value: Any) -> Any:
            return (self._node_of(value) or value) if isinstance(value, Tensor) else value

        args, kwargs = mapped(call.args, leaf), mapped(call.kwargs, leaf)
        self._nodes[tensor] = Node(
            tensor.shape,
            tensor.dtype,
            tensor.device,
            operation=call.name,
            function=call.function,
            args=args,
            kwargs=kwargs,
            pick=pick,
        )

    def matrices_in(self, call: Call) -> tuple[str, ...]:
        """The candidates that a linear map multiplies by: themselves, reordered or in part."""
        names: list[str] = []
        for tensor in call.tensors if self._candidates else ():
            node = self._node_of(tensor)
            if node is None or not node.is_layout or self._names.keys().isdisjoint(node.roots):
                continue
            fans = fans_in_call(call.name, call.args, call.kwargs, tensor)
            if fans is not None:
                (root,) = node.roots
                name, identity = self._names[root]
                self.found.setdefault(name, (identity, fans))
                names.append(name)
        return tuple(names)

    def mask_of(self, matrix: Any) -> Tensor | None:
        """The mask of a matrix that is computed from a weight, None if it has none.

        A weight that stays the same when its parameter is doubled is noted as standardized.
        """
        node = self._nodes.get(matrix) if isinstance(matrix, Tensor) else None
        if node is None or node.is_layout:
            return None
        roots = [root for root in node.roots if self._held.get(root)]
        region = region_of(node)
        if region is None or len(roots) != 1:
            return None
        standardized, mask = computed_from(region, roots[0])
        if standardized:
            self.standardized |= {weight.name for weight in self._held[roots[0]]}
        return mask
