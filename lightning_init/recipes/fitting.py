"""Does a recipe fit a model? Names, shapes, and what the weights can hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lightning_init.initialization.fill import parameters_of
from lightning_init.inspection.reasons import EXCLUDED, NOT_INCLUDED
from lightning_init.inspection.weights import Weight, WeightInventory
from lightning_init.recipes.recipe_format import RecipeLayer
from lightning_init.recipes.state_dicts import readings, refuse_mismatch

# The largest of very many normal draws, in standard deviations.
_LARGEST_DRAW = 8.0


def fitting_layers(
    layers: Sequence[RecipeLayer],
    left_out: Sequence[str],
    inventory: WeightInventory,
    by_width: bool,
) -> list[tuple[RecipeLayer, Weight]]:
    """Pair the layers of a recipe with the weights of a model that has them all.

    One attribute that holds the network (`model.`, `net.`) may be in front of all names on one
    side only. Layers that patterns left out of the inventory have no pair.

    Args:
        layers: The layers of the recipe.
        left_out: Names of what took no part when it was made.
        inventory: The model's weights; what patterns left out may be missing.
        by_width: Whether shapes may differ.

    Raises:
        ValueError: Names or shapes differ; the message names the layers.
    """
    found = {weight.name: weight for weight in inventory.weights}
    reasons = {left.name: left.reason for left in inventory.left_out}
    recorded = {layer.name: layer for layer in layers}
    own = max(readings([*recorded, *left_out]), key=lambda names: len(names.keys() & found.keys()))
    pairs = [(recorded[own[n]], w) for n, w in found.items() if own.get(n) in recorded]
    named = {there: here for here, there in own.items()}
    missing = [
        name + (f" (left out: {reasons[name]})" if name in reasons else "")
        for name in (named.get(layer.name, layer.name) for layer in layers)
        if name not in found and not reasons.get(name, "").startswith((EXCLUDED, NOT_INCLUDED))
    ]
    shapes = [
        f"{weight.name} {layer.shape} in the recipe, {weight.shape} in the model"
        for layer, weight in pairs
        if layer.shape != weight.shape and not by_width
    ]
    refuse_mismatch(
        "the recipe does not fit",
        {
            "the model lacks": missing,
            "the recipe lacks": [name for name in found if name not in own],
            "other shapes (`by_width=True` transfers to another width)": shapes,
        },
    )
    return pairs


def refuse_what_no_weight_can_hold(model: nn.Module, draws: Sequence[tuple[Weight, float]]) -> None:
    """Refuse variances at which a weight's number format overflows, or rounds to 0.

    Raises:
        ValueError: There are such; the message names the layers.
    """
    outside = []
    for weight, std in draws:
        dtype = parameters_of(model, weight)[0].dtype
        limits = torch.finfo(dtype)
        if not limits.smallest_normal <= std <= limits.max / _LARGEST_DRAW:
            name = str(dtype).removeprefix("torch.")
            outside.append(f"{weight.name} (sigma0^2 = {std**2:.3g}, weights in {name})")
    refuse_mismatch("the recipe does not fit", {"no such variance can be drawn": outside})
