"""Principled scales for a network's first weights, as PyTorch Lightning callbacks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

__version__ = "0.2.0"

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
# Imported when they are first named: who draws in closed form does not wait for the probe.
_HOMES = {
    "FractionalMomentInit": "callbacks.fractional_moment",
    "InitPlan": "initialization.plan",
    "InitRecipe": "recipes.recipe",
    "InitReport": "reporting.report",
    "LayerReport": "reporting.records",
    "OptimalVarianceInit": "callbacks.optimal_variance",
    "Verdict": "stationarity.decision",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'functional')}")
    # Kept, so that it is looked up once.
    globals()[name] = getattr(home, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
