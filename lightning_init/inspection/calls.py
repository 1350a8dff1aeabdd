"""One call of a torch operation in a trace, with what its arguments carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lightning_init.inspection.signals import Signal


class Call(NamedTuple):
    """One call of a torch operation, with the signals that its arguments carry.

    Args:
        function: What is called.
        name: Name of the operation, without underscores around it.
        args: Positional arguments.
        kwargs: Keyword arguments.
        carriers: The tensor arguments that carry a signal, in order, each with its signal.
        has_parameters: A parameter, or what is computed from parameters only, takes part.
        tensors: All tensors among the arguments, in order.
    """

    function: Callable[..., Any]
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    carriers: tuple[tuple[Tensor, Signal], ...]
    has_parameters: bool
    tensors: tuple[Tensor, ...] = ()

    @property
    def signals(self) -> tuple[Signal, ...]:
        """Signals of the arguments, in order."""
        return tuple([signal for _, signal in self.carriers])

    @property
    def first(self) -> Signal | None:
        """Signal of the first argument."""
        return self.signal_of(self.argument(0, "input"))

    def signal_of(self, value: Any) -> Signal | None:
        """Return the signal that one argument carries, None if it carries none."""
        for tensor, signal in self.carriers:
            if tensor is value:
                return signal
        return None

    def argument(self, position: int, keyword: str, default: Any = None) -> Any:
        """Return an argument wherever it was written."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(keyword, default)

    def number(self, position: int, keyword: str, default: float) -> float:
        """Return a numeric argument."""
        return float(self.argument(position, keyword, default))


def refuses_single_values(name: str, args: tuple[Any, ...]) -> bool:
    """Whether this is a norm that would refuse one position per sample in train mode."""
    if name not in ("batch_norm", "instance_norm"):
        return False
    shape = args[0].shape
    return bool(shape.numel() == shape[:2].numel())
