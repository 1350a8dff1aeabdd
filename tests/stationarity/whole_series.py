"""The detector run over a whole series, as a probe that stops when it fires would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_init.stationarity import Decision, DetectorSettings, decide, start, update


def detect(
    series: Sequence[float] | NDArray[Any], horizon: float | None = None, **settings: Any
) -> Decision:
    """The decision where the series fired, with the drift at its end; else that at its end.

    `drift_index`, `lower`, `upper` and `samples` always describe the whole series, so one that
    moves again after it fired shows `lower` above the tolerance.
    """
    values = np.asarray(series, dtype=np.float64).tolist()
    length = max(1, len(values))
    planned = length if horizon is None else horizon
    state = start(DetectorSettings(**settings), planned, min(length, planned))
    fired = None
    for value in values:
        state = update(state, value)
        if fired is None and state.fired_at is not None:
            fired = decide(state)
    final = decide(state)
    if fired is None or state.broken:
        return final
    drift = {name: getattr(final, name) for name in ("drift_index", "lower", "upper", "samples")}
    return replace(fired, **drift)
