from __future__ import annotations

import csv
import math
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from probe_series import report_of, series
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lightning_init.reporting import figures
from lightning_init.reporting.charts import layout
from lightning_init.reporting.report import InitReport
from lightning_init.reporting.tags import (
    FRACTIONAL_MOMENT_TAGS,
    PROBE_TAGS,
    TOLERANCE,
    tag,
)
from lightning_init.reporting.tensorboard import ProbeWriter, divergences, log_outcome, log_plan
from lightning_init.reporting.text_tab import text_tab
from lightning_init.theory.variance_bound import kl_per_weight

INITIAL = {"net.0": 0.02, "net.2": 0.02, "head": 0.02}


def events(directory: Path) -> EventAccumulator:
    guidance = {"scalars": 0, "tensors": 0, "images": 0}
    return EventAccumulator(str(directory), size_guidance=guidance).Reload()


def write_probe(directory: Path | None, report: InitReport) -> None:
    """Write the history of a report in the way a callback does."""
    history = report.history
    with ProbeWriter(directory, INITIAL, max_steps=1000) as writer:
        for index, step in enumerate(history.steps):
            variances = {name: history.variance(name)[index] for name in history.layers}
            drifts = {name: history.drift(name)[index] for name in history.layers}
            writer.write_row(step, variances, drifts)
        writer.write_outcome(report)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory, report: InitReport) -> EventAccumulator:
    """The TensorBoard run of one probe, read back."""
    directory = tmp_path_factory.mktemp("log_dir")
    write_probe(directory, report)
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
    for layer in INITIAL:
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
    (sigma0,) = probe.Scalars("OptimalVarianceInit/sigma0/net.0")
    (ratio,) = probe.Scalars("OptimalVarianceInit/ratio/net.0")
    assert (sigma0.step, sigma0.value) == (1000, pytest.approx(math.sqrt(0.03)))
    assert (ratio.step, ratio.value) == (1000, pytest.approx(1.5))
    (text,) = probe.Tensors("OptimalVarianceInit/report/text_summary")
    assert text.step == 1000
    assert text.tensor_proto.string_val[0].decode() == text_tab(report, 100)


def test_steps_never_decrease_within_a_tag(long_probe: EventAccumulator) -> None:
    probe = long_probe
    for name in probe.Tags()["scalars"]:
        steps = [row.step for row in probe.Scalars(name)]
        assert steps == sorted(set(steps))


@pytest.fixture(scope="module")
def long_probe(tmp_path_factory: pytest.TempPathFactory, report: InitReport) -> EventAccumulator:
    """A probe with enough samples for a drift index and for confidence limits."""
    directory = tmp_path_factory.mktemp("log_dir")
    values = {"net.0": series(seed=1), "net.2": series(seed=2), "head": series(seed=3)}
    values["head"][100] = math.nan
    write_probe(directory, report_of(report, values))
    return events(directory / "probe")


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


def test_every_chart_of_the_layout_finds_its_series(long_probe: EventAccumulator) -> None:
    lines, bands = stored_layout(long_probe).category
    assert lines.title == "OptimalVarianceInit"
    for chart, quantity in zip(lines.chart, ("variance", "drift", "kl"), strict=True):
        (pattern,) = chart.multiline.tag
        found = {name for name in long_probe.Tags()["scalars"] if re.match(pattern, name)}
        expected = {f"OptimalVarianceInit/{quantity}/{layer}" for layer in INITIAL}
        assert found == expected | ({TOLERANCE} if quantity == "drift" else set())
    assert bands.title == "OptimalVarianceInit: confidence bands"
    titles = [chart.title for chart in bands.chart]
    assert titles == ["V: net.2", "drift: net.2", "V: net.0", "drift: net.0"]


