"""What does a probe cost where nothing is gained? The cost tables of docs/probe_measured.md.

    python examples/study/probe_costs.py --results costs.jsonl --seeds 20

The 18 cells of the study whose probes are charged for (protocols a, d and e, size `published`),
with `OptimalVarianceInit()` at its defaults after He, and with `on_unsettled="project"`. A tenth of
the published 200 to 400 steps is too short for any verdict, so that no probe is made and nothing is
charged; every run is lengthened by whole epochs to at least `--steps` optimizer steps. Charged: the
training loss when the probe's steps are left to go, minus the loss at the end of the same run from
He. Where nothing was redrawn both lie on one training, because the restart is exact and the
learning rate constant; so one run from He serves both settings. Runs go through a plain loop, which
gives the Trainer's weights bit for bit; it shuffles once more than the probe did. Rows are appended
to `--results`; an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from study_cells import Cell, cells, read_protocol
from study_data import StudyData

from lightning_init import FractionalMomentInit, OptimalVarianceInit
from lightning_init.compare.statistics import mean_interval

PROTOCOLS = ("a", "d", "e")
SETTINGS = ("keep", "project")


class PlainLoop(Callback):
    """Trains in place of the Trainer; the training loss, in evaluation mode, on the way.

    Args:
        left: Steps before the end at which the loss is wanted; none are trained past the last.
        probe: Whose own steps are left to go then, in place of `left`, if it redrew a layer.
    """

    def __init__(self, left: Iterable[int] = (), probe: OptimalVarianceInit | None = None) -> None:
        self.wanted, self.probe, self.found = set(left), probe, dict[int, float]()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.probe is not None and redrawn(self.probe):
            self.wanted = {self.probe.report.total_steps}
        optimizer, loader = trainer.optimizers[0], trainer.train_dataloader
        left = trainer.max_epochs * len(loader)
        pl_module.train()
        for _ in range(trainer.max_epochs if self.wanted else 0):
            for index, batch in enumerate(loader):
                loss = pl_module.training_step(batch, index)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                left -= 1
                if left in self.wanted:
                    self.found[left] = training_loss(pl_module, trainer.datamodule)
        trainer.should_stop = True


def redrawn(probe: OptimalVarianceInit) -> int:
    assert probe.report is not None
    return sum(row.action == "redrawn" for row in probe.report.layers)


@torch.no_grad()
def training_loss(module: LightningModule, data: StudyData) -> float:
    module.eval()
    with torch.random.fork_rng():  # a loader draws a number whenever it begins
        losses = [
            torch.nn.functional.cross_entropy(module(x).flatten(0, -2), y.flatten()).item()
            for x, y in data.test_dataloader()[0]
        ]
    module.train()
    return statistics.fmean(losses)


def train(cell: Cell, steps: int, seed: int, *callbacks: Callback) -> None:
    seed_everything(seed, verbose=False)
    trainer = Trainer(
        max_epochs=math.ceil(steps * cell.trainer["max_epochs"] / cell.steps),
        callbacks=[FractionalMomentInit(order=2.0, verbose=False), *callbacks],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(cell.make_model()(), datamodule=cell.make_data()())


def measure(
    cell: Cell,
    steps: int,
    seed: int,
    losses_from_he: Callable[[Cell, int, int, set[int]], dict[int, float]],
    settings: Iterable[str] = SETTINGS,
) -> list[dict[str, Any]]:
    """One row per setting of `on_unsettled`."""
    rows, charged = [], []
    for setting in settings:
        probe = OptimalVarianceInit(on_unsettled=setting, verbose=False, watch=False, seed=seed)
        loop = PlainLoop(probe=probe)
        train(cell, steps, seed, probe, loop)
        report = probe.report
        assert report is not None
        charged.append(loop.found.get(report.total_steps))
        rows.append(
            {
                "cell": cell.name,
                "seed": seed,
                "setting": setting,
                "planned": round(report.planned_steps),
                "probe": report.total_steps,
                "redrawn": redrawn(probe),
                "layers": len(report.layers),
                "reason": report.divergence or report.stop_reason,
            }
        )
    from_he = losses_from_he(cell, steps, seed, {0, *(row["probe"] for row in rows)})
    for row, found in zip(rows, charged, strict=True):
        row["loss"] = from_he[0]
        row["charged"] = (from_he[row["probe"]] if found is None else found) - from_he[0]
    return rows


def in_one_run(cell: Cell, steps: int, seed: int, left: set[int]) -> dict[int, float]:
    loop = PlainLoop(left)
    train(cell, steps, seed, loop)
    return loop.found


def summary(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| cell | planned steps | runs | `on_unsettled` | redrawn layers | median probe | He's loss"
        " | charged |",
        "|---|---|---|---|---|---|---|---|",
    ]
    medians: dict[str, list[float]] = {row["setting"]: [] for row in rows}
    groups = itertools.groupby(
        sorted(rows, key=lambda row: (row["cell"], row["setting"])),
        lambda row: (row["cell"], row["setting"]),
    )
    for (name, setting), group in groups:
        found = list(group)
        medians[setting].append(statistics.median(row["probe"] / row["planned"] for row in found))
        charged = mean_interval(np.array([row["charged"] for row in found]))
        loss = statistics.fmean(row["loss"] for row in found)
        drawn, layers = (sum(row[key] for row in found) for key in ("redrawn", "layers"))
        lines.append(
            f"| {name} | {found[0]['planned']} | {len(found)} | {setting} | {drawn} of {layers}"
            f" | {medians[setting][-1]:.1%} | {loss:.3f} | {charged.mean:+.4f}"
            f" [{charged.lower:+.4f}, {charged.upper:+.4f}] |"
        )
    said = [
        f"{setting}: median over {len(of)} cells {statistics.median(of):.1%} of the run"
        for setting, of in medians.items()
    ]
    return "\n".join([*lines, "", "; ".join(said)])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("costs.jsonl"))
    parser.add_argument("--steps", type=int, default=775, help="least length of a run")
    parser.add_argument("--settings", nargs="+", default=SETTINGS)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default="", help="cells whose name contains this text")
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
        steps = max(options.steps, cell.steps)
        new = measure(cell, steps, seed, in_one_run, options.settings)
        rows += new
        with options.results.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
    print(summary(rows))


if __name__ == "__main__":
    main()
