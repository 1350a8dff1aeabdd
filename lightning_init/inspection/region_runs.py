"""Runs of a region on chosen numbers: normal ones, moved ones, and a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_init.inspection.regions import (
    Node,
    Region,
    region_of,
    working_device,
    working_type,
)
from lightning_init.theory.recognition import SAMPLING_POINTS

GRID = torch.tensor(SAMPLING_POINTS)
POKED = (0.3, -0.3)
_POKE = 0.5


def normal(root: Node) -> Tensor:
    """Draw standard normal numbers for a root."""
    numbers = torch.randn(root.shape, dtype=working_type(root.dtype))
    return numbers.to(working_device(root.device))


def trimmed(region: Region) -> Region:
    """Without what only reorders values, behind the roots and in front of the result."""
    result = region.result
    while result.reshapes and result not in region.roots:
        result = result.inputs[0]
    cuts: list[Node] = []
    for root in region.free_roots:
        node = root
        while len(users := region.users(node)) == 1 and users[0].reshapes and node is not result:
            node = users[0]
        cuts.append(node)
    trimmed = region_of(result, cuts)
    return region if trimmed is None else trimmed


def behind(node: Node) -> tuple[Node, ...]:
    """The calls that lead up to a node, itself included."""
    region = region_of(node)
    return () if region is None else region.calls


def leads_to(root: Node, cuts: Sequence[Node]) -> bool:
    """Whether one of the cuts is made of `root`."""
    regions = [region_of(cut) for cut in cuts]
    return any(region is not None and root in region.roots for region in regions)


def drops_first(region: Region) -> bool:
    """Whether something other than reordering follows a dropout."""
    for call in region.calls:
        node = call
        if not node.drops:
            continue
        while node is not region.result:
            users = region.users(node)
            if len(users) != 1 or not users[0].reshapes:
                return True
            node = users[0]
    return False


def local(region: Region, values: dict[Node, Tensor]) -> bool:
    """Whether numbers that move take with them the results at their own places only."""
    (still, _), (moved, places) = poked(values, 0.0), poked(values, _POKE)
    before, after = (region.run(numbers)[region.result] for numbers in (still, moved))
    found = set((before != after).reshape(-1).nonzero().reshape(-1).tolist())
    return bool(found) and found <= places


def poked(values: dict[Node, Tensor], poke: float) -> tuple[dict[Node, Tensor], set[int]]:
    """Two numbers of every root set, one above and one below zero, and moved away by `poke`."""
    found = {}
    places: set[int] = set()
    for root, value in values.items():
        flat = value.clone().reshape(-1)
        for place, number in zip((0, flat.numel() // 2 + 1), POKED, strict=True):
            if place < flat.numel():
                flat[place] = number + (poke if number > 0 else -poke)
                places.add(place)
        found[root] = flat.reshape(value.shape)
    return found, places


def sample(
    region: Region,
    root: Node,
    others: dict[Node, Tensor],
    shift: int,
    sizes: Mapping[Node, float],
) -> Tensor:
    """The values of the function on the grid; `shift` moves every number to another place.

    Behind a norm that gives another size than 1, the grid is stretched to it.
    """
    size = root.shape.numel()
    stretch = size_of(root, sizes) or 1.0
    kind, device = working_type(root.dtype), working_device(root.device)
    found = torch.empty(len(GRID), dtype=torch.float64)
    for first in range(0, len(GRID), size):
        places = (torch.arange(first, first + size) + shift) % len(GRID)
        numbers = (stretch * GRID[places]).to(device=device, dtype=kind).reshape(root.shape)
        result = region.run({root: numbers, **others})[region.result]
        found[places] = result.reshape(-1).double().cpu()
    return found


def equal(first: Tensor, second: Tensor) -> bool:
    """Whether two samples of a function are finite and the same."""
    finite = bool(torch.isfinite(first).all() and torch.isfinite(second).all())
    return finite and torch.allclose(first, second, rtol=1e-3, atol=1e-5)


def size_of(root: Node, sizes: Mapping[Node, float]) -> float | None:
    """The size that a norm gives to a root, which may be a reordered one; None without a norm."""
    while root not in sizes and root.reshapes:
        (root,) = root.inputs
    return sizes.get(root)
