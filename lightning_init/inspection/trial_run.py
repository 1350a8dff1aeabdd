"""One forward pass that leaves a model as it was."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


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
    # A caller may be in inference mode.
    with torch.inference_mode(False), torch.set_grad_enabled(gradients):
        # Buffers are swapped for copies, so that not even their version counters move.
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        try:
            with ExitStack() as stack:
                for guard in (_attributes, _train_flags, random_state_of):
                    stack.enter_context(guard(model))
                stack.enter_context(eager())
                stack.enter_context(observer)
                return functional_call(model, buffers, args, kwargs)
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
def _attributes(model: nn.Module) -> Iterator[None]:
    """Put back what a forward pass assigns to its modules: counters, caches, last outputs."""
    saved = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in saved:
            vars(module).clear()
            vars(module).update(attributes)


@contextmanager
def _train_flags(model: nn.Module) -> Iterator[None]:
    """Put every module in train mode by its flag: `train()` may be overridden to do more."""
    evaluating = [module for module in model.modules() if not module.training]
    try:
        for module in evaluating:
            module.training = True
        yield
    finally:
        for module in evaluating:
            module.training = False


@contextmanager
def random_state_of(model: nn.Module) -> Iterator[None]:
    """Give back the random states of Python, torch and the accelerators that hold the model."""
    state = random.getstate()
    devices = {parameter.device for parameter in model.parameters()}
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
