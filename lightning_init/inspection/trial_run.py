"""One forward pass that leaves a model as it was."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_init.inspection.parameter_walk import modules_of, own_parameters


def trial_run(
    model: nn.Module,
    observer: AbstractContextManager[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    gradients: bool = True,
) -> Any:
    """Call a model once, in train mode and eagerly, while `observer` is entered.

    Afterwards buffers, modes, gradients, the attributes of every module and the random state of
    Python and torch are what they were, also when the call fails. What the forward pass appends to
    a list of its own stays.

    Args:
        model: The model, not a `torch.compile` wrapper around it.
        observer: A context manager, usually a `TorchFunctionMode`.
        args: Positional arguments, as `arguments_of` gives them.
        kwargs: Keyword arguments.
        gradients: Whether a graph for gradients is built, which a forward may need.

    Returns:
        What the model returns.

    Raises:
        ValueError: If the forward pass fails.

    Example:
        >>> from contextlib import nullcontext
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> trial_run(model, nullcontext(), *arguments_of(torch.ones(4, 2))).shape
        torch.Size([4, 3])
        >>> int(model[1].num_batches_tracked)
        0
    """
    modules = modules_of(model)
    # A caller may be in inference mode.
    with torch.inference_mode(False), torch.set_grad_enabled(gradients):
        try:
            with ExitStack() as stack:
                stack.enter_context(_as_it_was(modules))
                stack.enter_context(_random_states(_devices(modules)))
                stack.enter_context(eager())
                stack.enter_context(observer)
                return model(*args, **kwargs)
        except Exception as error:
            raise failed_run(model, error) from error


def failed_run(model: nn.Module, error: Exception) -> ValueError:
    """One line that says why the example could not be run through the model."""
    reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
    return ValueError(
        f"`example_input` could not be run through {type(model).__name__}: {reason}; "
        "pass what its forward takes (a tensor, a tuple of arguments or a dict of keywords)."
    )


def arguments_of(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split an example into arguments, copied so that in-place operations leave it alone.

    Args:
        example_input: A tensor, a tuple or list of positional arguments, or a dict of keyword
            arguments.

    Example:
        >>> arguments_of((1, 2)), arguments_of({"x": 3})
        (((1, 2), {}), ((), {'x': 3}))
    """
    with torch.inference_mode(False):
        copied = _copied(example_input)
    if isinstance(copied, dict):
        return (), copied
    if isinstance(copied, list) or type(copied) is tuple:
        return tuple(copied), {}
    return (copied,), {}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_copied(item) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(_copied(item) for item in value)
    return value


@contextmanager
def _as_it_was(modules: list[nn.Module]) -> Iterator[None]:
    """Put every module in train mode, and put back all but parameters that a pass assigns.

    Counters, caches and last outputs are attributes. Buffers are swapped for copies, so that not
    even their version counters move. The mode is a flag: `train()` may be overridden to do more.
    """
    attributes = [(module.__dict__, module.__dict__.copy()) for module in modules]
    evaluating = [module for module in modules if not module.training]
    tables = [(table, dict(table)) for module in modules if (table := _buffers(module))]
    copies: dict[int, Tensor] = {}
    try:
        for table, held in tables:
            for name, buffer in held.items():
                if buffer is not None:
                    table[name] = copies.setdefault(id(buffer), buffer.clone())
        for module in evaluating:
            module.training = True
        yield
    finally:
        for module in evaluating:
            module.training = False
        for now, before in (*attributes, *tables):
            now.clear()
            now.update(before)


def _buffers(module: nn.Module) -> dict[str, Any]:
    """The table of a module's own buffers; TorchScript keeps none that could be written to."""
    table = vars(module).get("_buffers")
    return table if isinstance(table, dict) else {}


def random_state_of(model: nn.Module) -> AbstractContextManager[None]:
    """Give back the random states of Python, torch and the accelerators that hold the model."""
    return _random_states(_devices(modules_of(model)))


def _devices(modules: Iterable[nn.Module]) -> set[torch.device]:
    return {leaf.device for module in modules for _, leaf in own_parameters(module)}


@contextmanager
def _random_states(devices: set[torch.device]) -> Iterator[None]:
    state = random.getstate()
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            for device in (d for d in devices if d.type not in ("cpu", "meta")):
                stack.enter_context(torch.random.fork_rng([device], device_type=device.type))
            yield
    finally:
        random.setstate(state)


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled parts eagerly; nothing can be compiled while dynamo was never imported."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    if "torch._dynamo" not in sys.modules or set_stance is None:
        yield
        return
    with set_stance("force_eager"):
        yield
