"""Count, mean and sum of squared deviations of weights: accurate, cheap, mergeable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

# Large enough that the overhead of a call is small beside its arithmetic, small enough that the
# second pass over a chunk reads from the cache. An accelerator wants few, large kernels.
CHUNK = 65_536
ACCELERATOR_CHUNK = 1 << 24
# A float32 dot product of one chunk of Gaussian values has a relative error of 7e-8 (standard
# deviation). Values on a coarse grid (bfloat16, binary or quantized weights) bias every addition
# alike, by up to 1.4e-5; that is looked for on one chunk in 16.
CHECK_EVERY = 16
CHECK_TOLERANCE = 4e-7
# M2 is a difference of sums: a mean square beyond 4 variances costs more than two of its bits.
CANCELLATION = 4.0
# Mean squares near the smallest normal float32, 1e-38, lose digits.
TINY_SQUARE = 1e-30


# Not frozen: `Metric.compute` copies field by field what it returns. One table instead of three
# tensors, because it squeezes tensors of one element, which would drop the only layer's dimension.
@dataclass
class LayerMoments:
    """Moments of every layer.

    Args:
        table: Rows (n, mean, M2), shape (layers, 3), float64: the number of weights, their mean,
            and M2 = sum of (w - mean)^2.
    """

    table: Tensor

    @property
    def count(self) -> Tensor:
        """Number of weights, shape (layers,)."""
        return self.table[:, 0]

    @property
    def mean(self) -> Tensor:
        """Mean weight, shape (layers,)."""
        return self.table[:, 1]

    @property
    def variance(self) -> Tensor:
        """Population variance M2 / n of the weights, shape (layers,); nan for an empty layer."""
        return self.table[:, 2] / self.table[:, 0]


def fold_moments(stacked: Tensor) -> Tensor:
    """Moments of the union of several samples.

    n = sum n_i, mean = sum n_i mean_i / n, M2 = sum M2_i + sum n_i (mean_i - mean)^2: the split of
    a sum of squares into within and between (Chan, Golub & LeVeque 1983, The American
    Statistician), free of the cancellation of E[x^2] - E[x]^2.

    Args:
        stacked: Rows (n_i, mean_i, M2_i) with the samples along dimension 0, shape (parts, ..., 3).
            Empty samples, n_i = 0, change nothing.

    Returns:
        Rows (n, mean, M2) of the union, shape (..., 3); zeros where every sample is empty.
    """
    count, mean, m2 = stacked.unbind(-1)
    total = count.sum(0)
    union_mean = (count * mean).sum(0) / total.clamp(min=1)
    between = (count * (mean - union_mean).square()).sum(0)
    return torch.stack([total, union_mean, m2.sum(0) + between], dim=-1)


def merge_moments(a: Tensor, b: Tensor) -> Tensor:
    """Moments of the union of two samples; see `fold_moments`.

    Args:
        a: Rows (n, mean, M2), shape (..., 3).
        b: The same shape.

    Returns:
        Rows of the union, shape (..., 3).

    Example:
        >>> a, b = torch.tensor([1.0, 2.0]), torch.tensor([6.0])
        >>> merge_moments(tensor_moments(a), tensor_moments(b))
        tensor([ 3.,  3., 14.], dtype=torch.float64)
    """
    return fold_moments(torch.stack([a, b]))


def without_zeros(count: float, mean: float, m2: float, zeros: int) -> float:
    """Variance of what is left when so many exact zeros are taken out of a sample.

    Args:
        count: Size of the sample.
        mean: Its mean.
        m2: Its sum of squared deviations.
        zeros: How many of its values are zeros that do not count, fewer than `count`.

    Example:
        >>> without_zeros(4, 1.0, 6.0, 2)  # 0, 0, 1, 3
        1.0
    """
    left = count - zeros
    kept_mean = mean * count / left
    return (m2 + count * mean**2 - left * kept_mean**2) / left


@torch.no_grad()
def tensor_moments(tensor: Tensor) -> Tensor:
    """Count, mean and M2 = sum of (w - mean)^2 of all elements, in double precision.

    Tensors are read chunk by chunk in double precision. Large float32 tensors on the CPU are summed
    in float32 within a chunk and in float64 over the chunks, which is about twice as fast, where
    that is known to be safe: when the mean is small beside the standard deviation, no square
    underflows, and a check of one chunk in 16 agrees with double precision to 4e-7.

    Args:
        tensor: Real and of any shape, strides and floating dtype. For a `DTensor` the moments are
            those of the whole tensor, which is a collective call.

    Returns:
        (n, mean, M2), shape (3,), float64, on the CPU.

    Example:
        >>> tensor_moments(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
        tensor([ 4.,  3., 14.], dtype=torch.float64)
    """
    if hasattr(tensor, "device_mesh"):
        return _sharded_moments(tensor)
    if tensor.device.type not in ("cpu", "cuda"):
        tensor = tensor.cpu()
    flat = _flatten(tensor.detach())
    if flat.numel() > CHUNK and flat.dtype == torch.float32 and flat.device.type == "cpu":
        moments = _fast_moments(flat)
        if moments is not None:
            return moments
    return _exact_moments(flat)


def _flatten(tensor: Tensor) -> Tensor:
    """All elements in the order of their addresses: a view of a transposed or strided weight."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1)


def _exact_moments(flat: Tensor) -> Tensor:
    """Moments in float64, with the deviations of a chunk taken from the chunk's own mean."""
    size = CHUNK if flat.device.type == "cpu" else ACCELERATOR_CHUNK
    # One buffer for all chunks: fresh memory for each costs ten times the arithmetic.
    buffer = torch.empty(min(size, flat.numel()), dtype=torch.float64, device=flat.device)
    rows = []
    for chunk in torch.split(flat, size):
        values = buffer[: chunk.numel()].copy_(chunk)
        mean = values.mean().item() if chunk.numel() else 0.0
        values -= mean
        rows.append((chunk.numel(), mean, values.dot(values).item()))
    moments = torch.tensor(rows, dtype=torch.float64)
    return moments[0] if len(rows) == 1 else fold_moments(moments)


def _fast_moments(flat: Tensor) -> Tensor | None:
    """Moments from float32 sums and dot products; None when they are not to be trusted."""
    total = squares = 0.0
    for index, chunk in enumerate(torch.split(flat, CHUNK)):
        chunk_squares = chunk.dot(chunk).item()
        if index % CHECK_EVERY == 0:
            wide = chunk.double()
            exact = wide.dot(wide).item()
            if not abs(chunk_squares - exact) <= CHECK_TOLERANCE * exact:
                return None
        squares += chunk_squares
        total += chunk.sum().item()
    count = flat.numel()
    m2 = squares - total * total / count
    # Written so that nan and inf fail it.
    if TINY_SQUARE * count < squares < CANCELLATION * m2:
        return torch.tensor([count, total / count, m2], dtype=torch.float64)
    return None


def _sharded_moments(tensor: Any) -> Tensor:
    """Moments of a whole DTensor: the local ones, folded over the mesh dimensions that shard it."""
    if any(placement.is_partial() for placement in tensor.placements):
        return tensor_moments(tensor.full_tensor())
    local = tensor.to_local()
    moments = tensor_moments(local).to(local.device)
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_shard():
            group = tensor.device_mesh.get_group(dimension)
            parts = [torch.empty_like(moments) for _ in range(tensor.device_mesh.size(dimension))]
            torch.distributed.all_gather(parts, moments, group=group)
            moments = fold_moments(torch.stack(parts))
    return moments.cpu()


class WeightMoments(Metric):
    """Count, mean and population variance of the weights of every layer, as a torchmetrics metric.

    The state is one float64 tensor `moments` of shape (layers, 3), rows (n, mean, M2), and batches,
    ranks and `merge_state` all fold it by the same formula. It stays float64 under `.half()`,
    `.to(torch.bfloat16)` and `.set_dtype(...)`. Updates accumulate: one sample of a training run is
    `reset`, `update`, `compute`.

    As input to `update` and `forward`:

    - `weights` (sequence of tensors): one tensor per layer, of any shape.

    As output of `forward` and `compute`: a `LayerMoments` with `count`, `mean` and `variance`.

    Args:
        number_of_layers: Length of every sequence of weights, at least 1.
        sync_on_compute: Whether `compute` folds the states of all ranks. Off, because weights that
            DDP replicates would count once per rank; a `DTensor` is folded over its shards already
            in `update`.
        **kwargs: Further arguments of `torchmetrics.Metric`.

    Raises:
        ValueError: If `number_of_layers` is below 1.

    Example:
        >>> metric = WeightMoments(number_of_layers=2)
        >>> metric.update([torch.tensor([[1.0, 2.0], [3.0, 6.0]]), torch.tensor([0.5, 0.5])])
        >>> metric.compute().variance
        tensor([3.5000, 0.0000], dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    moments: Tensor

    def __init__(self, number_of_layers: int, sync_on_compute: bool = False, **kwargs: Any) -> None:
        super().__init__(sync_on_compute=sync_on_compute, **kwargs)
        if number_of_layers < 1:
            raise ValueError(f"`number_of_layers` must be at least 1, got {number_of_layers}.")
        self.number_of_layers = number_of_layers
        self.add_state(
            "moments",
            torch.zeros(number_of_layers, 3, dtype=torch.float64),
            dist_reduce_fx=fold_moments,
        )

    def update(self, weights: Sequence[Tensor]) -> None:
        """Add the weights of every layer to the sample.

        Args:
            weights: One tensor per layer, in the order of the layers.

        Raises:
            ValueError: If there are not as many tensors as layers; the state is kept.
        """
        if len(weights) != self.number_of_layers:
            raise ValueError(
                f"`weights` must hold one tensor per layer, {self.number_of_layers}, "
                f"got {len(weights)}."
            )
        rows = torch.stack([tensor_moments(weight) for weight in weights])
        self.moments = merge_moments(self.moments, rows.to(self.moments.device))

    def compute(self) -> LayerMoments:
        """Moments of everything since the last reset."""
        return LayerMoments(self.moments)

    def _apply(
        self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ""
    ) -> WeightMoments:
        # Metric guards `.half()` and `.float()`, but lets `.to(dtype)` and `set_dtype` cast.
        moments = self.moments
        super()._apply(fn, exclude_state)
        self.moments = moments.to(self.moments.device)
        self._defaults["moments"] = torch.zeros_like(self.moments)
        return self
