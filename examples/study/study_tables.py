"""Tables of the study beside the comparison reports: the scale scan, and runs that do not train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

RATIO = "variance_ratio_"


def factor_of(scheme: str) -> float | None:
    """Factor c on He's variance, None for a scheme that is not of the scan."""
    if scheme == "he":
        return 1.0
    name, _, options = scheme.partition(":factor=")
    return float(options) if name == "scaled_he" else None


def mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def crossings(factors: Sequence[float], ratios: Sequence[float]) -> list[float]:
    """Factors at which the ratio passes 1, linear in both logarithms between two factors.

    >>> [round(c, 6) for c in crossings([0.1, 1.0, 10.0], [4.0, 2.0, 0.5])]
    [3.162278]
    """
    found = []
    points = [
        (math.log(factor), math.log(ratio))
        for factor, ratio in zip(factors, ratios, strict=True)
        if ratio > 0 and math.isfinite(ratio)
    ]
    for (x, y), (next_x, next_y) in zip(points, points[1:], strict=False):
        if (y > 0) != (next_y > 0):
            found.append(math.exp(x - y * (next_x - x) / (next_y - y)))
    return found


def scan_table(cells: Mapping[str, Sequence[Any]]) -> str:
    """V(W) / sigma0^2 and the results over c; the crossings beside the best factors."""
    return "\n".join(scan_of_cell(name, records) for name, records in cells.items())


def scan_of_cell(name: str, records: Sequence[Any]) -> str:
    by_factor: dict[float, list[Any]] = {}
    for record in records:
        factor = factor_of(record.scheme)
        if factor is not None and record.budget == "full":
            by_factor.setdefault(factor, []).append(record)
    factors = sorted(by_factor)
    layers = sorted({key for r in records for key in r.final if key.startswith(RATIO)})

    def column(metric: str) -> list[float]:
        return [
            mean([r.final.get(metric, math.nan) for r in by_factor[c] if r.status == "finished"])
            for c in factors
        ]

    columns = {layer.removeprefix(RATIO): column(layer) for layer in layers}
    losses, accuracies = column("train_loss"), column("test_accuracy")
    heads = ["c", "finished", *(f"V/sigma0^2 {layer}" for layer in columns)]
    lines = [f"## {name}", "", table_row([*heads, "train loss", "test accuracy"])]
    lines.append("|" + " --- |" * (len(heads) + 2))
    for place, factor in enumerate(factors):
        finished = sum(r.status == "finished" for r in by_factor[factor])
        numbers = [ratios[place] for ratios in columns.values()]
        lines.append(
            table_row(
                [
                    f"{factor:g}",
                    f"{finished}/{len(by_factor[factor])}",
                    *(f"{number:.3f}" for number in numbers),
                    f"{losses[place]:.4f}",
                    f"{accuracies[place]:.4f}",
                ]
            )
        )
    lines += ["", *crossing_lines(factors, columns), ""]
    for text, values, sign in (("training loss", losses, 1), ("test accuracy", accuracies, -1)):
        known = [
            (sign * value, factor)
            for value, factor in zip(values, factors, strict=True)
            if math.isfinite(value)
        ]
        lines.append(f"- best mean {text} at c = {min(known)[1]:g}" if known else "")
    return "\n".join([*lines, ""])


def crossing_lines(factors: Sequence[float], columns: Mapping[str, Sequence[float]]) -> list[str]:
    lines = []
    for layer, ratios in columns.items():
        found = ", ".join(f"{c:.2f}" for c in crossings(factors, ratios))
        lines.append(f"- {layer}: V(W) / sigma0^2 crosses 1 at c = {found or 'none of the scan'}")
    return lines


def trainable_table(cells: Mapping[str, Sequence[Any]], accuracy: float) -> str:
    """Share of the seeds with which a network fails to train, for each cell and scheme."""
    heads = ["cell", "scheme", "runs", "failed to train", "diverged or stopped"]
    lines = [table_row(heads), "|" + " --- |" * len(heads)]
    for name, records in cells.items():
        schemes = dict.fromkeys(record.scheme for record in records)
        for scheme in schemes:
            runs = [r for r in records if r.scheme == scheme and r.budget == "full"]
            ended = sum(r.status != "finished" for r in runs)
            failed = sum(
                r.status != "finished" or not r.final.get("train_accuracy", 0.0) >= accuracy
                for r in runs
            )
            counts = [str(len(runs)), f"{failed} ({failed / len(runs):.0%})", str(ended)]
            lines.append(table_row([name, scheme, *counts]))
    note = f"A run fails to train if it does not finish, or ends below {accuracy:.0%} accuracy"
    return "\n".join([*lines, "", f"{note} on the training images.", ""])


def table_row(values: Sequence[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"
