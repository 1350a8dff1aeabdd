"""The reference initializations that `FractionalMomentInit` does not hold, written in place.

Each starts from the standard normals of `fractional_moment_init_`, which depend on the seed and the
layer's name alone, so that a comparison pairs the draws as well as the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_init import InitRecipe, fractional_moment_init_
from lightning_init.initialization.plan import InitPlan
from lightning_init.initialization.planned_weight import PlannedWeight
from lightning_init.recipes.recipe_format import RecipeLayer


def scale_variance_(module: nn.Module, plan: InitPlan, *, seed: int, factor: float) -> None:
    """Draw the weights of a plan again with `factor` times its variances."""
    _draw_(module, plan, seed, lambda row: row.std * math.sqrt(factor))


def random_walk_(module: nn.Module, plan: InitPlan, *, seed: int) -> None:
    """Random-walk gains (Sussillo & Abbott 2015, arXiv 1412.6558) of the law in front.

    exp(1 / 2N) for a linear unit; for every other one its order-2 scale times
    exp(1.2 / (max(N, 6) - 2.4)), which is the paper's gain for ReLU. N is the fan-in.
    """

    def std(row: PlannedWeight) -> float:
        width = row.weight.fan_in
        if row.activation.nonlinearity == "linear":
            return row.std * math.exp(1 / (2 * width))
        return row.std * math.exp(1.2 / (max(width, 6) - 2.4))

    _draw_(module, plan, seed, std)


def make_uniform_(module: nn.Module, plan: InitPlan, *, seed: int) -> None:
    """Turn a plan's normals into uniforms of the same variance."""
    _make_uniform_(module, plan, lambda row: row.std)


@torch.no_grad()
def make_orthogonal_(module: nn.Module, plan: InitPlan, *, seed: int) -> None:
    """Orthogonal matrices (Saxe et al. 2014) with the gain of the law in front.

    The gain is std * sqrt(fan_in), sqrt(2) behind a ReLU.
    """
    for position, row in enumerate(plan.rows):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + position)
        nn.init.orthogonal_(
            _values(module, row), row.std * math.sqrt(row.weight.fan_in), generator=generator
        )


def xavier_normal_(module: nn.Module, seed: int) -> None:
    """Variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010); biases zero."""
    plan = _linear_plan(module, seed)
    _draw_(module, plan, seed, _xavier_std)


def xavier_uniform_(module: nn.Module, seed: int) -> None:
    """The uniform law of the same variance; biases zero."""
    plan = _linear_plan(module, seed)
    _draw_(module, plan, seed, _xavier_std)
    _make_uniform_(module, plan, _xavier_std)


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
    if isinstance(batch, (list, tuple)):
        return first_input(batch[0])
    if isinstance(batch, dict):
        return first_input(next(iter(batch.values())))
    return batch


def _linear_plan(module: nn.Module, seed: int) -> InitPlan:
    return fractional_moment_init_(
        module,
        order=2.0,
        nonlinearity="linear",
        recurrent="same",
        bias="zero",
        respect="nothing",
        seed=seed,
    )


def _xavier_std(row: PlannedWeight) -> float:
    return math.sqrt(2.0 / (row.weight.fan_in + row.weight.fan_out))


@torch.no_grad()
def _make_uniform_(
    module: nn.Module, plan: InitPlan, std_of: Callable[[PlannedWeight], float]
) -> None:
    """Map x to sqrt(3) std erf(z / sqrt(2)), z = x / std: that erf, 2 Phi(z) - 1, is uniform."""
    for row in plan.rows:
        values, std = _values(module, row), std_of(row)
        values.copy_(torch.erf(values / (std * math.sqrt(2))) * (math.sqrt(3) * std))


def _draw_(
    module: nn.Module, plan: InitPlan, seed: int, std: Callable[[PlannedWeight], float]
) -> None:
    layers = tuple(
        RecipeLayer(
            name=row.weight.name,
            shape=row.weight.shape,
            fan_in=row.weight.fan_in,
            sigma0_squared=std(row) ** 2,
            action="redrawn",
            verdict="inconclusive",
            variance=None,
            standard_error=None,
        )
        for row in plan.rows
    )
    InitRecipe(layers).apply(module, seed)


def _values(module: nn.Module, row: PlannedWeight) -> Tensor:
    """The weight itself, to be written.

    Raises:
        ValueError: It is computed from other parameters.
    """
    weight = row.weight
    if weight.parametrization is not None:
        raise ValueError(
            f"Layer {weight.name!r} is under {weight.parametrization}, which this scheme cannot"
            " write; use a normal one, such as he or xavier."
        )
    tensor: Tensor = getattr(module.get_submodule(weight.module_name), weight.attribute)
    return tensor if weight.rows is None else tensor[weight.rows[0] : weight.rows[1]]
