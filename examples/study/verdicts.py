"""Are the verdicts of `OptimalVarianceInit` true on real training? The table of the docs.

    python examples/study/verdicts.py --results verdicts.jsonl --output table.md

For each case a probe of at most a third of the run (`--probe-share`) judges every layer, with
`forgetting=True`. Then the same training, from the same first weights and without a redraw, goes on
to the end of the horizon, and V there is set beside what the probe said. Nothing is tuned per case.
Rows are appended to `--results` (JSON lines); an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from verdict_cases import Case, Classifier, all_cases, dataset
from verdict_tables import study_page

from lightning_init import OptimalVarianceInit
from lightning_init.inspection.weights import effective_weight, find_weights

BATCH_SIZE = 64


class StopBeforeTraining(Callback):
    """Ends a run that was needed for its probe only."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def shuffled(data: TensorDataset) -> DataLoader:
    batches = BatchSampler(RandomSampler(data), BATCH_SIZE, drop_last=True)
    return DataLoader(data, sampler=batches, batch_size=None)


def train(case: Case, data: TensorDataset, *callbacks: Callback) -> Classifier:
    seed_everything(case.seed, verbose=False)
    model = Classifier(case, data.tensors[0].shape[1])
    trainer = Trainer(
        max_epochs=case.epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, shuffled(data))
    return model


def judge(case: Case, data: TensorDataset, probe_share: float) -> list[dict[str, Any]]:
    """One row per layer: what the probe said, and V at the end of the horizon."""
    started = time.process_time()
    budget = round(probe_share * case.epochs * (len(data) // BATCH_SIZE))
    # "use", so that no probe ends because a layer will not settle.
    callback = OptimalVarianceInit(budget, on_unsettled="use", forgetting=True, verbose=False)
    train(case, data, callback, StopBeforeTraining())
    final = train(case, data)
    variances = {
        weight.name: effective_weight(final, weight).double().var(correction=0).item()
        for weight in find_weights(final).weights
    }
    report = callback.report.to_dict()
    common = {
        "case": case.name,
        "seed": case.seed,
        "probe_share": probe_share,
        "horizon": report["horizon_steps"],
        "probe_steps": report["probe_steps"],
        "seconds": round(time.process_time() - started, 1),
    }
    return [{**row, **common, "final": variances[row["name"]]} for row in report["layers"]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("verdicts.jsonl"))
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--probe-share", type=float, default=1 / 3)
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    if options.results.exists():
        rows = [json.loads(line) for line in options.results.read_text().splitlines()]
    done = {(row["case"], row["seed"]) for row in rows}
    sets: dict[str, TensorDataset] = {}
    for case in all_cases(options.seeds):
        if (case.name, case.seed) in done or options.only not in case.name:
            continue
        if case.data not in sets:
            sets[case.data] = dataset(case.data, options.data_dir)
        new = judge(case, sets[case.data], options.probe_share)
        rows += new
        with options.results.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        print(f"{case.name}, seed {case.seed}: {new[0]['seconds']} s", flush=True)
    if options.output is not None:
        options.output.write_text(study_page(rows))


if __name__ == "__main__":
    main()
