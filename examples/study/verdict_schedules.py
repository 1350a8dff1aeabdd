"""Is V at the run's peak found under every schedule? The schedules' table of the docs.

    python examples/study/verdict_schedules.py --results schedules.jsonl

Three models (an MLP, a conv net with batch norm, a transformer of two layers) on digits, three
optimizers, ten schedules. Each probe is set beside a plain training at the constant peak rate from
the same first weights: V after as many steps at the peak as the probe took there, and V at the end
of that training. Rows are appended to `--results`; an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim import lr_scheduler as schedules
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from verdict_cases import dataset
from verdict_shares import share

from lightning_init import OptimalVarianceInit
from lightning_init.inspection.weights import effective_weight, find_weights

BATCH_SIZE, EPOCHS = 64, 56
STEPS = EPOCHS * (1797 // BATCH_SIZE)
PEAKS = {"AdamW": 3e-3, "SGD": 0.1, "momentum": 0.02}
# Decay per step: none, and the strongest that leaves a sixteenth of every layer's V in a probe.
DECAYS = {
    "MLP": (15 / STEPS, 5 / STEPS, 0.0),
    "CNN": (5 / STEPS, 0.0),
    "transformer": (2 / STEPS, 0.0),
}
TWO = "two optimizers"
WARM = STEPS // 10

Make = Callable[[Optimizer, float], Any]


def warm_up(lowest: float) -> Make:
    return lambda o, _: schedules.LambdaLR(
        o, lambda step: lowest + (1 - lowest) * min(1.0, step / WARM)
    )


def warm_up_cosine(o: Optimizer, _: float) -> Any:
    def factor(step: int) -> float:
        if step < WARM:
            return step / WARM
        share = (step - WARM) / (STEPS - WARM)
        return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * share)).item())

    return schedules.LambdaLR(o, factor)


def sequential(o: Optimizer, _: float) -> Any:
    parts = [
        schedules.LinearLR(o, 1e-3, total_iters=WARM),
        schedules.CosineAnnealingLR(o, STEPS - WARM),
    ]
    return schedules.SequentialLR(o, parts, [WARM])


SCHEDULES: dict[str, Make | None] = {
    "constant": None,
    "warm-up from 0": warm_up(0.0),
    "warm-up from 1/1000": warm_up(1e-3),
    "OneCycle": lambda o, peak: schedules.OneCycleLR(
        o, peak, total_steps=STEPS + 1, cycle_momentum=False
    ),
    "warm-up and cosine": warm_up_cosine,
    "SequentialLR": sequential,
    "step decay": lambda o, _: schedules.StepLR(o, STEPS // 3, 0.1),
    "per group": lambda o, _: schedules.LambdaLR(
        o,
        [
            lambda step: min(1.0, step / WARM),
            lambda step: min(1.0, step / (2 * WARM)),
        ],
    ),
}


class Attention(nn.Module):
    """Two pre-norm encoder layers over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.encoder(self.rows(pixels.reshape(-1, 8, 8))).mean(1))


def network(name: str) -> nn.Module:
    if name == "transformer":
        return Attention()
    if name == "MLP":
        return nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(256, 10),
    )


