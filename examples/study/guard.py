"""Does `guard_steps` keep the better start? Paired runs on full Fashion-MNIST.

    python examples/study/guard.py --results guard.jsonl

Two cases, 784-128-128-10, SGD 0.1, batches of 128. `hurts`: He weights, decay 2e-3, 10 epochs,
where the redraw was seen to raise the training loss. `helps`: weights of a hundredth of He's
variance, one epoch. Each seed trains guarded and from its own weights. Where the guard has turned
the redraw down, the guarded run is the original one bit for bit (asserted), and the redraw is
trained without a guard to see what was turned down. Rows are appended to `--results`; an
interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from fashion_mnist import DEBIAN_DIRECTORY, MLP, load, shuffled

from lightning_init import FractionalMomentInit, OptimalVarianceInit

# Share of He's variance, weight decay, epochs.
CASES = {"hurts": (1.0, 2e-3, 10), "helps": (0.01, 2e-3, 1)}
MEASURES = ("train_loss", "test_loss", "test_error")


class QuietMLP(MLP):
    """The example's network without its logging, which costs as much as the training."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])


class SmallStart(Callback):
    """Multiplies the weights, which He has drawn, by a factor."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        with torch.no_grad():
            for module in pl_module.modules():
                if isinstance(module, nn.Linear):
                    module.weight.mul_(self.factor)


def run(case: str, seed: int, train: TensorDataset, *callbacks: Callback) -> MLP:
    variance, decay, epochs = CASES[case]
    seed_everything(seed, verbose=False)
    model = QuietMLP(learning_rate=0.1, weight_decay=decay)
    he = FractionalMomentInit(order=2.0, first_layer="activation", verbose=False)
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[he, SmallStart(math.sqrt(variance)), *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(model, shuffled(train, 128))
    return model


@torch.no_grad()
def measure(model: MLP, train: TensorDataset, test: TensorDataset) -> dict[str, float]:
    """Losses of the trained model over the whole sets, and the share of wrong test labels."""
    logits = [model.net(data.tensors[0]) for data in (train, test)]
    losses = [
        nn.functional.cross_entropy(found, data.tensors[1]).item()
        for found, data in zip(logits, (train, test), strict=True)
    ]
    wrong = logits[1].argmax(1) != test.tensors[1]
    return dict(zip(MEASURES, (*losses, wrong.double().mean().item()), strict=True))


def trial(
    case: str, seed: int, train: TensorDataset, test: TensorDataset, steps: int
) -> dict[str, Any]:
    """What the guard chose, and where both starts end."""
    callback = OptimalVarianceInit(guard_steps=steps, seed=seed, verbose=False)
    guarded = measure(run(case, seed, train, callback), train, test)
    original, redrawn = measure(run(case, seed, train), train, test), guarded
    outcome = callback.report.guard
    if outcome.worse:
        assert guarded == original
        redraw = OptimalVarianceInit(seed=seed, verbose=False)
        redrawn = measure(run(case, seed, train, redraw), train, test)
    return {
        "case": case,
        "seed": seed,
        "guard_steps": steps,
        "worse": outcome.worse,
        "trial": [outcome.difference, outcome.lower, outcome.upper],
        "original": original,
        "redrawn": redrawn,
        "chosen": guarded,
    }


def sign_test(differences: list[float]) -> float:
    """Two-sided exact p-value of as uneven a split of signs; ties are left out."""
    worse = sum(difference > 0 for difference in differences)
    pairs = sum(difference != 0 for difference in differences)
    tail = sum(math.comb(pairs, k) for k in range(min(worse, pairs - worse) + 1)) / 2**pairs
    return min(1.0, 2 * tail)


def summary(rows: list[dict[str, Any]]) -> str:
    """Paired differences from the original: of the redraw, and of what the guard chose."""
    lines = [
        "| case | guard steps | seeds | redraw kept | measure | redrawn - original (s.e.), sign p"
        " | chosen - original (s.e.), sign p |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case, steps in dict.fromkeys((row["case"], row["guard_steps"]) for row in rows):
        own = [row for row in rows if (row["case"], row["guard_steps"]) == (case, steps)]
        kept = sum(not row["worse"] for row in own)
        for name in MEASURES:
            redrawn = [row["redrawn"][name] - row["original"][name] for row in own]
            chosen = [row["chosen"][name] - row["original"][name] for row in own]
            cells = [case, str(steps), str(len(own)), f"{kept} of {len(own)}", name]
            lines.append("| " + " | ".join([*cells, paired(redrawn), paired(chosen)]) + " |")
    return "\n".join(lines) + "\n"


def paired(differences: list[float]) -> str:
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{statistics.fmean(differences):+.4f} ({error:.4f}), {sign_test(differences):.2g}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("guard.jsonl"))
    parser.add_argument("--data-dir", type=Path, default=DEBIAN_DIRECTORY)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--guard-steps", type=int, default=50)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rows = []
    if options.results.exists():
        rows = [json.loads(line) for line in options.results.read_text().splitlines()]
    done = {(row["case"], row["seed"], row["guard_steps"]) for row in rows}
    train, test = load(options.data_dir)
    for seed in range(options.seeds):
        for case in options.cases:
            if (case, seed, options.guard_steps) in done:
                continue
            rows.append(trial(case, seed, train, test, options.guard_steps))
            with options.results.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print(summary(rows))


if __name__ == "__main__":
    main()
