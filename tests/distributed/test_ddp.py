"""Two processes on this machine: ranks agree after the redraw, and the restart is exact."""

from __future__ import annotations

import csv
import faulthandler
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_init import FractionalMomentInit, OptimalVarianceInit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*had not settled"),
    pytest.mark.filterwarnings("ignore:.*use of fork"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork"),
    # A hang is what these tests look for.
    pytest.mark.timeout(120),
]


class Net(LightningModule):
    """An MLP with BatchNorm and dropout that records its losses."""

    def __init__(self, nan_on_rank: int | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 4)
        )
        self.losses: list[float] = []
        self.nan_on_rank = nan_on_rank

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        if self.nan_on_rank == self.global_rank and batch_idx == 3:
            loss = loss * float("nan")
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Uneven(IterableDataset[Any]):
    """Ranks of unlike length and content; long enough for one run to stay in one epoch.

    (Where a rank's data end within the run, plain DDP waits for ever, with or without a probe.)
    """

    def __iter__(self) -> Any:
        rank = int(os.environ.get("LOCAL_RANK", 0))
        generator = torch.Generator().manual_seed(rank)
        for _ in range(800 + 80 * rank):
            yield torch.randn(16, generator=generator), torch.randn(4, generator=generator)


def loader(kind: str = "map") -> DataLoader[Any]:
    if kind == "iterable":
        return DataLoader(Uneven(), batch_size=8)
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(128, 16, generator=generator), torch.randn(128, 4, generator=generator)
    )
    return DataLoader(data, batch_size=8, shuffle=True)


class Recorder(Callback):
    """Writes what each rank saw: nothing returns from a forked process by itself."""

    def __init__(self, directory: Path, weights: Path | None = None) -> None:
        self.directory = directory
        self.weights = weights

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        faulthandler.dump_traceback_later(100, exit=True)  # a hung rank ends itself, with a trace

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        faulthandler.cancel_dump_traceback_later()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.weights is not None:  # the reference run starts from the redrawn weights
            start = torch.load(self.weights, weights_only=True)
            for name, parameter in pl_module.named_parameters():
                if name.endswith("weight") and parameter.dim() > 1:
                    parameter.data.copy_(start[name])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.state_dict(), self.directory / f"start_{trainer.global_rank}.pt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rank = trainer.global_rank
        torch.save(pl_module.state_dict(), self.directory / f"end_{rank}.pt")
        callback = next((c for c in trainer.callbacks if isinstance(c, OptimalVarianceInit)), None)
        report = None if callback is None or callback.report is None else callback.report.to_dict()
        (self.directory / f"run_{rank}.json").write_text(
            json.dumps({"losses": pl_module.losses, "report": report})
        )


def run(
    directory: Path, *callbacks: Callback, weights: Path | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Fit on two forked ranks; what each of them wrote."""
    directory.mkdir()
    seed_everything(3, verbose=False)
    kind, nan_on_rank = options.pop("kind", "map"), options.pop("nan_on_rank", None)
    trainer = Trainer(
        **{
            "accelerator": "cpu",
            "devices": 2,
            "strategy": "ddp_fork",
            "max_steps": 30,
            "max_epochs": -1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [*callbacks, Recorder(directory, weights)],
            **options,
        }
    )
    trainer.fit(Net(nan_on_rank), loader(kind))
    return [json.loads((directory / f"run_{rank}.json").read_text()) for rank in (0, 1)]


def states(directory: Path, moment: str) -> list[dict[str, Tensor]]:
    return [torch.load(directory / f"{moment}_{rank}.pt", weights_only=True) for rank in (0, 1)]


def assert_equal_states(a: dict[str, Tensor], b: dict[str, Tensor], parameters_only: bool) -> None:
    for name, value in a.items():
        if parameters_only and ("running" in name or "num_batches" in name):
            continue  # BatchNorm statistics are each rank's own
        assert torch.equal(value, b[name]), name


def probe(**options: Any) -> OptimalVarianceInit:
    defaults = {
        "max_probe_steps": 19,
        "on_unsettled": "use",
        "verbose": False,
        "sample_every_n_steps": 1,
    }
    return OptimalVarianceInit(**{**defaults, **options})


class Compressed(DDPStrategy):
    """PowerSGD keeps errors, factors and a random stream; Lightning leaves it out on CPUs."""

    def __init__(self) -> None:
        state = powerSGD_hook.PowerSGDState(
            process_group=None, matrix_approximation_rank=1, start_powerSGD_iter=5
        )
        hook = powerSGD_hook.powerSGD_hook
        super().__init__(start_method="fork", ddp_comm_state=state, ddp_comm_hook=hook)

    def _register_ddp_hooks(self) -> None:
        self.model.register_comm_hook(self._ddp_comm_state, self._ddp_comm_hook)


class CommunicationState(Callback):
    """Writes the state of the communication hook at the start and at the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "start")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "end")

    def _write(self, trainer: Trainer, moment: str) -> None:
        kept = trainer.strategy._ddp_comm_state
        tables = ("error_dict", "p_memory_dict", "q_memory_dict")
        found = {name: getattr(kept, name) for name in tables} | {"iter": kept.iter}
        found["stream"] = torch.from_numpy(kept.rng.get_state()[1].astype("int64"))
        path = self.directory / f"{moment}_{trainer.global_rank}"
        torch.save(found, path)


