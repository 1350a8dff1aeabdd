"""Scores a probe from what its run left on disk, without any of the package's code.

    python tests/search/rescore.py RUN

reads `run_variance.csv` and what a checkpoint from before the first step says of the probe, and
prints the sentence that the run should have ended with.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch


class Scored(NamedTuple):
    """One layer: what was said of it, and whether that held; None where nothing was said."""

    verdict: str
    moved: float
    verdict_held: bool | None
    projection_held: bool | None


def rescore(run: Path) -> dict[str, Scored]:
    """Every layer of the run in `run`, by name."""
    with (run / "run_variance.csv").open() as file:
        rows = list(csv.DictReader(file))
    ends = {name: float(value) for name, value in rows[-1].items() if name != "step"}
    states = torch.load(run / "start.ckpt", weights_only=True)["callbacks"]
    (state,) = [value for name, value in states.items() if name.startswith("OptimalVarianceInit")]
    said = state["report"] or {"layers": [], "settings": {"tolerance": math.nan}}
    tolerance = said["settings"]["tolerance"]
    return {one["name"]: _scored(one, ends[one["name"]], tolerance) for one in said["layers"]}


def _scored(layer: dict[str, Any], end: float, tolerance: float) -> Scored:
    said, verdict = layer["variance"], layer["verdict"]
    moved = math.log(end / said) if said else math.nan
    held: bool | None = None
    if verdict == "stationary" and math.isfinite(moved):
        held = abs(moved) <= 1.2 * tolerance
    if verdict == "drifting" and math.isfinite(moved):
        held = abs(moved) >= 0.8 * tolerance
    lower, upper = layer["projected_lower"], layer["projected_upper"]
    known = lower is not None and upper is not None
    return Scored(verdict, moved, held, lower <= end <= upper if known else None)


def sentence(layers: dict[str, Scored]) -> str:
    """The counts in words; empty where nothing was said of any layer."""
    parts = []
    for verdict, did in (("stationary", "stayed"), ("drifting", "moved on")):
        held = [one.verdict_held for one in layers.values() if one.verdict == verdict]
        told = [one for one in held if one is not None]
        if told:
            parts.append(f"{sum(told)} of {len(told)} `{verdict}` layers {did}")
    inside = [one.projection_held for one in layers.values() if one.projection_held is not None]
    if inside:
        parts.append(f"the projection's interval held {sum(inside)} of {len(inside)}")
    return f"The probe in hindsight: {', '.join(parts)}." if parts else ""


if __name__ == "__main__":
    print(sentence(rescore(Path(sys.argv[1]))))
