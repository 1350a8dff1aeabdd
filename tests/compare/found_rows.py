"""One line of a comparison's table, by its names."""

from __future__ import annotations

from typing import Any

from lightning_init.compare import ComparisonReport


def rows_of(report: ComparisonReport) -> list[Any]:
    return list(report.table.itertuples(index=False))


def find(
    report: ComparisonReport,
    metric: str,
    first: str,
    second: str,
    quantity: str = "final",
    budget: str = "equal",
) -> Any:
    (row,) = [
        row
        for row in rows_of(report)
        if (row.metric, row.quantity, row.first, row.second) == (metric, quantity, first, second)
        and row.budget in (budget, "both")
    ]
    return row
