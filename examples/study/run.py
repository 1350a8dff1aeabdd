"""The published study: paired comparisons of initializations, one protocol file each.

    python examples/study/run.py --protocol a --size published --out results --jobs 2

A protocol (`protocols/*.yaml`) is a set of cells, each one network, data set and setting; a cell is
one call of `lightning_init.compare.compare`, and its runs and report are in `OUT/a/<cell>`. What is
there is not run again. `--estimate` lists the cells with the time that they take and runs nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from study_cells import PROTOCOLS, Cell, cells, read_protocol
from study_tables import scan_table, trainable_table


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    names = sorted(path.stem for path in PROTOCOLS.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", choices=names, required=True)
    parser.add_argument("--size", choices=["published", "full"], default="published")
    parser.add_argument("--out", type=Path, default=Path("study"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--cells", default="", help="cells whose name contains this text")
    parser.add_argument("--seeds", type=seed_numbers, help="how many, or FIRST-LAST")
    parser.add_argument("--estimate", action="store_true")
    return parser.parse_args(argv)


def seed_numbers(text: str) -> range:
    """Seeds from 0, or those of a range.

    >>> seed_numbers("3"), seed_numbers("20-21")
    (range(0, 3), range(20, 22))
    """
    first, dash, last = text.partition("-")
    return range(int(first), int(last) + 1) if dash else range(int(first))


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    protocol = read_protocol(options.protocol)
    chosen = [cell for cell in cells(protocol, options.size) if options.cells in cell.name]
    print_estimate(chosen, options.jobs)
    if options.estimate:
        return
    for cell in chosen:
        cell.make_data()().setup()  # What is missing says so before anything is run.
    warnings.filterwarnings("ignore")
    records = {}
    for number, cell in enumerate(chosen, 1):
        print(f"[{number}/{len(chosen)}] {cell.name}", flush=True)
        records[cell.name] = run_cell(cell, protocol, options)
    for name, text in extra_tables(protocol, records).items():
        (options.out / options.protocol / name).write_text(text)


def print_estimate(chosen: Sequence[Cell], jobs: int) -> None:
    print(f"{'cell':40} {'runs':>5} {'steps':>6} {'minutes':>8}")
    for cell in chosen:
        print(f"{cell.name:40} {cell.runs:5} {cell.steps:6} {cell.seconds / 60 / jobs:8.1f}")
    total = sum(cell.seconds for cell in chosen)
    runs = sum(cell.runs for cell in chosen)
    print(f"{runs} runs, about {total / 60 / jobs:.0f} minutes with {jobs} at a time")


def run_cell(cell: Cell, protocol: dict[str, Any], options: argparse.Namespace) -> Sequence[Any]:
    from study_peers import with_peers, with_transfers

    from lightning_init.compare import compare
    from lightning_init.compare.runs import RunTask
    from lightning_init.compare.schemes import make_scheme

    started = time.monotonic()
    out = options.out / options.protocol / cell.name
    seeds = options.seeds or range(cell.seeds)
    plain = RunTask(
        make_scheme("default"), 0, cell.make_model(), cell.make_data(), dict(cell.trainer)
    )
    inits = with_transfers(with_peers(cell.inits), plain, out / "pilots")
    comparison = compare(
        model=plain.model,
        data=plain.data,
        inits=inits,
        seeds=seeds,
        out=out,
        trainer=plain.trainer,
        metrics=protocol["metrics"],
        reference=cell.reference,
        equal_budget=cell.equal_budget,
        jobs=options.jobs,
    )
    print(f"    {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    return comparison.records


def extra_tables(protocol: dict[str, Any], records: dict[str, Sequence[Any]]) -> dict[str, str]:
    """What a protocol asks for beside the reports of its cells: file names and markdown."""
    tables = {}
    if "scan" in protocol:
        tables["scan.md"] = scan_table(records)
    if "trained_accuracy" in protocol:
        tables["trainable.md"] = trainable_table(records, protocol["trained_accuracy"])
    return tables


if __name__ == "__main__":
    main()
