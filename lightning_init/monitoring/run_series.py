"""V of every layer along a probe, and along a real run, whose series passes through checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A run of unknown length is sampled at this interval; when so many samples are there, every second
# one goes and the interval doubles.
INTERVAL = 60
MOST_SAMPLES = 400
# Shorter runs are sampled more often, or a verdict on them would rest on nothing.
FEWEST_SAMPLES = 40


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


class RunSeries:
    """Samples of V at evenly spaced optimizer steps.

    Args:
        layers: Layer names.
        interval: Optimizer steps between two samples, to begin with.
    """

    def __init__(self, layers: Sequence[str], interval: int = INTERVAL) -> None:
        self.layers = tuple(layers)
        self.interval = interval
        self.steps: list[int] = []
        self._rows: list[tuple[float, ...]] = []

    def is_due(self, step: int) -> bool:
        """Whether a sample belongs at this optimizer step, and is not there yet."""
        new = not self.steps or step > self.steps[-1]
        return new and step % self.interval == 0

    def steps_to_go(self, step: int) -> int:
        """Optimizer steps from this one to the next at which a sample may be due.

        >>> RunSeries(["net.0"], 50).steps_to_go(120)
        30
        """
        return self.interval - step % self.interval

    def append(self, step: int, variances: Sequence[float]) -> None:
        """Add a sample of every layer; thin out when there are too many."""
        self.steps.append(step)
        self._rows.append(tuple(variances))
        if len(self.steps) > MOST_SAMPLES:
            self.interval *= 2
            kept = [i for i, step in enumerate(self.steps) if step % self.interval == 0]
            self.steps = [self.steps[i] for i in kept]
            self._rows = [self._rows[i] for i in kept]

    def variances(self, layer: str) -> list[float]:
        """V of one layer at each of `steps`."""
        column = self.layers.index(layer)
        return [row[column] for row in self._rows]

    def rows(self) -> list[tuple[int, tuple[float, ...]]]:
        """Every step with the variances of all layers."""
        return list(zip(self.steps, self._rows, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Plain containers for a checkpoint."""
        return {
            "layers": list(self.layers),
            "interval": self.interval,
            "steps": list(self.steps),
            "rows": [list(row) for row in self._rows],
        }

    @classmethod
    def begin(
        cls, layers: Sequence[str], planned_steps: float, saved: Mapping[str, Any] | None = None
    ) -> RunSeries:
        """The series of a resumed run, if it has the same layers; else a new one.

        Args:
            layers: Layer names.
            planned_steps: Optimizer steps of the run, `inf` for one without end.
            saved: `state_dict` of the run that is resumed, or None.
        """
        if saved is not None and list(saved["layers"]) == list(layers):
            return cls.from_state_dict(saved)
        return cls(layers, sampling_interval(planned_steps))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> RunSeries:
        """What `state_dict` gave."""
        series = cls(state["layers"], state["interval"])
        series.steps = list(state["steps"])
        series._rows = [tuple(row) for row in state["rows"]]
        return series


def sampling_interval(planned_steps: float) -> int:
    """Optimizer steps between two samples of a run of so many planned steps.

    >>> sampling_interval(100_000), sampling_interval(400), sampling_interval(20)
    (60, 10, 1)
    """
    return int(max(1.0, min(float(INTERVAL), planned_steps // FEWEST_SAMPLES)))
