"""Does a recipe fit a model? Names, shapes, and what the weights can hold."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lightning_init.initialization.fill import parameters_of
from lightning_init.inspection.reasons import EXCLUDED, NOT_INCLUDED
from lightning_init.inspection.weights import Weight, WeightInventory
from lightning_init.recipes.recipe_format import RecipeLayer

# The largest of very many normal draws, in standard deviations.
_LARGEST_DRAW = 8.0


def fitting_weights(
    layers: Sequence[RecipeLayer],
    left_out: Sequence[str],
    inventory: WeightInventory,
    by_width: bool,
) -> tuple[Weight, ...]:
    """Return the model's weights if they are those of a recipe.

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
    known = {layer.name for layer in layers} | set(left_out)
    missing = [
        name + (f" (left out: {reasons[name]})" if name in reasons else "")
        for name in (layer.name for layer in layers)
        if name not in found and not reasons.get(name, "").startswith((EXCLUDED, NOT_INCLUDED))
    ]
    _refuse("the model lacks", missing)
    _refuse("the recipe lacks", [name for name in found if name not in known])
    if not by_width:
        pairs = [(layer, found[layer.name]) for layer in layers if layer.name in found]
        other = [
            f"{layer.name} {layer.shape} in the recipe, {weight.shape} in the model"
            for layer, weight in pairs
            if layer.shape != weight.shape
        ]
        _refuse("other shapes (`by_width=True` transfers to another width)", other)
    return inventory.weights


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
    _refuse("no such variance can be drawn", outside)


def _refuse(what: str, layers: list[str]) -> None:
    if layers:
        more = f", and {len(layers) - 5} more" if len(layers) > 5 else ""
        raise ValueError(f"the recipe does not fit: {what}: {', '.join(layers[:5])}{more}.")
