"""V(W) read off weights that are there: a module's, or those of the checkpoints of earlier runs."""

from __future__ import annotations

import math
import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

import torch
from torch import Tensor, nn

from lightning_init.inspection.parameter_walk import module_at
from lightning_init.inspection.weights import Weight, WeightInventory, effective_weight
from lightning_init.monitoring.weight_moments import sample_moments, without_zeros
from lightning_init.recipes.recipe_format import (
    LARGEST_VARIANCE,
    SMALLEST_VARIANCE,
    UNKNOWN,
    RecipeLayer,
    VerdictWord,
)
from lightning_init.recipes.state_dicts import (
    Wanted,
    listed,
    match_names,
    read_state_dict,
    without_a_place,
)


def measured_layer(
    weight: Weight,
    variance: float,
    spread: float | None = None,
    change: float | None = None,
    verdict: VerdictWord = UNKNOWN,
) -> RecipeLayer:
    """A layer of a recipe that draws what was measured, if that can be drawn.

    Args:
        weight: The layer.
        variance: Variance of its weights about their mean; with several sources the geometric mean.
        spread: Standard deviation of log V over several sources; None with one.
        change: V at the end of the run over V in its middle, minus 1; None where it was measured
            once and not followed.
        verdict: What is known of V: "unknown" where it was measured once and not followed.
    """
    return RecipeLayer(
        name=weight.name,
        shape=weight.shape,
        fan_in=weight.fan_in if weight.knows_fan_in else None,
        sigma0_squared=variance,
        action="redrawn" if SMALLEST_VARIANCE <= variance <= LARGEST_VARIANCE else "kept",
        verdict=verdict,
        variance=variance,
        standard_error=None,
        spread=spread,
        change=change,
    )


def measure_module(module: nn.Module, inventory: WeightInventory) -> list[RecipeLayer]:
    """Measure every weight of an inventory.

    Raises:
        ValueError: A weight holds values that are not finite.
    """
    return [
        measured_layer(weight, _variance_of(weight, effective_weight(module, weight)))
        for weight in inventory.weights
    ]


def measure_checkpoints(
    paths: Sequence[str | os.PathLike[str]], module: nn.Module, inventory: WeightInventory
) -> list[RecipeLayer]:
    """Measure the weights that checkpoints hold for a module, which stays as it is.

    Args:
        paths: Seeds, or epochs of one run; V is averaged in the logarithm.
        module: Says which tensors are weights, and of which layers.
        inventory: Its weights.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: A file cannot be read safely, does not fit the model, or holds values that are
            not finite; the message names it.
    """
    if not paths:
        raise ValueError("`paths` must name at least one checkpoint, got none.")
    columns = [_measure_file(path, module, inventory) for path in paths]
    rows = zip(inventory.weights, *columns, strict=True)
    return [_averaged(weight, variances) for weight, *variances in rows]


def _measure_file(
    path: str | os.PathLike[str], module: nn.Module, inventory: WeightInventory
) -> list[float]:
    tensors = read_state_dict(path)
    try:
        held = match_names(_wanted(module, inventory), tensors)
        weights = inventory.weights
        variances = [_variance_of(weight, _values(module, weight, held)) for weight in weights]
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    _warn_of_what_is_lost(os.fspath(path), module, tensors, held)
    return variances


def _warn_of_what_is_lost(
    path: str, module: nn.Module, tensors: Mapping[str, Tensor], held: Mapping[str, Tensor]
) -> None:
    names = [*dict(module.named_parameters(remove_duplicate=False)), *dict(module.named_buffers())]
    surplus = [name for name in without_a_place(names, tensors) if tensors[name].dim() > 1]
    coarse = sorted({str(one.dtype) for one in held.values() if one.element_size() < 4})
    if surplus:
        warnings.warn(
            f"{path}: weights without a place in the model were not read: {listed(surplus)}.",
            stacklevel=2,
        )
    if coarse:
        warnings.warn(
            f"{path}: holds {' and '.join(coarse)}: V is that of the rounded weights.",
            stacklevel=2,
        )


def _wanted(module: nn.Module, inventory: WeightInventory) -> dict[str, Wanted]:
    """The parameters behind the weights: their shapes, and every name that they go by."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return {
        name: Wanted(tuple(parameter.shape), tuple(names[id(parameter)]))
        for weight in inventory.weights
        for name, parameter in _leaves(module, weight)
    }


def _leaves(module: nn.Module, weight: Weight) -> list[tuple[str, nn.Parameter]]:
    """Names in the state dict, and parameters, behind one weight."""
    holder, prefix = module_at(module, weight.module_name), weight.module_name
    below = weight.attribute
    if weight.parametrization is not None:
        below, holder = f"parametrizations.{below}", _chain(holder, below)
        return [
            (_join(prefix, f"{below}.{name}"), leaf) for name, leaf in holder.named_parameters()
        ]
    return [(_join(prefix, below), dict(holder.named_parameters(recurse=False))[below])]


def _values(module: nn.Module, weight: Weight, held: Mapping[str, Tensor]) -> Tensor:
    """What the layer would multiply by, had it the tensors of the checkpoint."""
    leaves = [held[name] for name, _ in _leaves(module, weight)]
    if weight.parametrization is None:
        values = leaves[0]
    else:
        chain = _chain(module_at(module, weight.module_name), weight.attribute)
        with torch.no_grad():
            values = chain[0](*leaves)
    return values if weight.rows is None else values[weight.rows[0] : weight.rows[1]]


def _chain(holder: nn.Module, attribute: str) -> nn.ModuleList:
    chain = holder.get_submodule(f"parametrizations.{attribute}")
    assert isinstance(chain, nn.ModuleList)
    return chain


def _variance_of(weight: Weight, values: Tensor) -> float:
    """Variance about the mean, without the row of an embedding that stays zero."""
    ((count, mean, m2),) = sample_moments([values])
    if not math.isfinite(m2):
        raise ValueError(f"{weight.name!r} holds values that are not finite.")
    return without_zeros(count, mean, m2, weight.zeros)


def _averaged(weight: Weight, variances: Sequence[float]) -> RecipeLayer:
    if len(variances) == 1 or min(variances) <= 0:
        return measured_layer(weight, min(variances))
    logs = [math.log(variance) for variance in variances]
    return measured_layer(weight, math.exp(fmean(logs)), stdev(logs))


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