def test_a_band_has_three_series_with_equal_steps(long_probe: EventAccumulator) -> None:
    """TensorBoard draws nothing where the steps differ."""
    _, bands = stored_layout(long_probe).category
    for chart in bands.chart:
        (tags,) = chart.margin.series
        value, lower, upper = (long_probe.Scalars(t) for t in (tags.value, tags.lower, tags.upper))
        assert [x.step for x in value] == [x.step for x in lower] == [x.step for x in upper]
        assert len(value) > 20
        for low, middle, high in zip(lower, value, upper, strict=True):
            assert low.value <= middle.value <= high.value
    drift = long_probe.Scalars("OptimalVarianceInit/drift/net.0")
    band = long_probe.Scalars("OptimalVarianceInit/band/drift/net.0")
    assert [(x.step, x.value) for x in drift] == [(x.step, x.value) for x in band]


def test_the_tolerance_is_as_long_as_the_drift(long_probe: EventAccumulator) -> None:
    line = long_probe.Scalars(TOLERANCE)
    drift = long_probe.Scalars("OptimalVarianceInit/drift/net.0")
    assert [x.step for x in line] == [drift[0].step, drift[-1].step]
    assert [x.value for x in line] == pytest.approx([0.2, 0.2])


def test_the_settings_are_hyperparameters_without_an_experiment_or_a_metric(
    tmp_path: Path, report: InitReport
) -> None:
    write_probe(tmp_path, report)
    (file,) = (tmp_path / "probe").iterdir()
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


def test_a_layout_is_anchored_and_takes_names_literally() -> None:
    charts = layout(["a.b", "c"])["OptimalVarianceInit"]
    ((pattern,),) = [chart[1] for title, chart in charts.items() if title.startswith("V")]
    assert re.match(pattern, "OptimalVarianceInit/variance/a.b")
    for other in ("a_b", "axb", "a.b.c", "cc", ""):
        assert not re.match(pattern, f"OptimalVarianceInit/variance/{other}")
    assert not re.search(pattern, "My/OptimalVarianceInit/variance/c")


def test_a_layout_holds_at_most_12_layers_per_chart_and_keeps_the_order() -> None:
    layers = [f"layer_{i}" for i in range(500)]
    charts = layout(layers)["OptimalVarianceInit"]
    assert len(charts) == 12
    first = charts["V, layers 1-12 of 500 by drift"][1][0]
    matching = [x for x in layers if re.match(first, f"OptimalVarianceInit/variance/{x}")]
    assert matching == layers[:12]


def test_the_first_chart_holds_what_is_unknown_and_what_drifts_most(
    tmp_path: Path, large_report: Callable[[int], InitReport]
) -> None:
    many = large_report(14)
    drifts = [math.nan if i == 13 else i / 100 for i in range(14)]
    layers = tuple(
        replace(layer, name=f"layer_{i}", drift_index=drift)
        for i, (layer, drift) in enumerate(zip(many.layers, drifts, strict=True))
    )
    with ProbeWriter(tmp_path, INITIAL, 10) as writer:
        writer.write_outcome(replace(many, layers=layers))
    stored = stored_layout(events(tmp_path / "probe"))
    pattern = stored.category[0].chart[0].multiline.tag[0]
    first = [i for i in range(14) if re.match(pattern, f"OptimalVarianceInit/variance/layer_{i}")]
    assert first == list(range(2, 14))


