"""What does a probe cost where nothing is gained? The cost table of docs/optimal_variance.md.

    python examples/study/probe_costs.py --results costs.jsonl --steps 1000 --seeds 3 --probes-only
    python examples/study/probe_costs.py --results charged.jsonl --steps 1000 --seeds 20

The 18 cells of the study whose probes are charged for (protocols a, d and e, size `published`),
with `OptimalVarianceInit()` at its defaults after He. Every run is lengthened by whole epochs to at
least `--steps` optimizer steps: a tenth of the published 200 to 400 is too short for any verdict,
and the probe ends at once. Charged: the training loss when the probe's steps are left
to go, minus the loss at the end of the same run from He. Where nothing was redrawn both lie on one
training, because the restart is exact. Rows are appended to `--results`; an interrupted study goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from study_cells import Cell, cells, read_protocol
from verdicts import StopBeforeTraining

from lightning_init import FractionalMomentInit, OptimalVarianceInit
from lightning_init.compare.statistics import mean_interval

PROTOCOLS = ("a", "d", "e")


class Losses(Callback):
    """The training loss, in evaluation mode, so many steps before the end, and at the end."""

    def __init__(self, probe: OptimalVarianceInit | None = None) -> None:
        self.probe, self.found = probe, dict[int, float]()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        report = self.probe and self.probe.report
        left = int(trainer.estimated_stepping_batches) - trainer.global_step
        if left not in (0, report.total_steps if report else 0) or left in self.found:
            return
        pl_module.eval()
        with torch.no_grad(), torch.random.fork_rng():
            losses = [
                torch.nn.functional.cross_entropy(
                    pl_module(batch[0]).flatten(0, -2), batch[1].flatten()
                ).item()
                for batch in trainer.datamodule.test_dataloader()[0]
            ]
        pl_module.train()
        self.found[left] = statistics.fmean(losses)


def train(cell: Cell, steps: int, seed: int, *callbacks: Callback) -> None:
    seed_everything(seed, verbose=False)
    model, data = cell.make_model()(), cell.make_data()()
    epochs = cell.trainer["max_epochs"]
    trainer = Trainer(
        max_epochs=math.ceil(steps * epochs / cell.steps),
        callbacks=[FractionalMomentInit(order=2.0, verbose=False), *callbacks],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, datamodule=data)


def measure(cell: Cell, steps: int, seed: int, probes_only: bool) -> dict[str, Any]:
    probe = OptimalVarianceInit(verbose=False, watch=False, seed=seed)
    losses = Losses(probe)
    train(cell, steps, seed, probe, StopBeforeTraining() if probes_only else losses)
    report = probe.report
    assert report is not None
    redrawn = sum(row.action == "redrawn" for row in report.layers)
    row = {
        "cell": cell.name,
        "seed": seed,
        "planned": round(report.planned_steps),
        "probe": report.total_steps,
        "redrawn": redrawn,
        "layers": len(report.layers),
        "reason": report.divergence or report.stop_reason,
    }
    if not probes_only:
        plain = Losses()
        if redrawn:
            train(cell, steps, seed, plain)
        end = plain.found[0] if redrawn else losses.found[0]
        row |= {"loss": end, "charged": losses.found[report.total_steps] - end}
    return row


def summary(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| cell | planned steps | runs | redrawn layers | median probe | He's loss | charged |",
        "|---|---|---|---|---|---|---|",
    ]
    medians = []
    for name, found in itertools.groupby(
        sorted(rows, key=lambda r: r["cell"]), lambda r: r["cell"]
    ):
        of_cell = list(found)
        shares = [row["probe"] / row["planned"] for row in of_cell]
        medians.append(statistics.median(shares))
        charged = "-"
        if len(of_cell) > 1 and "charged" in of_cell[0]:
            found = mean_interval(np.array([row["charged"] for row in of_cell]))
            charged = f"{found.mean:+.4f} [{found.lower:+.4f}, {found.upper:+.4f}]"
        loss = statistics.fmean(row.get("loss", math.nan) for row in of_cell)
        redrawn, layers = (sum(row[key] for row in of_cell) for key in ("redrawn", "layers"))
        lines.append(
            f"| {name} | {of_cell[0]['planned']} | {len(of_cell)} | {redrawn} of {layers}"
            f" | {medians[-1]:.1%} | {loss:.3f} | {charged} |"
        )
    over = statistics.median(medians)
    return "\n".join([*lines, "", f"Median over {len(medians)} cells: {over:.1%} of the run."])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("costs.jsonl"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="cells whose name contains this text")
    parser.add_argument("--probes-only", action="store_true")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["cell"], row["seed"]) for row in rows}
    chosen = [cell for one in PROTOCOLS for cell in cells(read_protocol(one), "published")]
    for seed, cell in itertools.product(range(options.seeds), chosen):
        if (cell.name, seed) in done or options.only not in cell.name:
            continue
        rows.append(measure(cell, options.steps, seed, options.probes_only))
        with options.results.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    print(summary(rows))


if __name__ == "__main__":
    main()
