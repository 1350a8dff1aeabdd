"""Paired comparison of initializations over seeds; uses the public names of the package alone."""

from __future__ import annotations

from lightning_init.compare.comparison import Comparison, compare
from lightning_init.compare.records import RunRecord
from lightning_init.compare.report import ComparisonReport, summarize
from lightning_init.compare.schemes import Scheme

__all__ = [
    "Comparison",
    "ComparisonReport",
    "RunRecord",
    "Scheme",
    "compare",
    "summarize",
]
