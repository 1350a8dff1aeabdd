"""V of every layer of a module that trains: reading only, nothing of the run changes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lightning_init.inspection.weights import Weight, effective_weight
from lightning_init.monitoring.weight_moments import sample_moments, without_zeros


def measured_variances(
    module: nn.Module, weights: Sequence[Weight], moment: str = "central"
) -> list[float]:
    """V of each weight of ``module``, in float64; padding rows, which stay zero, do not count.

    Args:
        module: The module that the weights were found in.
        weights: What to measure.
        moment: "central", about the layer's mean, or "raw", about 0.
    """
    moments = sample_moments([effective_weight(module, weight) for weight in weights])
    found = []
    for weight, (count, mean, m2) in zip(weights, moments, strict=True):
        if moment == "raw":
            found.append((m2 + count * mean**2) / (count - weight.zeros))
        else:
            found.append(without_zeros(count, mean, m2, weight.zeros))
    return found
