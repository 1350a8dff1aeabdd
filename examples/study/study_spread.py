"""Runs of seeds outside those published, held against the published spread.

    python examples/study/run.py --protocol h --size published --out again --seeds 20-21
    python examples/study/study_spread.py --published results --again again

Counts, for every scheme and metric, the new runs that lie between the smallest and the largest
published one, and likewise the differences to the reference of the same seed. Of values that come
from one distribution, (n - 1) / (n + 1) do so by chance where n are published.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from publish import read_runs
from study_cells import PROTOCOLS, cells, read_protocol
from study_tables import table_row

from lightning_init.compare import RunRecord

Values = dict[tuple[str, str, str], dict[int, float]]  # scheme, budget, metric; then seed


def values_of(records: Sequence[RunRecord], metrics: Mapping[str, str]) -> Values:
    found: Values = {}
    for record in records:
        for metric in metrics:
            seeds = found.setdefault((record.scheme, record.budget, metric), {})
            seeds[record.seed] = record.final[metric]
    return found


def differences(values: Values, reference: str) -> Values:
    """To the reference of the same seed."""
    return {
        (scheme, budget, metric): {
            seed: value - values[reference, "full", metric][seed] for seed, value in seeds.items()
        }
        for (scheme, budget, metric), seeds in values.items()
        if scheme != reference
    }


def inside(published: Values, again: Values) -> tuple[int, int, float]:
    """How many lie inside, of how many, and how many of them would by chance.

    >>> published = {("he", "full", "loss"): {0: 1.0, 1: 2.0, 2: 3.0}}
    >>> inside(published, {("he", "full", "loss"): {20: 1.5, 21: 3.5}})
    (1, 2, 1.0)
    """
    within, count, expected = 0, 0, 0.0
    for key, seeds in again.items():
        known = published[key].values()
        within += sum(min(known) <= value <= max(known) for value in seeds.values())
        count += len(seeds)
        expected += len(seeds) * (len(known) - 1) / (len(known) + 1)
    return within, count, expected


def spread_table(published: Path, again: Path) -> list[str]:
    """One row per cell of which there are new runs."""
    heads = ["cell", "seeds", "runs inside", "by chance", "differences inside", "by chance"]
    lines = [table_row(heads), "|" + " --- |" * len(heads)]
    for name in sorted(path.stem for path in PROTOCOLS.glob("*.yaml")):
        protocol = read_protocol(name)
        for cell in cells(protocol, "published"):
            old, new = (read_runs(folder / name / cell.name) for folder in (published, again))
            if not new:
                continue
            values = [values_of(records, protocol["metrics"]) for records in (old, new)]
            pairs = [differences(one, cell.reference) for one in values]
            seeds = ", ".join(map(str, sorted({record.seed for record in new})))
            row = [f"{name}: {cell.name}", seeds]
            for within, count, expected in (inside(*values), inside(*pairs)):
                row += [f"{within} of {count}", f"{expected:.0f}"]
            lines.append(table_row(row))
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--published", type=Path, required=True)
    parser.add_argument("--again", type=Path, required=True)
    options = parser.parse_args()
    print("\n".join(spread_table(options.published, options.again)))
