"""Torch operations by what they do to a signal, each under one name for all its spellings."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1024)
def operation_name(operation: Any) -> str:
    """Return one name for a function, its method and its in-place twin.

    Example:
        >>> import torch
        >>> {operation_name(f) for f in (torch.relu, torch.Tensor.relu_, torch.nn.functional.relu)}
        {'relu'}
        >>> operation_name(torch.Tensor.T.__get__)
        'T'
    """
    name = getattr(operation, "__name__", type(operation).__name__)
    if name == "__get__":
        name = getattr(getattr(operation, "__self__", None), "__name__", "")
    return str(name).strip("_")


def names(text: str) -> frozenset[str]:
    """Return the words of `text`."""
    return frozenset(text.split())


DROPOUTS = names("dropout dropout1d dropout2d dropout3d feature_dropout native_dropout")
ALPHA_DROPOUTS = names("alpha_dropout feature_alpha_dropout")
NORMS = names("batch_norm layer_norm group_norm instance_norm rms_norm normalize")
MAX_POOLS = names(
    """
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices
    adaptive_max_pool3d_with_indices fractional_max_pool2d fractional_max_pool3d
    fractional_max_pool2d_with_indices fractional_max_pool3d_with_indices
    """
)
POOLS = MAX_POOLS | names(
    """
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    mean nanmean amax amin max min interpolate upsample upsample_nearest upsample_bilinear
    grid_sample
    """
)
LAYOUTS = names(
    """
    view reshape view_as reshape_as flatten unflatten ravel permute transpose swapaxes swapdims
    movedim moveaxis t T mT H contiguous clone detach data to type type_as float double half
    bfloat16 cpu cuda squeeze unsqueeze expand expand_as broadcast_to broadcast_tensors tile
    repeat repeat_interleave chunk split tensor_split unsafe_chunk unsafe_split split_with_sizes
    unbind hsplit vsplit dsplit narrow select slice roll flip fliplr flipud rot90 pad
    constant_pad_nd unfold diagonal tril triu pixel_shuffle pixel_unshuffle channel_shuffle
    requires_grad pack_padded_sequence pad_packed_sequence pad_sequence alias as_strided
    pin_memory nan_to_num
    """
)
SELECTIONS = names("getitem index_select gather take take_along_dim masked_select index")
SUMS = names("add radd iadd sub rsub isub subtract lerp")
PRODUCTS = names("mul rmul imul multiply div truediv itruediv idiv divide true_divide")
MATRIX_PRODUCTS = names(
    """
    matmul rmatmul imatmul mm bmm mv addmm addmv addbmm baddbmm einsum tensordot inner
    chain_matmul multi_dot grouped_mm
    """
)
LAYERS = names(
    """
    linear bilinear conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d
    conv_transpose3d
    """
)
JOINS = names(
    """
    cat concat concatenate stack hstack vstack dstack column_stack setitem index_put
    masked_scatter scatter index_copy slice_scatter select_scatter
    """
)
CHOICES = names("where masked_fill")
REDUCTIONS = names("sum nansum cumsum index_add scatter_add scatter_reduce index_reduce fold")
# Over the rows that an index names, as a graph's edges end in nodes.
NEIGHBOURS = names("index_add scatter_add scatter_reduce index_reduce")
CONSTANTS = names(
    """
    zeros_like ones_like empty_like full_like new_zeros new_ones new_empty new_full new_tensor
    zero fill
    """
)
TABLES = names("arange linspace logspace zeros ones full eye")
RANDOM = names(
    """
    rand randn randint randperm rand_like randn_like randint_like bernoulli normal uniform
    poisson multinomial exponential
    """
)
# What it gives is fed in, whatever it was given: tokens, noise.
SOURCES = RANDOM | names("embedding embedding_bag embedding_renorm")
RECURRENT = names("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")

# What merges signals, or ends a region: there it must be known what they are.
MAPS = LAYERS | MATRIX_PRODUCTS
MERGES = JOINS | MATRIX_PRODUCTS | {"scaled_dot_product_attention"}
ENDS = MERGES | LAYERS | RECURRENT | SOURCES | NORMS | names("softmax safe_softmax")
