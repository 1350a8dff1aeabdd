"""The same weights on every rank."""

from __future__ import annotations

from torch import distributed, nn


def synchronize(module: nn.Module) -> None:
    """Send rank zero's parameters to all: ranks on unlike machines may round differently.

    Every rank holds another part of a sharded one, which was cut from rank zero's draw.
    """
    if distributed.is_available() and distributed.is_initialized():
        for parameter in module.parameters():
            sharded = hasattr(parameter, "device_mesh")
            if not (sharded or nn.parameter.is_lazy(parameter)):
                distributed.broadcast(parameter.data, src=0)
