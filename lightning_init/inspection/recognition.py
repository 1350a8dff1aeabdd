"""What a region of calls is: a norm, an elementwise function or a gated product, by its values.

How something is spelled does not matter. The region is run again on normal numbers: on twice the
numbers (a norm gives the same), and with two of them changed (an elementwise function changes two
results). What is in between a norm and the result is read in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_init.inspection.known_functions import GATED, GRID, known_rule
from lightning_init.inspection.regions import (
    Node,
    Region,
    region_of,
    working_device,
    working_type,
)
from lightning_init.inspection.signals import SCALE_NOTE, Rule

GATE_NOTE = "the factors of a gated product may depend on each other: rule of independent ones used"
_SAME = 5e-3  # relative: the smallest constant in a norm's square root changes less
_POKED = (0.3, -0.3)
_POKE = 0.5
_ROUNDED = 1.25  # a norm over few numbers gives almost, not quite, unit size
_SHOVE = 5.0  # enough to move a mean over many


class Finding(NamedTuple):
    """What a region does to the signals at its roots.

    Args:
        rule: Name and parameters of the activation.
        normalized: Whether a norm lies in front of it.
        starts: Places of the roots, in the region's order, that the result depends on.
        inside_norms: Places of the calls that lead up to a norm and no further.
        notes: What the rule leaves open.
        decided: False if the rule is an assumption.
        drops_first: Whether a dropout stands in front of the activation.
    """

    rule: Rule
    normalized: bool
    starts: tuple[int, ...]
    inside_norms: frozenset[int]
    notes: tuple[str, ...] = ()
    decided: bool = True
    drops_first: bool = False


def recognize(region: Region) -> Finding | None:
    """Find out what a region is; None if it is neither of the three.

    Args:
        region: It may have one free root, or two for a gated product.
    """
    if not 1 <= len(region.free_roots) <= 2:
        return None
    if not all(root.dtype.is_floating_point for root in region.free_roots):
        return None
    if not region.result.dtype.is_floating_point:
        return None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return _recognize(region)
        except Exception:  # what cannot be run on other values is none of them
            return None


def scale_free(region: Region, root: Node) -> bool:
    """Whether the result stays the same when `root` is multiplied by 2."""
    with torch.no_grad():
        try:
            values = {root: _normal(root)}
            once, twice = (region.run({root: factor * values[root]}) for factor in (1.0, 2.0))
            return _unchanged(once[region.result], twice[region.result])
        except Exception:
            return False


def _recognize(region: Region) -> Finding | None:
    sizes = _norms(region, {root: _normal(root) for root in region.free_roots})
    cuts = list(sizes)
    inner = region_of(region.result, cuts)
    if inner is None:
        return None
    places = {node: place for place, node in enumerate(region.calls)}
    inside = frozenset(places[call] for cut in cuts for call in _behind(cut) if call in places)
    starts = tuple(
        place
        for place, root in enumerate(region.roots)
        if root in region.free_roots and (root in inner.roots or _leads_to(root, cuts))
    )
    found = _function(_trimmed(inner), sizes)
    if found is None:
        return None
    return Finding(found[0], bool(cuts), starts, inside, *found[1:], _drops_first(inner))


def _function(
    region: Region, sizes: Mapping[Node, float]
) -> tuple[Rule, tuple[str, ...], bool] | None:
    """The rule, what it leaves open, and whether it is decided."""
    roots = region.free_roots
    if len(roots) == 1:
        rule = _elementwise(region, roots[0], sizes)
        if rule is None:
            return None
        low, high = (0.5, 2.0) if sizes else (1.0, 1.0)
        return rule[0], () if low <= rule[1] <= high else (SCALE_NOTE,), True
    if len(roots) != 2:
        return None
    orders = (roots[0], roots[1]), (roots[1], roots[0])
    gated = next((name for order in orders if (name := _gated(region, order, sizes))), None)
    if gated is None:
        return None
    independent = all(root.from_weight or _size(root, sizes) for root in roots)
    return (gated, None), () if independent else (GATE_NOTE,), independent


def _size(root: Node, sizes: Mapping[Node, float]) -> float | None:
    """The size that a norm gives to a root, which may be a reordered one; None without a norm."""
    while root not in sizes and root.reshapes:
        (root,) = root.inputs
    return sizes.get(root)


# ------------------------------------------------------------------------------------------ norms
def _norms(region: Region, values: dict[Node, Tensor]) -> dict[Node, float]:
    """The first results that do not depend on the scale, and that all else goes through.

    One per root at most, each with its root mean square.
    """
    once, twice, turned = (
        region.run({root: factor * value for root, value in values.items()})
        for factor in (1.0, 2.0, -1.0)
    )
    poked = region.run(_poked(values, _SHOVE)[0])
    found: dict[Node, float] = {}
    for root in region.free_roots:
        for call in region.calls:
            if not _is_norm(once[call], twice[call], turned[call], poked[call]):
                continue
            start = region_of(call)
            behind = region_of(region.result, (call,))
            if start is None or behind is None or start.free_roots != (root,):
                continue
            if root in behind.roots or call not in behind.roots:
                continue
            size = float(once[call].double().square().mean().sqrt())
            found[call] = 1.0 if 1.0 / _ROUNDED < size < _ROUNDED else size
            break
    return found


def _is_norm(once: Tensor, twice: Tensor, turned: Tensor, poked: Tensor) -> bool:
    """Whether it keeps its values for twice the numbers, and turns them with the numbers.

    No activation behind a norm does both, and no elementwise function is moved as a whole.
    """
    if not once.dtype.is_floating_point or once.numel() < 2:
        return False
    if not (_unchanged(once, twice) and _unchanged(once, -turned)):
        return False
    return int((once != poked).sum()) > len(_POKED) and float(once.double().std()) > 0.0


def _unchanged(once: Tensor, twice: Tensor) -> bool:
    size = float(once.double().square().mean().sqrt())
    return size > 0.0 and float((twice - once).abs().max()) <= _SAME * max(
        size, float(once.abs().max())
    )


# ------------------------------------------------------------------------------------ elementwise
def _elementwise(
    region: Region, root: Node, sizes: Mapping[Node, float]
) -> tuple[Rule, float] | None:
    """The rule of a function that is the same at every place and looks at that place only."""
    if region.result is root:
        return ("linear", None), _size(root, sizes) or 1.0
    if region.result.shape.numel() != root.shape.numel():
        return None
    values = {root: _normal(root)}
    if not _local(region, values):
        return None
    sampled, again = (_sample(region, root, {}, shift, sizes) for shift in (0, 1))
    return known_rule(sampled) if _equal(sampled, again) else None


def _gated(region: Region, roots: tuple[Node, Node], sizes: Mapping[Node, float]) -> str | None:
    """The name of phi(a) b, with the roots in this order."""
    gate, value = roots
    if not gate.shape.numel() == value.shape.numel() == region.result.shape.numel():
        return None
    values = {gate: _normal(gate), value: _normal(value)}
    if not _local(region, values):
        return None
    once = region.run(values)[region.result]
    twice = region.run({**values, value: 2.0 * values[value]})[region.result]
    nothing = region.run({**values, value: torch.zeros_like(values[value])})[region.result]
    if not torch.allclose(twice, 2.0 * once, rtol=1e-3, atol=1e-5) or float(nothing.abs().max()):
        return None
    ones = {value: torch.ones_like(values[value])}
    sampled, again = (_sample(region, gate, ones, shift, sizes) for shift in (0, 1))
    if not _equal(sampled, again):
        return None
    (name, _), factor = known_rule(sampled)
    return GATED.get(name) if factor == 1.0 else None


def _local(region: Region, values: dict[Node, Tensor]) -> bool:
    """Whether numbers that move take with them the results at their own places only."""
    (still, _), (poked, places) = _poked(values, 0.0), _poked(values, _POKE)
    before, after = (region.run(numbers)[region.result] for numbers in (still, poked))
    found = set((before != after).reshape(-1).nonzero().reshape(-1).tolist())
    return bool(found) and found <= places


def _poked(values: dict[Node, Tensor], poke: float) -> tuple[dict[Node, Tensor], set[int]]:
    """Two numbers of every root set, one above and one below zero, and moved away by `poke`."""
    found = {}
    places: set[int] = set()
    for root, value in values.items():
        flat = value.clone().reshape(-1)
        for place, number in zip((0, flat.numel() // 2 + 1), _POKED, strict=True):
            if place < flat.numel():
                flat[place] = number + (poke if number > 0 else -poke)
                places.add(place)
        found[root] = flat.reshape(value.shape)
    return found, places


def _sample(
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
    stretch = _size(root, sizes) or 1.0
    kind, device = working_type(root.dtype), working_device(root.device)
    found = torch.empty(len(GRID), dtype=torch.float64)
    for first in range(0, len(GRID), size):
        places = (torch.arange(first, first + size) + shift) % len(GRID)
        numbers = (stretch * GRID[places]).to(device=device, dtype=kind).reshape(root.shape)
        result = region.run({root: numbers, **others})[region.result]
        found[places] = result.reshape(-1).double().cpu()
    return found


def _equal(first: Tensor, second: Tensor) -> bool:
    finite = bool(torch.isfinite(first).all() and torch.isfinite(second).all())
    return finite and torch.allclose(first, second, rtol=1e-3, atol=1e-5)


# ----------------------------------------------------------------------------------------- regions
def _normal(root: Node) -> Tensor:
    numbers = torch.randn(root.shape, dtype=working_type(root.dtype))
    return numbers.to(working_device(root.device))


def _trimmed(region: Region) -> Region:
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


def _behind(node: Node) -> tuple[Node, ...]:
    region = region_of(node)
    return () if region is None else region.calls


def _leads_to(root: Node, cuts: Sequence[Node]) -> bool:
    regions = [region_of(cut) for cut in cuts]
    return any(region is not None and root in region.roots for region in regions)


def _drops_first(region: Region) -> bool:
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
