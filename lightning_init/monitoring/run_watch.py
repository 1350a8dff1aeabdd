"""Follows V of every layer while the real run trains: reading only, nothing of the run changes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from lightning_init.inspection.weights import Weight, effective_weight
from lightning_init.monitoring.run_series import RunSeries, sampling_interval
from lightning_init.monitoring.weight_moments import sample_moments, without_zeros


class RunWatch:
    """Samples V at the interval of a series.

    Args:
        weights: What is watched.
        planned_steps: Optimizer steps of the run, `inf` for one without end.
        moment: "central", about the layer's mean, or "raw", about 0.
        series: The samples of the run so far, where it resumes; other layers start a new series.
    """

    def __init__(
        self,
        weights: Sequence[Weight],
        planned_steps: float,
        moment: str = "central",
        series: RunSeries | None = None,
    ) -> None:
        self._weights = tuple(weights)
        self._moment = moment
        names = tuple(weight.name for weight in weights)
        resumed = series is not None and series.layers == names
        self.series = (
            series
            if resumed and series is not None
            else RunSeries(names, sampling_interval(planned_steps))
        )

    def is_due(self, step: int) -> bool:
        """Whether a sample is due after so many optimizer steps."""
        return self.series.is_due(step)

    def sample(self, module: nn.Module, step: int) -> list[float]:
        """Measure every layer and keep the sample; one copy to the host for all of them."""
        variances = measured_variances(module, self._weights, self._moment)
        self.series.append(step, variances)
        return variances


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
