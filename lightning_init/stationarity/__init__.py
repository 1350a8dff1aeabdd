"""Is a layer's variance stationary? Pure statistics of a series of numbers."""

from lightning_init.stationarity.decision import Decision, Verdict
from lightning_init.stationarity.detection import detect
from lightning_init.stationarity.forgetting import (
    Forgetting,
    ForgettingVerdict,
    ProbeEnd,
    compare_starts,
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
    "Decision",
    "DetectorSettings",
    "DetectorState",
    "Forgetting",
    "ForgettingVerdict",
    "ProbeEnd",
    "Verdict",
    "compare_starts",
    "decide",
    "detect",
    "glance",
    "reset",
    "start",
    "update",
]