class Scheduled(LightningModule):
    def __init__(self, name: str, optimizer: str, make: Make | None, decay: float) -> None:
        super().__init__()
        self.net = network(name)
        self.optimizer, self.make, self.decay = optimizer, make, decay

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        peak = PEAKS[self.optimizer]
        parameters = list(self.net.parameters())
        groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]
        optimizer: Optimizer
        if self.optimizer == "AdamW":
            optimizer = AdamW(groups, lr=peak, weight_decay=self.decay / peak)
        else:
            momentum = 0.9 if self.optimizer == "momentum" else 0.0
            decay = self.decay * (1 - momentum) / peak
            optimizer = SGD(groups, lr=peak, momentum=momentum, weight_decay=decay)
        if self.make is None:
            return optimizer
        config = {"scheduler": self.make(optimizer, peak), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": config}


class TwoOptimizers(Scheduled):
    """AdamW for the first layer and SGD for the others, both stepped by hand with their schedules.

    Manual optimization cannot be foreseen: the probe follows what the module's own code does.
    """

    def __init__(self, name: str, optimizer: str, make: Make | None, decay: float) -> None:
        super().__init__(name, optimizer, make, decay)
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        optimizers, schedulers = self.optimizers(), self.lr_schedulers() or []
        for one in optimizers:
            one.zero_grad()
        self.manual_backward(loss)
        for one in [*optimizers, *schedulers]:
            one.step()
        return loss

    def configure_optimizers(self) -> Any:
        parameters = list(self.net.parameters())
        adamw, sgd = PEAKS["AdamW"], PEAKS["SGD"]
        optimizers = [
            AdamW(parameters[:2], lr=adamw, weight_decay=self.decay / adamw),
            SGD(parameters[2:], lr=sgd, weight_decay=self.decay / sgd),
        ]
        if self.make is None:
            return optimizers
        peaks = (adamw, sgd)
        return optimizers, [self.make(*pair) for pair in zip(optimizers, peaks, strict=True)]


class Variances(Callback):
    """V of every layer after each optimizer step."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.weights = find_weights(pl_module).weights

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        found = [effective_weight(pl_module, weight).double() for weight in self.weights]
        self.rows.append([values.var(correction=0).item() for values in found])


class StopBeforeTraining(Callback):
    """Ends a run that was needed for its probe only."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = True


def train(model: str, optimizer: str, make: Make | None, decay: float, *callbacks: Any) -> None:
    data = dataset("digits")
    seed_everything(2, verbose=False)
    batches = BatchSampler(RandomSampler(data), BATCH_SIZE, drop_last=True)
    trainer = Trainer(
        max_epochs=EPOCHS,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    loader: DataLoader[Any] = DataLoader(
        TensorDataset(*data.tensors), sampler=batches, batch_size=None
    )
    kind = TwoOptimizers if optimizer == TWO else Scheduled
    trainer.fit(kind(model, optimizer, make, decay), loader)


def judge(model: str, optimizer: str, decay: float, done: set[Any]) -> list[dict[str, Any]]:
    """One row per schedule and layer."""
    plain = Variances()
    train(model, optimizer, None, decay, plain)
    rows = []
    for name, make in SCHEDULES.items():
        if (model, optimizer, decay, name) in done or (optimizer == TWO and name == "per group"):
            continue
        callback = OptimalVarianceInit(1 / 3, on_unsettled="use", verbose=False)
        train(model, optimizer, make, decay, callback, StopBeforeTraining())
        report = callback.report
        assert report is not None
        # The series begins where the peak is reached.
        climb = report.history.steps[1] - report.sample_interval if make else 0
        for index, layer in enumerate(report.layers):
            rows.append(
                {
                    "model": model,
                    "optimizer": optimizer,
                    "decay": decay,
                    "schedule": name,
                    "layer": layer.name,
                    "verdict": layer.verdict.value,
                    "V": layer.variance,
                    "at_peak": statistics.fmean(
                        row[index]
                        for row in plain.rows[
                            max(0, int(0.875 * (report.probe_steps - climb))) : report.probe_steps
                            - climb
                        ]
                    ),
                    "final": plain.rows[-1][index],
                    "probe_steps": report.probe_steps,
                }
            )
    return rows


def summary(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| schedule | layers | V within 15 % of the constant peak rate's | largest difference |"
        " `stationary`, moved by at most 12 % | `drifting`, moved by more than 8 % |"
        " `inconclusive`, moved by more than 8 % |",
        "|---|---|---|---|---|---|---|",
    ]
    valid = [row for row in rows if row["verdict"] != "invalid"]
    foreseen = [row for row in valid if row["optimizer"] != TWO]
    for name in SCHEDULES:
        found = [row for row in foreseen if row["schedule"] == name]
        if found:
            off = [abs(row["V"] / row["at_peak"] - 1) for row in found]
            within = f"{sum(x <= 0.15 for x in off)} | {max(off):.1%}"
            lines.append(f"| {name} | {len(found)} | {within} | {kept_their_word(found)} |")
    # Their probe follows the module's own schedule, so that there is no V at the peak to compare.
    by_hand = [row for row in valid if row["optimizer"] == TWO]
    lines.append(f"| {TWO}, by hand | {len(by_hand)} | - | - | {kept_their_word(by_hand)} |")
    invalid = len(rows) - len(valid)
    return "\n".join([*lines, "", f"{len(rows)} layers, {invalid} of them of invalid probes."])


def kept_their_word(rows: list[dict[str, Any]]) -> str:
    """How many layers of each verdict did by the end of the run what it says."""

    def moved(verdict: str) -> list[float]:
        return [abs(r["final"] / r["V"] - 1) for r in rows if r["verdict"] == verdict]

    stayed = share(distance <= 0.12 for distance in moved("stationary"))
    others = (share(d > 0.08 for d in moved(verdict)) for verdict in ("drifting", "inconclusive"))
    return " | ".join([stayed, *others])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, default=Path("schedules.jsonl"))
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["model"], row["optimizer"], row["decay"], row["schedule"]) for row in rows}
    cases = itertools.product(DECAYS, (*PEAKS, TWO))
    for model, optimizer, decay in [(*case, one) for case in cases for one in DECAYS[case[0]]]:
        found = sum(key[:3] == (model, optimizer, decay) for key in done)
        complete = found == len(SCHEDULES) - (optimizer == TWO)
        skipped = optimizer == TWO and model != "MLP"
        if options.only not in f"{model}, {optimizer}, {decay:.3g}" or complete or skipped:
            continue
        new = judge(model, optimizer, decay, done)
        rows += new
        with options.results.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        print(f"{model}, {optimizer}, decay {decay:.3g}: {len(new)} rows", flush=True)
    print(summary(rows))


if __name__ == "__main__":
    main()
