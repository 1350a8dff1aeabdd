"""How good are the verdicts after other shares of the run? The shares' table of the docs.

    python examples/study/verdict_shares.py --directory series

The trainings of `verdict_cases.py`, in a plain loop without probes: V of every layer is recorded to
the end, and the detector judges the beginning, as a probe of that length would. Series that are in
the directory already are not trained again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import seed_everything
from torch import nn
from torch.utils.data import TensorDataset
from verdict_cases import Case, Classifier, all_cases, dataset

from lightning_init.inspection.weights import effective_weight, find_weights
from lightning_init.probe import ProbeLimits
from lightning_init.search.settings import OptimalVarianceSettings
from lightning_init.stationarity import Decision, DetectorSettings, Verdict, decide, start, update

BATCH_SIZE = 64
SHARES = (0.2, 1 / 3, 0.5, 2 / 3)
HEADERS = (
    "probe",
    "`stationary`, moved by at most 12 %",
    "`drifting`, moved by more than 8 %",
    "`inconclusive`, moved by more than 8 %",
    "inside the interval",
    "its factor",
    "V missed by the projection",
    "by the reported V",
)


def record(case: Case, data: TensorDataset) -> np.ndarray:
    """V every few steps, as often as a probe of a third of the run looks; shape (layers, times)."""
    images, labels = data.tensors
    seed_everything(case.seed, verbose=False)
    model = Classifier(case, images.shape[1])
    optimizer = model.configure_optimizers()
    weights = find_weights(model).weights
    steps = case.epochs * (len(images) // BATCH_SIZE)
    interval = OptimalVarianceSettings(ProbeLimits(steps)).interval(round(steps / 3))
    series, step = [], 0
    for _ in range(case.epochs):
        order = torch.randperm(len(images))
        for batch in order[: len(order) // BATCH_SIZE * BATCH_SIZE].split(BATCH_SIZE):
            loss = nn.functional.cross_entropy(model.net(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % interval == 0:
                found = [effective_weight(model, weight).double() for weight in weights]
                series.append([values.var(correction=0).item() for values in found])
    return np.array(series).T


def judge(series: np.ndarray, probe_share: float) -> list[Decision]:
    """The verdict on every layer, after so much of the run or when all layers have settled."""
    horizon = series.shape[1]
    budget = round(probe_share * horizon)
    states = [start(DetectorSettings(), horizon, budget) for _ in series]
    for values in series[:, :budget].T.tolist():
        states = [update(state, value) for state, value in zip(states, values, strict=True)]
        if all(state.fired_at is not None for state in states):
            decisions = [decide(state) for state in states]
            if all(decision.verdict is Verdict.STATIONARY for decision in decisions):
                return decisions
    return [decide(state) for state in states]


def line(recorded: Sequence[np.ndarray], probe_share: float) -> tuple[str, ...]:
    """One row of the table: all layers of all runs, judged after the same share."""
    found = [
        (decision, layer[-1])
        for series in recorded
        for decision, layer in zip(judge(series, probe_share), series, strict=True)
    ]
    moved = {
        verdict: [abs(end / d.estimate - 1) for d, end in found if d.verdict is verdict]
        for verdict in Verdict
    }
    return (
        f"{probe_share:.0%}",
        share(distance <= 0.12 for distance in moved[Verdict.STATIONARY]),
        share(distance > 0.08 for distance in moved[Verdict.DRIFTING]),
        share(distance > 0.08 for distance in moved[Verdict.INCONCLUSIVE]),
        share(d.projected_lower <= end <= d.projected_upper for d, end in found),
        f"{statistics.median(d.projected_upper / d.projected_lower for d, _ in found):.2f}",
        f"{statistics.median(abs(end / d.projected - 1) for d, end in found):.1%}",
        f"{statistics.median(abs(end / d.estimate - 1) for d, end in found):.1%}",
    )


def share(flags: Iterable[bool]) -> str:
    """A share with its count: "12 of 15 (80 %)"."""
    found = list(flags)
    percent = f" ({sum(found) / len(found):.0%})" if found else ""
    return f"{sum(found)} of {len(found)}{percent}"


def table(headers: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [headers, ("---",) * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("series"))
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    options.directory.mkdir(exist_ok=True)
    sets: dict[str, TensorDataset] = {}
    recorded = []
    for case in all_cases(options.seeds):
        if options.only not in case.name:
            continue
        path = options.directory / f"{case.name}, seed {case.seed}.npy"
        if not path.exists():
            if case.data not in sets:
                sets[case.data] = dataset(case.data, options.data_dir)
            np.save(path, record(case, sets[case.data]))
        recorded.append(np.load(path))
    layers = sum(len(series) for series in recorded)
    print(f"{len(recorded)} trainings, {layers} layers\n")
    print(table(HEADERS, [line(recorded, probe_share) for probe_share in SHARES]))


if __name__ == "__main__":
    main()
