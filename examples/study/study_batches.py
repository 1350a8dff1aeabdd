"""Small fully connected networks, trained together in half the time of plain runs.

The records equal those of plain runs to 1e-6 until rounding moves a ReLU's input across zero, as a
change of some ten-millionths in the first weights of a plain run can, too; `run.py --together` asks
for it.
All runs of a seed see the same batches. Their weights are stacked, each layer is one product for
all of them, and one optimizer steps the stack; what a Trainer spends beside a step is spent once.
Networks with batch norm, dropout or a schedule, and runs with a probe, are left to the Trainer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import study_models
import torch
from fashion_mnist import shuffled
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.utilities.seed import isolate_rng
from study_cells import Cell
from study_data import StudyData
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm.auto import tqdm

from lightning_init.compare import Scheme
from lightning_init.compare.pilots import with_pilots
from lightning_init.compare.records import FINISHED, FULL, RunRecord
from lightning_init.compare.runs import RunTask, execute
from lightning_init.compare.schemes import Build, make_schemes
from lightning_init.compare.store import RunStore

Row = dict[str, Tensor]  # a number per run, by metric


def can_be_stacked(cell: Cell) -> bool:
    plain = {"schedule": "constant", "log_variance_ratio": False}
    return (
        cell.model["class"] in ("MLP", "DeepMLP")
        and all(cell.model.get(name, value) == value for name, value in plain.items())
        and set(cell.trainer) == {"max_epochs"}
    )


def keep_stacked_runs(
    plain: RunTask, inits: Sequence[str | Scheme], seeds: Sequence[int], out: Path
) -> None:
    """Make the runs without a probe, and keep them where `compare` finds them."""
    common = {"model": plain.model, "data": plain.data, "trainer": plain.trainer, "threads": 1}
    store = RunStore(out, common)
    named = [one for one in make_schemes(inits) if not one.label.startswith("optimal")]
    schemes = with_pilots(named, plain, out / "pilots")
    for seed in tqdm(seeds, desc="Stacked", unit="seed"):
        tasks = [replace(plain, scheme=scheme, seed=seed) for scheme in schemes]
        missing = [task for task in tasks if store.load(task) is None]
        if len(missing) > 1:
            for task, record in train_together(missing):
                store.keep(task, [record])


def train_together(tasks: Sequence[RunTask]) -> Iterator[tuple[RunTask, RunRecord]]:
    """Train one seed from several initializations; a run whose loss is lost is left out."""
    began, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(1)
    with isolate_rng():
        data = tasks[0].data()
        data.setup()
        model = stacked(tasks[0].model(), [first_weights(task) for task in tasks])
        epochs = orders(data, tasks[0].seed, tasks[0].trainer["max_epochs"])
        curve, losses = fit(model, data, epochs)
        final = curve[-1][1] | study_models.loss_by_step(losses)
        for name, loader in zip(("train", "test"), data.test_dataloader(), strict=True):
            final |= evaluated(model, loader, name)
    torch.set_num_threads(threads)
    finite = torch.stack([*losses, *final.values()]).isfinite().all(0)
    for place, task in enumerate(tasks):
        if finite[place]:
            yield (
                task,
                RunRecord(
                    scheme=task.scheme.label,
                    seed=task.seed,
                    budget=FULL,
                    status=FINISHED,
                    reason="",
                    steps=len(losses),
                    seconds=(time.perf_counter() - began) / len(tasks),
                    curve=tuple((step, numbers(row, place)) for step, row in curve),
                    final=numbers(final, place),
                    pilot_steps=task.scheme.pilot_steps,
                ),
            )


def fit(
    model: study_models.MLP, data: StudyData, epochs: Sequence[Sequence[Tensor]]
) -> tuple[list[tuple[int, Row]], list[Tensor]]:
    """Curve by epoch, and the training loss of every step."""
    inputs, targets = data.train.tensors
    optimizer = model.make_optimizer()
    losses: list[Tensor] = []
    curve = []
    for ends, order in zip(accumulate(map(len, epochs)), epochs, strict=True):
        for rows in order:
            loss = losses_of(outputs_of(model, inputs[rows]), targets[rows])
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            losses.append(loss.detach())
        sizes = torch.tensor([len(rows) for rows in order]).unsqueeze(1)
        mean = (torch.stack(losses[-len(order) :]) * sizes).sum(0) / sizes.sum()
        row = evaluated(model, data.val_dataloader(), "val") | {"epoch_train_loss": mean}
        curve.append((ends, row))
    return curve, losses


def outputs_of(model: study_models.MLP, inputs: Tensor) -> Tensor:
    """Outputs of every run for the same inputs: runs, samples, classes."""
    layers = list(model.net)
    values = inputs.expand(len(layers[0].weight), -1, -1)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            # What the layer alone would give each run, and faster than `torch.func.vmap`.
            values = torch.baddbmm(layer.bias.unsqueeze(1), values, layer.weight.mT)
        else:
            values = layer(values)
    return values


def losses_of(outputs: Tensor, targets: Tensor) -> Tensor:
    repeated = targets.expand(len(outputs), -1)
    return nn.functional.cross_entropy(outputs.mT, repeated, reduction="none").mean(1)


@torch.no_grad()
def evaluated(model: study_models.MLP, loader: DataLoader, name: str) -> Row:
    """Loss and accuracy over a loader, each sample counted once."""
    rows, samples = [], 0
    for inputs, targets in loader:
        outputs = outputs_of(model, inputs)
        right = (outputs.argmax(-1) == targets).float().mean(1)
        rows.append(torch.stack([losses_of(outputs, targets), right]) * len(inputs))
        samples += len(inputs)
    loss, accuracy = torch.stack(rows).sum(0) / samples
    return {f"{name}_loss": loss, f"{name}_accuracy": accuracy}


def numbers(row: Row, place: int) -> dict[str, float]:
    return {name: values[place].item() for name, values in row.items()}


def stacked(model: study_models.MLP, starts: Sequence[dict[str, Tensor]]) -> study_models.MLP:
    """The model with the parameters of all runs in the place of its own."""
    for name, layer in model.named_modules():
        for kind in ("weight", "bias") if isinstance(layer, nn.Linear) else ():
            values = torch.stack([start[f"{name}.{kind}"] for start in starts])
            setattr(layer, kind, nn.Parameter(values))
    return model


def orders(data: StudyData, seed: int, epochs: int) -> list[list[Tensor]]:
    """Rows of every batch of every epoch, drawn as a Trainer draws them."""
    seed_everything(seed, workers=True, verbose=False)
    places = TensorDataset(torch.arange(len(data.train)))
    found = []
    for _ in range(epochs):
        found.append([batch[0] for batch in shuffled(places, data.batch_size)])
        iter(data.val_dataloader())  # takes a seed from the generator, as in the validation
    return found


class _KeepStart(Callback):
    """Copies the weights that a run starts from."""

    def __init__(self) -> None:
        self.start: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = {name: value.clone() for name, value in pl_module.state_dict().items()}


def first_weights(task: RunTask) -> dict[str, Tensor]:
    """What a scheme makes of the model: a run of one step, of which only the start is kept."""
    kept = _KeepStart()
    limits = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}
    limits |= {"limit_test_batches": 0}
    scheme = replace(task.scheme, build=partial(_and_keep, task.scheme.build, kept))
    (record,) = execute(replace(task, scheme=scheme, trainer=limits))
    if not kept.start:
        raise RuntimeError(f"{task.name}: {record.reason}")
    return kept.start


def _and_keep(build: Build, kept: Callback, seed: int, first_batch: Any) -> list[Callback]:
    return [*build(seed, first_batch), kept]