def test_nothing_is_written_without_a_directory_or_without_a_row(
    tmp_path: Path, report: InitReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_probe(None, report)
    with ProbeWriter(tmp_path, INITIAL, 10):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_survives_an_error(tmp_path: Path) -> None:
    writer = ProbeWriter(tmp_path, INITIAL, 10)

    def probe() -> None:
        with writer:
            writer.write_row(0, INITIAL)
            raise KeyboardInterrupt

    pytest.raises(KeyboardInterrupt, probe)
    assert "OptimalVarianceInit/kl/head" in events(tmp_path / "probe").Tags()["scalars"]
    writer.write_row(5, INITIAL)
    assert len(list((tmp_path / "probe").iterdir())) == 1, "a closed writer stays closed"


def test_a_second_probe_does_not_write_into_the_run_of_the_first(tmp_path: Path) -> None:
    for step in (7, 3):
        with ProbeWriter(tmp_path, INITIAL, 10) as writer:
            writer.write_row(step, INITIAL)
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
    write_probe(tmp_path, report)
    tags = events(tmp_path / "probe").Tags()
    assert tags["images"] == []
    assert "OptimalVarianceInit/sigma0/net.0" in tags["scalars"]


def test_a_large_model_stays_within_5_megabytes_and_is_fast(
    tmp_path: Path, large_report: Callable[[int], InitReport]
) -> None:
    report = large_report(500)
    values = {layer.name: layer.variance for layer in report.layers}
    seconds = 0.0
    with ProbeWriter(tmp_path, values, max_steps=2000) as writer:
        for step in range(0, 2001, 2):
            start = time.process_time()
            writer.write_row(step, values, values if step > 100 else None, force=step == 2000)
            seconds += time.process_time() - start
        writer.write_outcome(report)
    (file,) = (tmp_path / "probe").iterdir()
    assert file.stat().st_size < 5e6
    assert seconds < 5.0
    # Read without an accumulator, which takes seconds for so many points.
    rows = [
        event
        for event in map(Event.FromString, RawEventFileLoader(str(file)).Load())
        if any("/variance/" in value.tag for value in event.summary.value)
    ]
    assert (rows[0].step, rows[-1].step) == (0, 2000)
    assert len(rows) >= 20
    assert all(len(row.summary.value) in (1000, 1500) for row in rows)


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_row_at_a_step_that_was_written_is_not_repeated(tmp_path: Path, repeats: int) -> None:
    with ProbeWriter(tmp_path, INITIAL, 10) as writer:
        for _ in range(repeats):
            writer.write_row(3, INITIAL, force=True)
    assert len(events(tmp_path / "probe").Scalars("OptimalVarianceInit/kl/head")) == 1


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


def test_a_plan_goes_to_every_logger_in_one_row(tmp_path: Path) -> None:
    table, board = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board")
    rows = [("net.0", 0.1, -0.02, -0.01), ("net.2", 0.2, None, math.nan)]
    log_plan([table, board, DummyLogger()], rows)
    (row,) = csv_rows(table)
    board.finalize("success")
    scalars = events(Path(board.log_dir))
    expected = {
        "FractionalMomentInit/std/net.0": 0.1,
        "FractionalMomentInit/log_norm/net.0": -0.02,
        "FractionalMomentInit/log_norm_predicted/net.0": -0.01,
        "FractionalMomentInit/std/net.2": 0.2,
    }
    assert {name: float(value) for name, value in row.items() if name not in ("step", "epoch")} == (
        expected
    )
    for name, value in expected.items():
        assert documented(FRACTIONAL_MOMENT_TAGS).fullmatch(name)
        (scalar,) = scalars.Scalars(name)
        assert (scalar.step, scalar.value) == (0, pytest.approx(value))
    assert {name for name in scalars.Tags()["scalars"] if "Init" in name} == set(expected)


def test_no_logger_is_no_error(report: InitReport) -> None:
    log_outcome([], report)
    log_plan([], [("net.0", 0.1, None, None)])


def test_only_rank_zero_logs(
    tmp_path: Path, report: InitReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    table = CSVLogger(tmp_path)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log_outcome([table], report)
    log_plan([table], [("net.0", 0.1, None, None)])
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    assert table.experiment.metrics == []


def test_divergences_are_those_of_the_theory() -> None:
    variances = [0.02, 0.0200001, 0.5, 1e-8, 0.0, math.nan, math.inf, 0.02]
    initial = [0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.0]
    found = divergences(variances, initial)
    exact = [kl_per_weight(v, v0) for v, v0 in zip(variances[:4], initial[:4], strict=True)]
    assert found[:4] == pytest.approx(exact, rel=1e-5, abs=1e-16)
    assert all(map(math.isnan, found[4:]))
