"""A report whose history was made by the detector itself, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from lightning_init.monitoring.run_series import VarianceHistory
from lightning_init.reporting.report import InitReport
from lightning_init.stationarity import Decision, DetectorSettings, decide, reset, start, update

INTERVAL = 5
HORIZON_STEPS = 4000
SETTINGS = DetectorSettings(tolerance=0.2)


def series(
    seed: int, samples: int = 200, relaxation: float = 30.0, noise: float = 0.01
) -> list[float]:
    """V that relaxes from 0.02 to 0.03, with independent relative noise."""
    rng = np.random.default_rng(seed)
    level = 0.03 - 0.01 * np.exp(-np.arange(1, samples + 1) / relaxation)
    return list(level * np.exp(noise * rng.standard_normal(samples)))


def followed(
    values: Sequence[float], reset_at: int | None = None
) -> tuple[list[float], dict[int, Decision]]:
    """The drift index that stands at each sample, and the decision of each check by its step."""
    state = start(SETTINGS, HORIZON_STEPS / INTERVAL, len(values))
    drifts, checks = [math.nan], {}
    for i, value in enumerate(values):
        if i == reset_at:
            state = reset(state)
        before, state = state, update(state, value)
        drift = drifts[-1]
        if state.next_check != before.next_check and not state.broken:
            checks[(i + 1) * INTERVAL] = decide(state)
            drift = checks[(i + 1) * INTERVAL].drift_index
        drifts.append(drift)
    return drifts, checks


def report_of(
    report: InitReport, values: Mapping[str, Sequence[float]], reset_at: int | None = None
) -> InitReport:
    """`report` with a history in which every layer starts at 0.02."""
    samples = len(next(iter(values.values())))
    history = VarianceHistory(
        steps=tuple(range(0, samples * INTERVAL + 1, INTERVAL)),
        layers=tuple(values),
        variances=tuple((0.02, *v) for v in values.values()),
        drifts=tuple(tuple(followed(v, reset_at)[0]) for v in values.values()),
    )
    settings = (("tolerance", SETTINGS.tolerance), ("seed", None))
    return replace(
        report,
        history=history,
        settings=settings,
        probe_steps=samples * INTERVAL,
        horizon_steps=HORIZON_STEPS,
        sample_interval=INTERVAL,
    )