@pytest.mark.slow
def test_the_state_of_a_communication_hook_is_as_it_was(tmp_path: Path) -> None:
    found = {}
    for name in ("probed", "plain"):
        ours = [probe()] if name == "probed" else []
        weights = None if ours else tmp_path / "probed" / "start_0.pt"
        state = CommunicationState(tmp_path / name)
        found[name] = run(tmp_path / name, *ours, state, weights=weights, strategy=Compressed())
    for rank in (0, 1):
        assert found["probed"][rank]["losses"] == found["plain"][rank]["losses"]
        for moment in ("start", "end"):
            first, second = (
                torch.load(tmp_path / name / f"{moment}_{rank}") for name in ("probed", "plain")
            )
            assert first.pop("iter") == second.pop("iter") == (0 if moment == "start" else 30)
            assert torch.equal(first.pop("stream"), second.pop("stream"))
            # Compressed at the end, and nothing kept at the start.
            assert all(bool(kept) == (moment == "end") for kept in first.values())
            for key, kept in first.items():
                assert_equal_states(kept, second[key], parameters_only=False)


@pytest.mark.parametrize("kind", ["map", "iterable"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_ranks_agree_and_the_restart_is_exact(tmp_path: Path, kind: str, accumulate: int) -> None:
    options = {"kind": kind, "accumulate_grad_batches": accumulate, "max_steps": 24}
    probed = run(tmp_path / "probed", probe(), **options)
    first, second = states(tmp_path / "probed", "start")
    assert_equal_states(first, second, parameters_only=False)
    assert probed[0]["report"]["layers"] == probed[1]["report"]["layers"]
    for rank in probed:
        found = rank["report"]
        assert found["restart"] == "restart verified: first 2 steps identical"
        assert found["same_batches"] == found["compared_batches"] > 0
    end = states(tmp_path / "probed", "end")
    assert_equal_states(*end, parameters_only=True)

    start = tmp_path / "probed" / "start_0.pt"
    plain = run(tmp_path / "plain", weights=start, **options)
    for rank in (0, 1):
        assert probed[rank]["losses"] == plain[rank]["losses"]
        assert_equal_states(end[rank], states(tmp_path / "plain", "end")[rank], False)
    assert probed[0]["losses"] != probed[1]["losses"]


def test_ranks_with_unlike_seeds_get_the_same_weights(tmp_path: Path) -> None:
    class UnlikeSeeds(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            torch.manual_seed(100 + trainer.global_rank)

    callbacks = [UnlikeSeeds(), FractionalMomentInit(verbose=False), probe()]
    run(tmp_path / "run", *callbacks)
    assert_equal_states(*states(tmp_path / "run", "start"), parameters_only=False)
    assert_equal_states(*states(tmp_path / "run", "end"), parameters_only=True)


@pytest.mark.parametrize("rank", [0, 1])
def test_nan_on_one_rank_ends_the_probe_of_all_ranks(tmp_path: Path, rank: int) -> None:
    started = time.monotonic()
    ranks = run(tmp_path / "run", probe(on_probe_failure="raise"), nan_on_rank=rank)
    assert time.monotonic() - started < 60
    for one in ranks:
        assert "not finite" in one["report"]["divergence"]
        assert {row["verdict"] for row in one["report"]["layers"]} == {"invalid"}
    seed_everything(3, verbose=False)
    untouched = Net().state_dict()
    for state in states(tmp_path / "run", "start"):
        assert_equal_states(state, untouched, parameters_only=False)


def test_what_every_rank_refuses_is_skipped_on_every_rank(tmp_path: Path) -> None:
    ranks = run(tmp_path / "run", probe(include=["nothing.*"]))
    assert [rank["report"] for rank in ranks] == [None, None]
    assert_equal_states(*states(tmp_path / "run", "end"), parameters_only=True)


def test_a_probe_too_short_for_a_verdict_takes_no_step_on_any_rank(tmp_path: Path) -> None:
    probed = run(tmp_path / "probed", probe(on_unsettled="keep"), kind="iterable")
    plain = run(tmp_path / "plain", kind="iterable")
    for one, other in zip(probed, plain, strict=True):
        assert one["report"]["total_steps"] == 0
        assert one["losses"] == other["losses"]


class Exact(Net):
    """Ranks and one process take the same steps: every step sees all data, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4))


class Variances(Callback):
    """The series that one rank keeps."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        saved = next(c for c in trainer.callbacks if isinstance(c, OptimalVarianceInit))
        content = json.dumps(saved.state_dict()["run_variances"])
        (self.path / f"series_{trainer.global_rank}.json").write_text(content)


def watch(directory: Path, batch_size: int, **options: Any) -> list[list[float]]:
    """Train without a probe; what stands in the only file of the run's variances."""
    directory.mkdir()
    seed_everything(3, verbose=False)
    trainer = Trainer(
        accelerator="cpu",
        precision="64-true",
        max_epochs=16,
        logger=CSVLogger(directory),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[probe(max_probe_steps=0), Variances(directory)],
        **options,
    )
    trainer.fit(Exact(), DataLoader(loader().dataset, batch_size=batch_size))
    (file,) = directory.rglob("run_variance.csv")
    header, *rows = csv.reader(file.open())
    assert header == ["step", "net.0", "net.2"]
    return [[float(cell) for cell in row] for row in rows]


def test_two_ranks_write_one_series_and_it_is_that_of_one_process(tmp_path: Path) -> None:
    ranks = watch(tmp_path / "ranks", 64, devices=2, strategy="ddp_fork")
    alone = watch(tmp_path / "alone", 128, devices=1)
    assert [row[0] for row in ranks] == list(range(17))
    torch.testing.assert_close(
        torch.tensor(ranks, dtype=torch.float64),
        torch.tensor(alone, dtype=torch.float64),
        rtol=1e-12,
        atol=0,
    )
    kept = [(tmp_path / "ranks" / f"series_{rank}.json").read_text() for rank in (0, 1)]
    assert kept[0] == kept[1]


def test_the_other_package_on_two_ranks(tmp_path: Path) -> None:
    pl = pytest.importorskip("pytorch_lightning")
    from pytorch_lightning.demos.boring_classes import BoringModel

    report = tmp_path / "report.txt"

    class Writes(pl.Callback):  # type: ignore[misc]
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.is_global_zero:
                report.write_text(trainer.callbacks[0].report.table())

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_steps=20,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[probe(on_probe_failure="raise"), Writes()],
    )
    trainer.fit(BoringModel())
    assert "restart verified: first 2 steps identical" in report.read_text()


def test_an_exception_on_one_rank_ends_all_ranks(tmp_path: Path) -> None:
    class Broken(Net):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            if self.global_rank == 1 and batch_idx == 5:
                raise RuntimeError("rank 1 fails")
            return super().training_step(batch, batch_idx)

    (tmp_path / "run").mkdir()
    trainer = Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp_fork",
        max_steps=20,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[probe(), Recorder(tmp_path / "run")],
    )
    with pytest.raises(Exception, match=r"rank 1 fails|terminated|exit|closed"):
        trainer.fit(Broken(), loader())


@pytest.mark.slow
@pytest.mark.timeout(240)  # two runs, each with a watchdog of its own
@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_script_and_spawn(tmp_path: Path, strategy: str) -> None:
    probed, plain = tmp_path / "probed", tmp_path / "plain"
    _run_script(strategy, probed)
    first, second = states(probed, "start")
    assert_equal_states(first, second, parameters_only=True)
    _run_script(strategy, plain, probed / "start_0.pt")
    for rank in (0, 1):
        losses = [
            json.loads((d / f"run_{rank}.json").read_text())["losses"] for d in (probed, plain)
        ]
        assert losses[0] == losses[1]
        assert_equal_states(states(probed, "end")[rank], states(plain, "end")[rank], False)
    assert_equal_states(*states(probed, "end"), parameters_only=True)


def _run_script(*arguments: str | Path) -> None:
    script = Path(__file__).with_name("ddp_script.py")
    finished = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        timeout=110,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
