"""Summary and table of the verdict study, as Markdown."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]
HEADERS = (
    "training",
    "layer",
    "verdict",
    "V",
    "V/V before",
    "V at the end",
    "moved",
    "projection, 90 %",
    "of start left",
    "settled at",
    "probe / horizon",
)


def study_page(rows: list[Row]) -> str:
    """The summary over all rows, then one line per layer of the first seed."""
    seed = min(row["seed"] for row in rows)
    first = [row for row in rows if row["seed"] == seed]
    named = [
        ("" if before is not None and before["case"] == row["case"] else row["case"], *cells(row))
        for before, row in zip([None, *first], first, strict=False)
    ]
    parts = ["## Over all layers", summary(rows), f"## Layer by layer, seed {seed}"]
    return "\n\n".join([*parts, table(HEADERS, named)]) + "\n"


def moved(row: Row) -> float:
    """Relative distance of V at the end of the horizon from the reported V."""
    return abs(row["final"] / row["variance"] - 1)


def held(row: Row) -> bool:
    """Whether V at the end of the horizon lay in the projection's interval."""
    return bool(row["projected_lower"] <= row["final"] <= row["projected_upper"])


def share(flags: Iterable[bool]) -> str:
    """A share with its count: "12 of 15 (80 %)"."""
    found = list(flags)
    percent = f" ({sum(found) / len(found):.0%})" if found else ""
    return f"{sum(found)} of {len(found)}{percent}"


def summary(rows: list[Row]) -> str:
    """Every claim about the verdicts as one line of a table."""
    by_verdict = {
        verdict: [row for row in rows if row["verdict"] == verdict]
        for verdict in ("stationary", "drifting", "inconclusive")
    }
    projected = [row for row in rows if not math.isnan(_float(row["projected_lower"]))]
    widths = [row["projected_upper"] / row["projected_lower"] for row in projected]
    runs = {(r["case"], r["seed"]): r["probe_steps"] / r["horizon"] for r in rows}
    fired = [r["fired_at_step"] / r["horizon"] for r in rows if r["fired_at_step"] is not None]
    lines = [
        ("trainings, layers", f"{len(runs)}, {len(rows)}"),
        (
            "`stationary` layers that moved by at most 12 %",
            share(moved(row) <= 0.12 for row in by_verdict["stationary"]),
        ),
        (
            "`drifting` layers that moved by more than 8 %",
            share(moved(row) > 0.08 for row in by_verdict["drifting"]),
        ),
        (
            "`inconclusive` layers that moved by more than 8 %",
            share(moved(row) > 0.08 for row in by_verdict["inconclusive"]),
        ),
        ("V at the end inside the projection's 90 % interval", share(map(held, projected))),
        ("median factor between the interval's ends", number(median(widths))),
        (
            'intervals of a factor below 1.25, which `on_unsettled="project"` uses',
            share(width < 1.25 for width in widths),
        ),
        (
            "median distance of V at the end from the projection's middle",
            percent([abs(row["final"] / row["projected"] - 1) for row in projected]),
        ),
        ("the same from the reported V", percent([moved(row) for row in projected])),
        ("median probe length, share of the horizon", percent(list(runs.values()))),
        ("median step at which a layer settled, share of the horizon", percent(fired)),
        *[
            (f"layers that are `{word}`", share(row["forgetting"] == word for row in rows))
            for word in ("forgotten", "remembers", "inconclusive")
        ],
    ]
    return table(("quantity", "measured"), lines)


def median(values: list[float]) -> float:
    return statistics.median(values) if values else math.nan


def percent(values: list[float]) -> str:
    return f"{median(values):.0%}" if values else "none"


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def cells(row: Row) -> tuple[str, ...]:
    return (
        row["name"],
        row["verdict"],
        number(row["variance"]),
        number(row["ratio"]),
        number(row["final"]),
        f"{row['final'] / row['variance'] - 1:+.0%}",
        f"{number(row['projected'])} [{number(row['projected_lower'])},"
        f" {number(row['projected_upper'])}]" + ("" if held(row) else " missed"),
        f"{number(row['surviving_share'])} {row['forgetting']}",
        "-" if row["fired_at_step"] is None else str(row["fired_at_step"]),
        f"{row['probe_steps']} / {row['horizon']}",
    )


def number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3g}"


def table(headers: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [headers, ("---",) * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
