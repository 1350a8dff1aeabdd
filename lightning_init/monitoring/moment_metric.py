"""The moments of every layer's weights as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_init.monitoring.weight_moments import fold_moments, merge_moments, sample_moments


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
        rows = torch.tensor(sample_moments(weights), dtype=torch.float64)
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
