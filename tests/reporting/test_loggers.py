"""Both callbacks against the real CSV, MLflow and wandb loggers, on local stores."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from lightning_init import FractionalMomentInit, OptimalVarianceInit

OUTCOME = {"OptimalVarianceInit/sigma0/layer", "OptimalVarianceInit/ratio/layer"}
PLAN = {"FractionalMomentInit/std/layer"}
Rows = list[tuple[int, dict[str, float]]]


def needs(module: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(
        missing, reason=f"{module} is not installed: pip install '.[loggers]'"
    )


def csv_rows(logger: CSVLogger) -> Rows:
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [
        (
            int(row["step"]),
            {k: float(v) for k, v in row.items() if v and k not in ("step", "epoch")},
        )
        for row in rows
    ]


def mlflow_rows(logger: MLFlowLogger) -> Rows:
    run = logger.experiment.get_run(logger.run_id)
    by_step: dict[int, dict[str, float]] = {}
    for name in run.data.metrics:
        for point in logger.experiment.get_metric_history(logger.run_id, name):
            by_step.setdefault(point.step, {})[name] = point.value
    return sorted(by_step.items())


def wandb_rows(logger: WandbLogger) -> Rows:
    """Read the records of the offline run's own file, once its last one is there."""
    from wandb.proto.wandb_internal_pb2 import Record

    logger.experiment.finish()
    (path,) = Path(str(logger.save_dir)).rglob("run-*.wandb")
    records: list[Any] = []
    for _ in range(100):
        records = [Record.FromString(r) for r in leveldb_records(path.read_bytes(), header=7)]
        if records and records[-1].HasField("exit"):
            break
        time.sleep(0.1)
    return [wandb_row(record.history) for record in records if record.HasField("history")]


def wandb_row(history: Any) -> tuple[int, dict[str, float]]:
    names = ["/".join(item.nested_key) or item.key for item in history.item]
    values = [json.loads(item.value_json) for item in history.item]
    row = dict(zip(names, values, strict=True))
    step = row.pop("trainer/global_step", None)
    return step, {
        name: value
        for name, value in row.items()
        if isinstance(value, (int, float)) and not name.startswith("_")
    }


def leveldb_records(content: bytes, header: int) -> Iterator[bytes]:
    """Records of a LevelDB log: blocks of 32 kB, fragments behind checksum, length and type."""
    full, last = 1, 4
    position, parts = header, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (full, last):
            yield parts
            parts = b""


def make_csv(path: Path) -> Logger:
    return CSVLogger(path)


def make_mlflow(path: Path) -> Logger:
    return MLFlowLogger(tracking_uri=f"file:{path}/mlruns")


def make_wandb(path: Path) -> Logger:
    return WandbLogger(save_dir=path, offline=True, project="init")


KINDS = [
    pytest.param(make_csv, csv_rows, id="csv"),
    pytest.param(make_mlflow, mlflow_rows, id="mlflow", marks=needs("mlflow")),
    pytest.param(make_wandb, wandb_rows, id="wandb", marks=needs("wandb")),
]


@pytest.fixture(autouse=True)
def _local_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing leaves the machine, and what the libraries cache goes with the test."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "true")


class LoggingModel(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        self.log("train_loss", output["loss"])
        return output


def fit(loggers: list[Logger], **settings: Any) -> OptimalVarianceInit:
    optimal = OptimalVarianceInit(
        max_probe_steps=6, verbose=False, seed=1, **settings, on_unsettled="use"
    )
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=6,
        limit_val_batches=0,
        callbacks=[FractionalMomentInit(verbose=False, seed=1), optimal],
        logger=loggers,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(LoggingModel())
    return optimal


pytestmark = pytest.mark.filterwarnings("ignore:.*had not settled", "ignore:.*squared mean")


@pytest.mark.parametrize(("make", "read"), KINDS)
def test_the_outcome_is_one_row_at_step_0_and_nothing_else(
    make: Callable[[Path], Logger], read: Callable[[Any], Rows], tmp_path: Path
) -> None:
    logger = make(tmp_path / "logs")
    callback = fit([logger])
    rows = read(logger)
    ours = [
        (step, {name: value for name, value in row.items() if "Init/" in name})
        for step, row in rows
    ]
    ours = [(step, row) for step, row in ours if row]
    assert {step for step, _ in ours} == {0}
    found = {name: value for _, row in ours for name, value in row.items()}
    assert set(found) == OUTCOME | PLAN
    assert callback.report is not None
    layer = callback.report["layer"]
    assert found["OptimalVarianceInit/sigma0/layer"] == pytest.approx(layer.sigma0)
    assert found["OptimalVarianceInit/ratio/layer"] == pytest.approx(layer.ratio)
    # One dict each: the outcome's names stand in one row.
    assert any(set(row) >= OUTCOME for _, row in ours)
    # And the run itself is there.
    assert sum("train_loss" in row for _, row in rows) == 6


@needs("mlflow")
@needs("wandb")
def test_each_of_several_loggers_gets_its_own(tmp_path: Path) -> None:
    table, flow = make_csv(tmp_path / "csv"), make_mlflow(tmp_path / "mlflow")
    wand, board = make_wandb(tmp_path / "wandb"), TensorBoardLogger(tmp_path / "board")
    fit([board, table, wand, flow])
    for rows in (csv_rows(table), mlflow_rows(flow), wandb_rows(wand)):
        names = {name for _, row in rows for name in row}
        assert names >= OUTCOME | PLAN
        assert all(math.isfinite(value) for _, row in rows for value in row.values())
    assert (Path(board.log_dir) / "probe").is_dir()


def test_without_a_logger_all_is_in_the_report() -> None:
    callback = fit([])
    assert callback.report is not None
    frame = pytest.importorskip("pandas") and callback.report.to_pandas()
    assert frame.loc["layer", "sigma0"] == callback.report["layer"].sigma0
    assert "<table>" in callback.report._repr_html_()
    assert "layer" in str(callback.report)
    assert len(callback.report.history.steps) == 7
