"""Weights whose first values are there on purpose: none at all, or an identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_init.inspection.reasons import whole_tensor
from lightning_init.inspection.weights import (
    LeftOut,
    Weight,
    WeightInventory,
    effective_weight,
    find_every_weight,
)

CONSTANT = "starts without variance (zero or constant): kept; name it in `include` to redraw it"
IDENTITY = "starts as an identity: kept; name it in `include` to redraw it"


def weights_to_probe(
    module: nn.Module, include: Sequence[str] | None, exclude: Sequence[str] | None
) -> WeightInventory:
    """The weights that take part, without those whose first values are there on purpose.

    Zero-initialised residual branches, gates and identity maps are part of an architecture. A
    pattern of `include` that names them, rather than everything, takes them in.
    """
    inventory = find_every_weight(module, include, exclude)
    if include is not None and "*" not in include:
        return inventory
    reasons = [(weight, _purpose(module, weight)) for weight in inventory.weights]
    kept = tuple(LeftOut(w.name, w.shape, reason) for w, reason in reasons if reason)
    taken = tuple(weight for weight, reason in reasons if not reason)
    return replace(inventory, weights=taken, left_out=(*inventory.left_out, *kept))


@torch.no_grad()
def _purpose(module: nn.Module, weight: Weight) -> str:
    values = whole_tensor(effective_weight(module, weight)).detach()
    if values.numel() == 0:
        return ""
    if bool((values == values.reshape(-1)[0]).all()):
        return CONSTANT
    return IDENTITY if _is_identity(values) else ""


def _is_identity(values: Tensor) -> bool:
    """Whether a matrix is an identity, or a convolution a Dirac kernel, up to a factor."""
    if values.ndim < 2 or values.shape[0] != values.shape[1]:
        return False
    rows = values.shape[0]
    if int(torch.count_nonzero(values)) != rows:
        return False
    flat = values.reshape(rows, rows, -1)
    centre = flat[:, :, flat.shape[2] // 2]
    return bool((centre == centre[0, 0] * torch.eye(rows, device=values.device)).all())
