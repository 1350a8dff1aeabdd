"""What a region of calls is: a norm, an elementwise function or a gated product, by its values.

How something is spelled does not matter. The region is run again on normal numbers: on twice the
numbers (a norm gives the same), and with two of them changed (an elementwise function changes two
results). What is in between a norm and the result is read in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_init.inspection.region_runs import (
    GRID,
    POKED,
    behind,
    drops_first,
    equal,
    leads_to,
    local,
    normal,
    poked,
    sample,
    size_of,
    trimmed,
)
from lightning_init.inspection.regions import Node, Region, region_of
from lightning_init.inspection.signals import SCALE_NOTE, Rule
from lightning_init.theory.composed_activations import GATED, GATES
from lightning_init.theory.recognition import rule_of_values

GATE_NOTE = "the factors of a gated product may depend on each other: rule of independent ones used"
_NAMES = {activation: name for name, activation in GATES.items()}
_LINE = 1e-5
_SAME = 5e-3  # relative: the smallest constant in a norm's square root changes less
_ROUNDED = 1.25  # a norm over few numbers gives almost, not quite, unit size
_SHOVE = 5.0  # enough to move a mean over many
_MOST = 1024
_standardizing: set[Any] = set()  # regions of a process: large weights are looked at once


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
        torch.default_generator.manual_seed(0)  # that of CUDA would be asked for, too
        try:
            return _recognize(region)
        except Exception:  # what cannot be run on other values is none of them
            return None


def is_softmax(region: Region) -> bool:
    """Whether the results are shares, which add up to the same whatever the roots are."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # that of CUDA would be asked for, too
        try:
            once, again = (
                region.run({root: normal(root) for root in region.free_roots})[region.result]
                for _ in range(2)
            )
        except Exception:  # what cannot be run on other values is none
            return False
    shares = bool((once >= 0).all() and (once <= 1).all()) and not torch.equal(once, again)
    return shares and torch.allclose(once.sum(), again.sum(), rtol=1e-4)


def computed_from(region: Region, root: Node) -> tuple[bool, Tensor | None]:
    """How a weight is computed from its parameter: standardized, masked, or neither.

    Args:
        region: From the parameter, and other parameters, to the weight.
        root: The parameter.

    Returns:
        Whether the weight stays the same when the parameter is doubled; and a mask of the weight's
        shape, zero where it does not count, None if it is the parameter without a mask.
    """
    key = region.key(), region.roots.index(root)
    if key in _standardizing:
        return True, None
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # that of CUDA would be asked for, too
        try:
            values = {one: normal(one) for one in region.roots}
            once, twice = (
                region.run({**values, root: factor * values[root]})[region.result]
                for factor in (1.0, 2.0)
            )
        except Exception:  # what cannot be run on other values is neither
            return False, None
    if _unchanged(once, twice):
        if len(_standardizing) < _MOST:
            _standardizing.add(key)
        return True, None
    mask = once.ne(0)
    masked = once.shape == root.shape and torch.equal(once, mask * values[root])
    return False, mask if masked and not bool(mask.all()) else None


def _recognize(region: Region) -> Finding | None:
    sizes = _norms(region, {root: normal(root) for root in region.free_roots})
    cuts = list(sizes)
    inner = region_of(region.result, cuts)
    if inner is None:
        return None
    places = {node: place for place, node in enumerate(region.calls)}
    inside = frozenset(places[call] for cut in cuts for call in behind(cut) if call in places)
    starts = tuple(
        place
        for place, root in enumerate(region.roots)
        if root in region.free_roots and (root in inner.roots or leads_to(root, cuts))
    )
    found = _function(trimmed(inner), sizes)
    if found is None:
        return None
    return Finding(found[0], bool(cuts), starts, inside, *found[1:], drops_first(inner))


def _function(
    region: Region, sizes: Mapping[Node, float]
) -> tuple[Rule, tuple[str, ...], bool] | None:
    """The rule, what it leaves open, and whether it is decided."""
    roots = region.free_roots
    if len(roots) == 1:
        found = _elementwise(region, roots[0], sizes)
        if found is None:
            return None
        loose = 2.0 if sizes else 1.0 + _LINE
        return found[0], () if 1.0 / loose <= found[1] <= loose else (SCALE_NOTE,), True
    if len(roots) != 2:
        return None
    orders = (roots[0], roots[1]), (roots[1], roots[0])
    gated = next((rule for order in orders if (rule := _gated(region, order, sizes))), None)
    if gated is None:
        return None
    independent = all(root.from_weight or size_of(root, sizes) for root in roots)
    return gated, () if independent else (GATE_NOTE,), independent


# ------------------------------------------------------------------------------------------ norms
def _norms(region: Region, values: dict[Node, Tensor]) -> dict[Node, float]:
    """The first results that do not depend on the scale, and that all else goes through.

    One per root at most, each with its root mean square.
    """
    once, twice, turned = (
        region.run({root: factor * value for root, value in values.items()})
        for factor in (1.0, 2.0, -1.0)
    )
    shoved = region.run(poked(values, _SHOVE)[0])
    found: dict[Node, float] = {}
    for root in region.free_roots:
        for call in region.calls:
            if not _is_norm(once[call], twice[call], turned[call], shoved[call]):
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
    return int((once != poked).sum()) > len(POKED) and float(once.double().std()) > 0.0


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
        return ("linear", None), size_of(root, sizes) or 1.0
    if region.result.shape.numel() != root.shape.numel():
        return None
    values = {root: normal(root)}
    if not local(region, values):
        return None
    sampled, again = (sample(region, root, {}, shift, sizes) for shift in (0, 1))
    return _rule_of(sampled) if equal(sampled, again) else None


def _rule_of(sampled: Tensor) -> tuple[Rule, float]:
    """The rule of a function with these values, and the factor of a multiple of its input."""
    slope = float(sampled[-1] / GRID[-1])
    if slope and bool((sampled - slope * GRID).abs().max() <= _LINE * abs(slope) * GRID[-1]):
        return ("linear", None), abs(slope)
    return rule_of_values(sampled.numpy()), 1.0


def _gated(region: Region, roots: tuple[Node, Node], sizes: Mapping[Node, float]) -> Rule | None:
    """The rule of phi(a) b, with the roots in this order."""
    gate, value = roots
    if not gate.shape.numel() == value.shape.numel() == region.result.shape.numel():
        return None
    values = {gate: normal(gate), value: normal(value)}
    if not local(region, values):
        return None
    once = region.run(values)[region.result]
    twice = region.run({**values, value: 2.0 * values[value]})[region.result]
    nothing = region.run({**values, value: torch.zeros_like(values[value])})[region.result]
    if not torch.allclose(twice, 2.0 * once, rtol=1e-3, atol=1e-5) or float(nothing.abs().max()):
        return None
    ones = {value: torch.ones_like(values[value])}
    sampled, again = (sample(region, gate, ones, shift, sizes) for shift in (0, 1))
    if not equal(sampled, again):
        return None
    (name, param), factor = _rule_of(sampled)
    return (_NAMES.get(name, f"{GATED}{name}"), param) if abs(factor - 1.0) < _LINE else None
