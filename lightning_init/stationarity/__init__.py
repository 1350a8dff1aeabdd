"""Is a layer's variance stationary? Pure statistics of a series of numbers."""

from lightning_init.stationarity.decision import Decision, Verdict
from lightning_init.stationarity.detection import detect
from lightning_init.stationarity.divergence import (
    LARGEST_FACTOR,
    LARGEST_WEIGHT,
    loss_ends,
    loss_rose,
)
from lightning_init.stationarity.forgetting import (
    Forgetting,
    ForgettingVerdict,
    ProbeEnd,
    compare_starts,
)
from lightning_init.stationarity.futility import (
    Ending,
    ending,
    fewest_samples,
    is_too_short,
    looked_at,
)
from lightning_init.stationarity.settings import DetectorSettings
from lightning_init.stationarity.verdict import (
    DetectorState,
    decide,
    glance,
    reset,
    start,
    update,
)

__all__ = [
    "LARGEST_FACTOR",
    "LARGEST_WEIGHT",
    "Decision",
    "DetectorSettings",
    "DetectorState",
    "Ending",
    "Forgetting",
    "ForgettingVerdict",
    "ProbeEnd",
    "Verdict",
    "compare_starts",
    "decide",
    "detect",
    "ending",
    "fewest_samples",
    "is_too_short",
    "glance",
    "looked_at",
    "loss_ends",
    "loss_rose",
    "reset",
    "start",
    "update",
]
