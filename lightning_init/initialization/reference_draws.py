"""Reference initializations that no order of the moment gives, written over a plan in place.

Each starts from the standard normals of the plan, which depend on the seed and the layer's name
alone, so that a comparison pairs the draws as well as the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lightning_init.initialization.fill import fill_normal_
from lightning_init.initialization.plan import InitPlan
from lightning_init.initialization.planned_weight import PlannedWeight


def scale_variance_(module: nn.Module, plan: InitPlan, seed: int, *, factor: float) -> None:
    """Draw the weights of a plan again with `factor` times its variances."""
    _draw_(module, plan, seed, lambda row: row.std * math.sqrt(factor))


def random_walk_(module: nn.Module, plan: InitPlan, seed: int) -> None:
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


@torch.no_grad()
def make_uniform_(module: nn.Module, plan: InitPlan, seed: int) -> None:
    """Turn a plan's normals into uniforms of the same variance."""
    for row in plan.rows:
        _uniform_(_values(module, row), row.std)


@torch.no_grad()
def make_orthogonal_(module: nn.Module, plan: InitPlan, seed: int) -> None:
    """Orthogonal matrices (Saxe et al. 2014) with the gain of the law in front.

    The gain is std * sqrt(fan_in), sqrt(2) behind a ReLU.
    """
    for position, row in enumerate(plan.rows):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + position)
        nn.init.orthogonal_(
            _values(module, row), row.std * math.sqrt(row.weight.fan_in), generator=generator
        )


@torch.no_grad()
def xavier_(module: nn.Module, plan: InitPlan, seed: int, *, uniform: bool) -> None:
    """Variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010), normal or uniform."""
    _draw_(module, plan, seed, _xavier_std)
    for row in plan.rows if uniform else ():
        _uniform_(_values(module, row), _xavier_std(row))


def _xavier_std(row: PlannedWeight) -> float:
    return math.sqrt(2.0 / (row.weight.fan_in + row.weight.fan_out))


def _uniform_(values: Tensor, std: float) -> None:
    """Map x to sqrt(3) std erf(z / sqrt(2)), z = x / std: that erf, 2 Phi(z) - 1, is uniform."""
    values.copy_(torch.erf(values / (std * math.sqrt(2))) * (math.sqrt(3) * std))


def _draw_(
    module: nn.Module, plan: InitPlan, seed: int, std: Callable[[PlannedWeight], float]
) -> None:
    for row in plan.rows:
        fill_normal_(module, row.weight, std(row), seed)


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
