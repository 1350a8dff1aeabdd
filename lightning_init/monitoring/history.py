"""The series of a monitored phase: one row of numbers per layer, one column per sample."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VarianceHistory:
    """The series behind a report: one row of numbers per layer, one column per sample.

    Args:
        steps: Probe step of each sample, increasing; 0 is before the first optimizer step.
        layers: Layer names.
        variances: Per layer, V at each of `steps`.
        drifts: Per layer, the drift index at each of `steps`; nan where it was not computed.
    """

    steps: tuple[int, ...] = ()
    layers: tuple[str, ...] = ()
    variances: tuple[tuple[float, ...], ...] = ()
    drifts: tuple[tuple[float, ...], ...] = ()

    def variance(self, layer: str) -> tuple[float, ...]:
        """Return the variances of one layer."""
        return self.variances[self.layers.index(layer)]

    def drift(self, layer: str) -> tuple[float, ...]:
        """Return the drift indices of one layer."""
        return self.drifts[self.layers.index(layer)]
