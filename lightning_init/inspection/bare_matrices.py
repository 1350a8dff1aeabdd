"""Weights that need no fan-in to have a variance: embeddings and bare matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_init.inspection.fans import Fans, WeightBlock
from lightning_init.inspection.parameter_walk import ParameterSlot
from lightning_init.inspection.reasons import EMBEDDING_LAYERS, is_scale_or_slope, why_rewritten

EMBEDDING, MATRIX = "embedding", "matrix"
# Products summed into one output unit of a bare matrix: what uses it is not known.
UNKNOWN_FAN = 0
# Squared mean over variance beyond which values are no draw around 0.
LARGEST_MEAN_SHARE = 0.25

ALIKE = "its rows are alike: structure is meant"
NOT_CENTRED = "its values are not centred on 0: structure is meant"


def matrix_block(slot: ParameterSlot) -> WeightBlock | None:
    """The matrix in a slot that holds no weight of a known kind of layer; None if it holds none.

    An embedding sums one row, so its fan-in is 1. What uses a bare parameter is not known, and
    neither is its fan-in. A parameter of one row or column is a vector, not a matrix.

    Example:
        >>> from lightning_init.inspection.parameter_walk import walk_parameters
        >>> [matrix_block(slot).kind for slot in walk_parameters(nn.Embedding(5, 3))]
        ['embedding']
    """
    if slot.is_bias or slot.parametrizations or is_lazy(slot.leaves[0]) or is_scale_or_slope(slot):
        return None
    if why_rewritten(slot) is not None:  # a layer computes its weight from it
        return None
    if isinstance(slot.module, torch.jit.ScriptModule):
        return None
    if isinstance(slot.module, EMBEDDING_LAYERS):
        return WeightBlock(slot.attribute, "", None, Fans(1, slot.shape[1]), EMBEDDING, ())
    if sum(size > 1 for size in slot.shape) < 2:
        return None
    return WeightBlock(slot.attribute, "", None, Fans(UNKNOWN_FAN, UNKNOWN_FAN), MATRIX, ())


def padding_row(module: nn.Module) -> int | None:
    """The row of an embedding that stays zero, or None."""
    return getattr(module, "padding_idx", None) if isinstance(module, EMBEDDING_LAYERS) else None


def why_structure_is_kept(values: Tensor) -> str | None:
    """Reason for a bare matrix whose values are no draw around 0; None if they may be one.

    State-space models hold log(1), log(2), ... in every row, others a table of constants.

    Example:
        >>> why_structure_is_kept(torch.arange(1.0, 5.0).log().expand(3, 4))
        'its rows are alike: structure is meant'
    """
    if hasattr(values, "device_mesh"):  # whole rows of a shard are not at hand
        return None
    wide = values.detach().double()
    for dimension in range(wide.dim()):
        first = wide.select(dimension, 0).unsqueeze(dimension)
        if wide.shape[dimension] > 1 and bool((wide == first).all()):
            return ALIKE
    variance, mean = torch.var_mean(wide, correction=0)
    return NOT_CENTRED if bool(mean**2 > LARGEST_MEAN_SHARE * variance) else None
