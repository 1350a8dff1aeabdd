"""Lazy layers get their shapes from one forward pass."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from lightning_init.inspection.declared_order import unwrapped
from lightning_init.inspection.parameter_walk import modules_of, own_parameters
from lightning_init.inspection.trial_run import arguments_of, failed_run, random_state_of


def has_lazy_parameters(model: nn.Module) -> bool:
    """Whether a parameter has no shape yet."""
    return any(
        type(one) is not nn.Parameter and is_lazy(one)  # hardly ever asked for
        for part in modules_of(model)
        for _, one in own_parameters(part)
    )


def copy_of_lazy(model: nn.Module) -> nn.Module:
    """Deep-copy a model with lazy layers; a Trainer that it is attached to is shared."""
    trainer = vars(model).get("_trainer")
    memo: dict[int, Any] = {id(trainer): trainer}
    held: Iterable[Any] = model.buffers()
    for buffer in held:
        if is_lazy(buffer):  # torch copies lazy parameters, but not lazy buffers
            kind: Any = type(buffer)
            memo[id(buffer)] = kind(device=buffer.device, dtype=buffer.dtype)
    return copy.deepcopy(model, memo)


def materialize_lazy_(model: nn.Module, example_input: Any) -> None:
    """Run the model once, in eval mode and without gradients, so that lazy layers take shape.

    Nothing else changes: modes, buffers that exist already and the random state are put back. The
    new parameters hold their layers' default values.

    Args:
        model: The model.
        example_input: A tensor, a tuple or list of positional arguments, or a dict of keyword
            arguments.

    Raises:
        ValueError: If the forward pass fails; layers in front of the failure have their shape then.

    Example:
        >>> model = nn.Sequential(nn.LazyLinear(3), nn.Dropout())
        >>> materialize_lazy_(model, torch.ones(1, 5))
        >>> model[0].weight.shape, model[1].training
        (torch.Size([3, 5]), True)
    """
    args, kwargs = arguments_of(example_input)
    flags = [(module, module.training) for module in model.modules()]
    buffers = [(b, b.detach().clone()) for b in model.buffers() if not is_lazy(b)]
    try:
        with torch.no_grad(), random_state_of(model):
            for module, _ in flags:
                module.training = False
            unwrapped(model)(*args, **kwargs)
    except Exception as error:
        raise failed_run(model, error) from error
    finally:
        for module, training in flags:
            module.training = training
        for buffer, saved in buffers:
            if not torch.equal(buffer, saved):
                buffer.copy_(saved)
