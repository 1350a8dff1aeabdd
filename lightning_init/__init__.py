"""Principled scales for a network's first weights, as PyTorch Lightning callbacks."""

from __future__ import annotations

from lightning_init.callbacks.fractional_moment import FractionalMomentInit
from lightning_init.callbacks.optimal_variance import OptimalVarianceInit
from lightning_init.functional import (
    fractional_moment_init_,
    fractional_moment_normal_,
    fractional_moment_std,
    log_norm_law,
)
from lightning_init.initialization.plan import InitPlan
from lightning_init.recipes.recipe import InitRecipe
from lightning_init.reporting.records import LayerReport
from lightning_init.reporting.report import InitReport
from lightning_init.stationarity.decision import Verdict

__version__ = "0.1.0"

__all__ = [
    "FractionalMomentInit",
    "InitPlan",
    "InitRecipe",
    "InitReport",
    "LayerReport",
    "OptimalVarianceInit",
    "Verdict",
    "fractional_moment_init_",
    "fractional_moment_normal_",
    "fractional_moment_std",
    "log_norm_law",
]
