"""What one run of a comparison left: everything that the report is made from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

FULL = "full"
EQUAL = "equal"
FINISHED = "finished"
DIVERGED = "diverged"
FAILED = "failed"
STATUSES = (FINISHED, DIVERGED, FAILED)


@dataclass(frozen=True)
class RunRecord:
    """One training from one initialization with one seed.

    Attributes:
        scheme: The initialization, as the user named it.
        seed: Of the data order, the dropout masks and the standard normal draws.
        budget: `full`: every planned optimizer step is one of the real run. `equal`: the steps of
            the probe are charged, so the real run is that much shorter. A scheme without a probe
            has `full` records alone, which count under both.
        status: `finished`, `diverged` (a metric that is not finite) or `failed` (an exception).
        reason: One line on a run that did not finish, else empty.
        steps: Optimizer steps of the real run.
        probe_steps: Optimizer steps spent before it.
        seconds: Wall time, the probe's included.
        probe_seconds: Wall time of the probe.
        curve: Pairs of an optimizer step and the metrics logged by then, in order.
        final: The last value of every logged metric, and what `Trainer.test` logged.
        pilot_steps: Optimizer steps of the earlier run that all seeds of the scheme start from.
    """

    scheme: str
    seed: int
    budget: str
    status: str
    reason: str
    steps: int = 0
    probe_steps: int = 0
    seconds: float = 0.0
    probe_seconds: float = 0.0
    curve: tuple[tuple[int, dict[str, float]], ...] = ()
    final: dict[str, float] = field(default_factory=dict)
    pilot_steps: int = 0

    def curve_of(self, metric: str) -> list[tuple[int, float]]:
        """Steps and values of one metric."""
        return [(step, logged[metric]) for step, logged in self.curve if metric in logged]

    def to_json(self) -> str:
        """Return one line of JSON; values that are not finite are `NaN` and `Infinity`."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is not such a record.
        """
        try:
            content: dict[str, Any] = json.loads(text)
            curve = tuple((int(step), dict(metrics)) for step, metrics in content.pop("curve"))
            return cls(curve=curve, **content)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"This is not the record of a run: {error}.") from error
