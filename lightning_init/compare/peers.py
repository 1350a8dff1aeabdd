"""Other people's initializations, which look at the first batch of training data."""

from __future__ import annotations

from typing import Any

from torch import nn


def lsuv_(module: nn.Module, seed: int, *, batch: Any, options: dict[str, Any]) -> None:
    """Layer-sequential unit variance by the `lsuv` package (Mishkin & Matas 2016)."""
    import lsuv

    lsuv.lsuv_with_singlebatch(module, first_input(batch), **{"verbose": False, **options})


def anyinit_(module: nn.Module, seed: int, *, batch: Any, options: dict[str, Any]) -> None:
    """The `anyinit` package; in its closed-form mode it is given the shape alone."""
    import anyinit

    data = first_input(batch)
    given = tuple(data.shape[1:]) if options["mode"] == "analytic" else data
    anyinit.initialize(module, input_spec=given, **options)


def first_input(batch: Any) -> Any:
    """What a model is called with: the first tensor of a batch."""
    while isinstance(batch, (list, tuple, dict)):
        batch = next(iter(batch.values() if isinstance(batch, dict) else batch))
    return batch
