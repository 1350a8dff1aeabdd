"""Why a parameter is left out: one short clause each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

from lightning_init.inspection.fans import WeightBlock
from lightning_init.inspection.parameter_walk import ParameterSlot

EXCLUDED = "excluded by pattern"
NOT_INCLUDED = "matched by no include pattern"
FROZEN = "frozen (requires_grad=False)"
ALL_ZERO = "all zeros: zero is meant"
EMBEDDING = "embedding: its rows are looked up, not summed over a fan-in"
ON_META_DEVICE = "on the meta device: it has no values yet; materialize the model first"
UNINITIALIZED = "lazy and not yet initialized: run one forward pass on a sample batch first"

TORCHSCRIPT = "inside TorchScript: compiled code holds it"

EMBEDDING_LAYERS = (nn.Embedding, nn.EmbeddingBag)

WEIGHT_NORM = "_WeightNorm"
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# `_NormBase` is what batch and instance normalization, lazy ones included, have in common.
_NORMALIZATION_LAYERS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
# What other classes whose name ends in "Norm" call the same.
_OF_NORMS = frozenset({"weight", "bias", "scale", "shift", "gain", "gamma", "beta", "g", "b"})
_SCALE_FREE = {
    "_SpectralNorm": "spectral_norm: the parametrization fixes the weight's scale",
    "_Orthogonal": "orthogonal: the parametrization fixes the weight's scale",
}


def why_not_a_weight(slot: ParameterSlot, *, traced: bool = False) -> str:
    """Reason for a parameter that is no weight matrix of a known kind of layer.

    Args:
        slot: The parameter.
        traced: Whether a trace has looked for linear maps that multiply by it.

    Example:
        >>> from lightning_init.inspection.parameter_walk import walk_parameters
        >>> [why_not_a_weight(slot) for slot in walk_parameters(nn.PReLU())]
        ['slope of an activation']
    """
    module = slot.module
    if isinstance(module, torch.jit.ScriptModule):
        return TORCHSCRIPT
    if isinstance(module, EMBEDDING_LAYERS):
        return EMBEDDING
    if is_scale_or_slope(slot):
        if isinstance(module, nn.PReLU):
            return "slope of an activation"
        return f"{'shift' if slot.attribute == 'bias' else 'scale'} of a normalization layer"
    if slot.parametrizations:
        chain = ", ".join(slot.parametrizations)
        return f"parametrized by {chain}; not a weight of a known kind of layer"
    if reason := why_rewritten(slot):
        return reason
    if slot.module_blocks:
        return f"parameter of {slot.module_type} that is none of its weight matrices"
    if traced:
        return f"bare nn.Parameter of {slot.module_type}; no linear map multiplies by it as it is"
    return f"bare nn.Parameter of {slot.module_type}; not a known kind of layer"


def is_scale_or_slope(slot: ParameterSlot) -> bool:
    """Whether a parameter belongs to a normalization layer or an activation."""
    named_norm = slot.module_type.endswith("Norm") and slot.attribute in _OF_NORMS
    return named_norm or isinstance(slot.module, (*_NORMALIZATION_LAYERS, nn.PReLU))


def why_rewritten(slot: ParameterSlot) -> str | None:
    """Reason for a parameter from which an old-style hook computes the weight, or None."""
    stem, _, suffix = slot.attribute.rpartition("_")
    computed = isinstance(getattr(slot.module, stem, None), Tensor) if stem else False
    if not computed:
        return None
    if suffix in ("g", "v"):
        return "old-style weight_norm; use torch.nn.utils.parametrizations.weight_norm"
    if suffix == "orig" and hasattr(slot.module, f"{stem}_mask"):
        return "pruned; make it permanent with torch.nn.utils.prune.remove"
    return "old-style spectral_norm: it fixes the weight's scale" if suffix == "orig" else None


def why_not_writable(slot: ParameterSlot) -> str | None:
    """Reason for a tensor that cannot, or must not, be written in place; None if it can."""
    leaves: tuple[Any, ...] = slot.leaves
    for leaf in leaves:
        if is_lazy(leaf):
            return UNINITIALIZED
        if leaf.is_meta:
            return ON_META_DEVICE
        if leaf.dtype not in _DTYPES:
            return f"stored as {leaf.dtype}: quantized, integer or complex"
        if leaf.layout != torch.strided:
            return f"stored as {leaf.layout}: not a dense matrix"
        if not leaf.requires_grad:
            return FROZEN
        if leaf.numel() == 0:
            return "empty: it has no elements, or another process holds them"
    return _why_parametrized(slot) if slot.parametrizations else None


def _why_parametrized(slot: ParameterSlot) -> str | None:
    chain = slot.parametrizations
    if chain == (WEIGHT_NORM,) and not slot.is_bias:
        return None
    if len(chain) == 1 and chain[0] in _SCALE_FREE:
        return _SCALE_FREE[chain[0]]
    return f"parametrized by {', '.join(chain)}; only weight_norm alone is known"


def why_values_are_kept(values: Tensor, block: WeightBlock) -> str | None:
    """Reason for a block whose present values are meant, or are not the whole matrix; None if none.

    Args:
        values: The block's values.
        block: The weight matrix that the layer's numbers of channels and features make of it.

    Example:
        >>> from lightning_init.inspection.fans import weight_blocks
        >>> layer = nn.Linear(3, 2)
        >>> why_values_are_kept(torch.zeros(2, 3), weight_blocks(layer)[0])
        'all zeros: zero is meant'
    """
    if block.kind == "matrix":  # the trace saw it in use
        return None if bool(values.any()) else ALL_ZERO
    # Dimension 0 holds the inputs of a transposed convolution and the outputs of everything else.
    per_row = block.fans.fan_out if block.kind == "conv_transpose" else block.fans.fan_in
    shape = values.shape
    # An embedding has one product per output, a bare matrix a fan-in that is not known.
    looked_up = block.kind in ("embedding", "matrix")
    if not looked_up and (len(shape) < 2 or shape[1:].numel() != per_row):
        return f"of shape {tuple(shape)}, which does not fit the layer's fan-in"
    # The first entry settles it for nearly every weight, without a pass over all of it; of a plain
    # tensor, `as_strided` takes half the time of indexing.
    if type(values) in (Tensor, nn.Parameter) and values.layout == torch.strided:
        first = values.as_strided((), ())
    elif hasattr(values, "full_tensor"):  # a DTensor: every rank takes part in the sum
        return None if float(whole_tensor(values.abs().sum())) else ALL_ZERO
    else:
        first = values[(0,) * len(shape)]
    return None if bool(first) or bool(values.any()) else ALL_ZERO


def whole_tensor(tensor: Any) -> Tensor:
    """The tensor itself, or a DTensor gathered from all ranks (a collective call)."""
    if type(tensor) in (Tensor, nn.Parameter):  # an attribute that is not there costs most
        return tensor  # type: ignore[no-any-return]
    whole: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole
