from __future__ import annotations

import csv
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from logged_tags import FRACTIONAL_MOMENT_TAGS, PROBE_TAGS
from probe_series import report_of, series
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch import nn

from lightning_init import fractional_moment_init_
from lightning_init.initialization.measurement import LayerLogNorm
from lightning_init.initialization.plan import InitPlan
from lightning_init.monitoring.run_series import VarianceHistory
from lightning_init.reporting import figures
from lightning_init.reporting.records import WeightSample
from lightning_init.reporting.report import InitReport
from lightning_init.reporting.tensorboard import (
    DRIFT,
    VARIANCE,
    divergences,
    log_outcome,
    log_plan,
    tag,
    write_probe_run,
)
from lightning_init.theory.variance_bound import kl_per_weight

LAYERS = ("net.0", "net.2", "head")


def events(directory: Path) -> EventAccumulator:
    guidance = {"scalars": 0, "tensors": 0, "images": 0}
    return EventAccumulator(str(directory), size_guidance=guidance).Reload()


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory, report: InitReport) -> EventAccumulator:
    """The TensorBoard run of one probe, read back."""
    directory = tmp_path_factory.mktemp("log_dir")
    write_probe_run(directory, report)
    assert [path.name for path in directory.iterdir()] == ["probe"]
    return events(directory / "probe")


def documented(tags: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    patterns = [
        re.escape(name).replace("<layer>", ".+").replace("<name>", ".+") for name, _ in tags
    ]
    return re.compile("|".join(patterns))


@pytest.mark.parametrize("layer", ["net.0", "a b", "σ[0]", "x/y", "weight:(1)^2", "é", "a\nb"])
def test_a_tag_has_only_characters_that_every_logger_accepts(layer: str) -> None:
    name = tag("OptimalVarianceInit", "variance", layer)
    assert re.fullmatch(r"[A-Za-z0-9_./-]+", name)
    assert name.startswith("OptimalVarianceInit/variance/")
    assert len(name) == len("OptimalVarianceInit/variance/") + len(layer)


def test_the_probe_has_its_own_run_with_every_layer_from_the_first_row_on(
    probe: EventAccumulator,
) -> None:
    for layer in LAYERS:
        for quantity in ("variance", "kl"):
            rows = probe.Scalars(f"OptimalVarianceInit/{quantity}/{layer}")
            assert [row.step for row in rows] == [0, 500, 1000]
        drift = probe.Scalars(f"OptimalVarianceInit/drift/{layer}")
        assert [row.step for row in drift] == [500, 1000]
    values = [row.value for row in probe.Scalars("OptimalVarianceInit/variance/net.0")]
    assert values == pytest.approx([0.02, 0.029, 0.03])
    divergence = [row.value for row in probe.Scalars("OptimalVarianceInit/kl/net.0")]
    # KL(N(0, V) || N(0, V0)) at V / V0 = 1.5
    assert divergence[0] == 0.0
    assert divergence[2] == pytest.approx(0.5 * (0.5 - math.log(1.5)))
    unknown = [row.value for row in probe.Scalars("OptimalVarianceInit/kl/head")]
    assert unknown[0] == 0.0
    assert all(map(math.isnan, unknown[1:]))


def test_the_outcome_stands_at_the_last_probe_step(
    probe: EventAccumulator, report: InitReport
) -> None:
    assert {image.step for name in probe.Tags()["images"] for image in probe.Images(name)} == {1000}
    (text,) = probe.Tensors("OptimalVarianceInit/report/text_summary")
    assert text.step == 1000
    assert text.tensor_proto.string_val[0].decode() == report.markdown(100)


def test_steps_never_decrease_within_a_tag(long_probe: EventAccumulator) -> None:
    probe = long_probe
    for name in probe.Tags()["scalars"]:
        steps = [row.step for row in probe.Scalars(name)]
        assert steps == sorted(set(steps))


def test_no_chart_of_the_probe_has_one_dot(long_probe: EventAccumulator) -> None:
    for name in long_probe.Tags()["scalars"]:
        assert len(long_probe.Scalars(name)) > 1, name


@pytest.fixture(scope="module")
def long_probe_directory(tmp_path_factory: pytest.TempPathFactory, report: InitReport) -> Path:
    """A probe with enough samples for a drift index and for confidence limits."""
    directory = tmp_path_factory.mktemp("log_dir")
    values = {"net.0": series(seed=1), "net.2": series(seed=2), "head": series(seed=3)}
    values["head"][100] = math.nan
    samples = (WeightSample("net.0", 0.2, np.linspace(-1, 1, 50), np.linspace(-2, 2, 50)),)
    write_probe_run(directory, replace(report_of(report, values), weight_samples=samples))
    return directory / "probe"


@pytest.fixture(scope="module")
def long_probe(long_probe_directory: Path) -> EventAccumulator:
    return events(long_probe_directory)


def leading(directory: Path) -> dict[str, EventAccumulator]:
    """The runs below that of a probe, by name."""
    return {path.name: events(path) for path in sorted(directory.iterdir()) if path.is_dir()}


def test_every_logged_tag_is_documented_and_every_documented_tag_is_logged(
    long_probe: EventAccumulator,
) -> None:
    tags = long_probe.Tags()
    logged = {*tags["scalars"], *tags["tensors"], *tags["images"]} - {"custom_scalars__config__"}
    assert not [name for name in logged if not documented(PROBE_TAGS).fullmatch(name)]
    for entry in PROBE_TAGS:
        assert any(documented((entry,)).fullmatch(name) for name in logged), entry


def stored_layout(run: EventAccumulator) -> layout_pb2.Layout:
    stored = layout_pb2.Layout()
    (config,) = run.Tensors("custom_scalars__config__")
    stored.ParseFromString(config.tensor_proto.string_val[0])
    return stored


def test_each_layer_to_look_at_first_has_a_run_of_its_own(long_probe_directory: Path) -> None:
    """TensorBoard colours curves by run."""
    runs = leading(long_probe_directory)
    # The head has no drift index, and is known for half of the probe only.
    assert list(runs) == ["1_net.0", "2_net.2", "3_head", "tolerance_0.2"]
    curve = runs["1_net.0"].Scalars(VARIANCE)
    whole = events(long_probe_directory).Scalars("OptimalVarianceInit/variance/net.0")
    assert [x.step for x in curve] == [x.step for x in whole]
    assert [x.value for x in curve] == pytest.approx([x.value / 0.02 for x in whole])
    drift = events(long_probe_directory).Scalars("OptimalVarianceInit/drift/net.0")
    of_run = runs["1_net.0"].Scalars(DRIFT)
    assert [(x.step, x.value) for x in of_run] == [
        (x.step, pytest.approx(abs(x.value))) for x in drift if math.isfinite(x.value)
    ]


def test_both_charts_of_the_layout_find_the_curves(long_probe_directory: Path) -> None:
    (category,) = stored_layout(events(long_probe_directory)).category
    assert category.title == "OptimalVarianceInit"
    runs = leading(long_probe_directory)
    for chart, expected in zip(category.chart, (3, 4), strict=True):
        (pattern,) = chart.multiline.tag
        tags = [name for run in runs.values() for name in run.Tags()["scalars"]]
        assert sum(bool(re.match(pattern, name)) for name in tags) == expected
    # And nothing of the probe's own run, where every layer would have the same colour.
    assert not [name for name in events(long_probe_directory).Tags()["scalars"] if "glance" in name]


def test_the_tolerance_has_more_points_than_a_layer_has(long_probe_directory: Path) -> None:
    """Else TensorBoard takes the line for an outlier, and leaves it out of view."""
    runs = leading(long_probe_directory)
    line, drift = (runs[name].Scalars(DRIFT) for name in ("tolerance_0.2", "1_net.0"))
    assert [x.step for x in line] == [0, *(x.step for x in drift)]
    assert [x.value for x in line] == pytest.approx([0.2] * len(line))


def test_at_most_six_layers_have_runs_and_their_names_are_safe(
    tmp_path: Path, report: InitReport
) -> None:
    names = [f"block[{i}]/σ {i}" for i in range(20)]
    history = VarianceHistory((0, 5), tuple(names), ((0.1, 0.2),) * 20, ((math.nan,) * 2,) * 20)
    layers = tuple(replace(report.layers[0], name=name) for name in names)
    write_probe_run(tmp_path, replace(report, layers=layers, history=history))
    runs = [path.name for path in (tmp_path / "probe").iterdir() if path.is_dir()]
    assert sorted(runs) == [f"{i + 1}_block_{i}____{i}" for i in range(6)]


def test_the_settings_are_hyperparameters_without_an_experiment_or_a_metric(
    tmp_path: Path, report: InitReport
) -> None:
    write_probe_run(tmp_path, report)
    (file,) = (tmp_path / "probe").glob("events*")
    values = [
        value
        for event in map(Event.FromString, RawEventFileLoader(str(file)).Load())
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    assert [value.tag for value in values] == ["_hparams_/session_start_info"]
    content = HParamsPluginData.FromString(values[0].metadata.plugin_data.content)
    stored = {name: v.number_value for name, v in content.session_start_info.hparams.items()}
    assert stored == {
        "OptimalVarianceInit.max_probe_steps": 1000.0,
        "OptimalVarianceInit.limit": math.inf,
    }
    assert "hp_metric" not in events(tmp_path / "probe").Tags()["scalars"]


def test_a_second_probe_does_not_write_into_the_run_of_the_first(
    tmp_path: Path, report: InitReport
) -> None:
    for step in (7, 3):
        history = VarianceHistory((step,), ("head",), ((0.02,),), ((math.nan,),))
        write_probe_run(tmp_path, replace(report, history=history))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["probe", "probe_2"]
    steps = [
        [row.step for row in events(tmp_path / run).Scalars("OptimalVarianceInit/kl/head")]
        for run in ("probe", "probe_2")
    ]
    assert steps == [[7], [3]]


def test_without_matplotlib_there_are_no_figures_and_nothing_fails(
    tmp_path: Path, report: InitReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "report_images", lambda report: {})
    write_probe_run(tmp_path, report)
    tags = events(tmp_path / "probe").Tags()
    assert tags["images"] == []
    assert "OptimalVarianceInit/variance/net.0" in tags["scalars"]
    assert "OptimalVarianceInit/report/text_summary" in tags["tensors"]


def test_a_large_model_stays_within_5_megabytes_and_is_fast(
    tmp_path: Path, large_report: Callable[[int], InitReport]
) -> None:
    report = large_report(500)
    steps = tuple(range(0, 2001, 2))
    names = tuple(layer.name for layer in report.layers)
    variances = tuple((layer.variance,) * len(steps) for layer in report.layers)
    drifts = ((math.nan,) * 51 + (0.05,) * (len(steps) - 51),) * 500
    history = VarianceHistory(steps, names, variances, drifts)
    start = time.process_time()
    write_probe_run(tmp_path, replace(report, history=history))
    assert time.process_time() - start < 5.0
    assert sum(path.stat().st_size for path in tmp_path.rglob("events*")) < 5e6
    (file,) = (tmp_path / "probe").glob("events*")
    # Read without an accumulator, which takes seconds for so many points.
    rows = [
        event
        for event in map(Event.FromString, RawEventFileLoader(str(file)).Load())
        if any("/variance/" in value.tag for value in event.summary.value)
    ]
    assert (rows[0].step, rows[-1].step) == (0, 2000)
    assert len(rows) >= 20
    assert all(len(row.summary.value) in (1000, 1500) for row in rows)


def csv_rows(logger: CSVLogger) -> list[dict[str, Any]]:
    logger.save()
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_outcome_is_one_row_for_a_csv_logger_and_nothing_for_tensorboard(
    tmp_path: Path, report: InitReport
) -> None:
    table, board = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")
    log_outcome([table, board, DummyLogger()], report)
    (row,) = csv_rows(table)
    assert row["step"] == "0"
    assert float(row["OptimalVarianceInit/sigma0/net.0"]) == math.sqrt(0.03)
    assert float(row["OptimalVarianceInit/ratio/net.2"]) == pytest.approx(1.005)
    # head has no ratio: its V is not finite
    assert "OptimalVarianceInit/ratio/head" not in row
    assert not (tmp_path / "board").exists()


@pytest.fixture
def plan() -> InitPlan:
    """Two linear layers, of which the second has been measured beside a prediction."""
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    planned = fractional_moment_init_(model, example_input=torch.ones(4, 8), dry_run=True)
    first, second = (row.weight.name for row in planned.rows)
    log_norms = (
        LayerLogNorm(first, -0.02, math.nan, math.nan, None),
        LayerLogNorm(second, -0.03, -0.01, 0.1, first),
    )
    return replace(planned, log_norms=log_norms)


def test_a_plan_is_one_row_for_a_csv_logger_a_table_and_a_figure_for_tensorboard(
    tmp_path: Path, plan: InitPlan
) -> None:
    table, board = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")
    log_plan([table, board, DummyLogger()], plan)
    (row,) = csv_rows(table)
    found = {name: float(value) for name, value in row.items() if name not in ("step", "epoch")}
    assert found == pytest.approx(
        {
            "FractionalMomentInit/std/0": plan.rows[0].std,
            "FractionalMomentInit/std/2": plan.rows[1].std,
            "FractionalMomentInit/log_norm/0": -0.02,
            "FractionalMomentInit/log_norm/2": -0.03,
            "FractionalMomentInit/log_norm_predicted/2": -0.01,
        }
    )
    board.finalize("success")
    run = events(Path(board.log_dir))
    assert not [name for name in run.Tags()["scalars"] if "Init" in name]
    (text,) = run.Tensors("FractionalMomentInit/plan/text_summary")
    assert (text.step, text.tensor_proto.string_val[0].decode()) == (0, plan.markdown(100))
    assert run.Tags()["images"] == ["FractionalMomentInit/figure/first_weights"]
    assert all(documented(FRACTIONAL_MOMENT_TAGS).fullmatch(n) for n in run.Tags()["images"])


def test_no_logger_is_no_error(report: InitReport, plan: InitPlan) -> None:
    log_outcome([], report)
    log_plan([], plan)


def test_only_rank_zero_logs(
    tmp_path: Path, report: InitReport, plan: InitPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    table = CSVLogger(tmp_path)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log_outcome([table], report)
    log_plan([table], plan)
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert table.experiment.metrics == []


def test_divergences_are_those_of_the_theory() -> None:
    variances = [0.02, 0.0200001, 0.5, 1e-8, 0.0, math.nan, math.inf, 0.02]
    initial = [0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.0]
    found = divergences(variances, initial)
    exact = [kl_per_weight(v, v0) for v, v0 in zip(variances[:4], initial[:4], strict=True)]
    assert found[:4] == pytest.approx(exact, rel=1e-5, abs=1e-16)
    assert all(map(math.isnan, found[4:]))
