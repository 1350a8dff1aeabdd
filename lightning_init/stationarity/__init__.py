"""Is a layer's variance stationary? Pure statistics of a series of numbers."""

from lightning_init.stationarity.settings import DetectorSettings
from lightning_init.stationarity.verdict import (
    Decision,
    DetectorState,
    Verdict,
    decide,
    detect,
    reset,
    start,
    update,
)

__all__ = [
    "Decision",
    "DetectorSettings",
    "DetectorState",
    "Verdict",
    "decide",
    "detect",
    "reset",
    "start",
    "update",
]
