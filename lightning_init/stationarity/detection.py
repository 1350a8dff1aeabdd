"""The detector run over a whole series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lightning_init.stationarity.decision import Decision
from lightning_init.stationarity.drift import FloatArray
from lightning_init.stationarity.settings import DetectorSettings, Rule
from lightning_init.stationarity.verdict import decide, start, update


def detect(
    series: Sequence[float] | FloatArray,
    horizon: float | None = None,
    tolerance: float = 0.10,
    confidence: float = 0.95,
    persistence: int = 4,
    rule: Rule = "steady-end",
) -> Decision:
    """Run the detector over a whole series, as a probe that stops when it fires would.

    Args:
        series: Variances in the order in which they were measured, shape (samples,).
        horizon: Samples over which V must stay put; None for the length of the series.
        tolerance: Largest relative change of V over the horizon that counts as none.
        confidence: One-sided confidence level of the drift index's limits.
        persistence: Consecutive checks that must pass.
        rule: See `DetectorSettings`.

    Returns:
        Where the series fired, the decision of that moment: verdict, estimate and projection; else
        the decision at the end of the series. `drift_index`, `lower`, `upper` and `samples` always
        describe the whole series, so a series that moves again after it fired shows
        `lower` above the tolerance. Series that are empty, too short, or hold values that are not
        finite and positive give `inconclusive` and `invalid`; they do not raise.

    Raises:
        ValueError: If `series` is not one-dimensional or an argument is outside its range.

    Example:
        >>> relaxing = [1 + 2.0 ** (-step / 20) for step in range(400)]
        >>> decision = detect(relaxing)
        >>> decision.verdict.value, decision.fired_at, round(decision.estimate, 3)
        ('stationary', 244, 1.0)
        >>> slow_growth = [1.0002**step for step in range(400)]
        >>> detect(slow_growth).verdict.value, detect(slow_growth, horizon=4000).verdict.value
        ('stationary', 'drifting')
    """
    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(
            f"`series` must be one-dimensional, got shape {values.shape}; call once per layer."
        )
    settings = DetectorSettings(
        tolerance=tolerance, confidence=confidence, persistence=persistence, rule=rule
    )
    length = max(1, len(values))
    planned = length if horizon is None else horizon
    state = start(settings, planned, min(length, planned))
    fired = None
    for value in values.tolist():
        state = update(state, value)
        if fired is None and state.fired_at is not None:
            fired = decide(state)
    final = decide(state)
    if fired is None or state.broken:
        return final
    return replace(
        fired,
        drift_index=final.drift_index,
        lower=final.lower,
        upper=final.upper,
        samples=final.samples,
    )
