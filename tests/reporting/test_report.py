from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from lightning_init.reporting.records import LayerReport
from lightning_init.reporting.rendering import headline
from lightning_init.reporting.report import InitReport
from lightning_init.stationarity.decision import Verdict


def test_ratio_and_its_logarithm(layer: LayerReport) -> None:
    assert layer.ratio == pytest.approx(1.5)
    assert layer.log_ratio == pytest.approx(math.log(1.5))


@pytest.mark.parametrize(
    ("initial", "variance"), [(0.0, 0.1), (0.1, math.nan), (math.nan, 0.1), (0.0, 0.0)]
)
def test_a_ratio_that_does_not_exist_is_nan_and_not_unchanged(
    layer: LayerReport, initial: float, variance: float
) -> None:
    layer = replace(layer, initial_variance=initial, variance=variance)
    assert math.isnan(layer.ratio)
    assert not layer.unchanged


@pytest.mark.parametrize(
    ("log_ratio", "unchanged"),
    [(0.0, True), (0.049, True), (-0.049, True), (0.051, False), (-0.051, False)],
)
def test_unchanged_is_two_sided_in_the_logarithm(
    layer: LayerReport, log_ratio: float, unchanged: bool
) -> None:
    layer = replace(layer, variance=layer.initial_variance * math.exp(log_ratio))
    assert layer.unchanged is unchanged


def test_a_report_is_frozen(report: InitReport) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.converged = True  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        report["net.0"].sigma0 = 1.0  # type: ignore[misc]


def test_a_layer_is_found_by_its_name(report: InitReport) -> None:
    assert report["net.2"] is report.layers[1]
    with pytest.raises(
        KeyError, match=r"no layer named 'net.3' in this report; layers: net.0, net.2"
    ):
        report["net.3"]


def test_drifting_layers(report: InitReport) -> None:
    assert report.drifting_layers == ("net.2",)


def test_history_by_layer(report: InitReport) -> None:
    assert report.history.variance("net.2") == (0.02, 0.0199, 0.0201)
    assert report.history.drift("net.0")[1:] == (0.1, 0.04)


def test_the_table_says_what_happened_to_every_layer(report: InitReport) -> None:
    lines = {line.split()[0]: line for line in report.table().splitlines() if line}
    assert "1.5 " in lines["net.0"]
    assert lines["net.2"].split()[3] == "1"
    assert "drifting" in lines["net.2"]
    assert "0.40 [0.30,0.50]" in lines["net.2"]
    assert "kept" in lines["head"]
    assert "Left out: frozen (requires_grad=False) (1)." in str(report).splitlines()
    assert "Left out: embedding: frozen (requires_grad=False)." in report.full()
    assert "note: head: not finite from step 7 on" in str(report)
    assert "Adam has no steady state" in str(report)
    assert "The budget of 1000 probe steps was spent." in str(report)
    assert "1 of 3 layers stationary" in str(report)
    assert "horizon of 20000" in str(report)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_fits_its_width_with_long_names_and_extreme_numbers(
    width: int, layer: LayerReport
) -> None:
    worst = replace(
        layer,
        name="module." * 20 + "q",
        shape=(10000, 10000, 10000, 10000),
        variance=1.234567e-10,
        initial_variance=1.24e-10,
        drift_index=98.99,
        drift_lower=12.345,
        drift_upper=1e300,
        sigma0=1.11e-5,
        verdict=Verdict.INCONCLUSIVE,
    )
    other = replace(worst, name=worst.name.replace("module.q", "module.k"))
    report = InitReport((worst, other), (), "Done.", 1, 1, 1, False, 0.0)
    for text in (report.table(width=width), report.full(width)):
        assert max(map(len, text.splitlines())) <= width
    rows = [line.split()[0] for line in report.table(width=width).splitlines()]
    assert len({name for name in rows if name.startswith("mod")}) == 2


def test_a_long_table_shows_the_largest_changes_and_counts_the_rest(
    large_report: Callable[[int], InitReport],
) -> None:
    lines = large_report(500).table().splitlines()
    rows = [line for line in lines if "out_proj  " in line]
    assert len(rows) == 16
    assert "1.5 " in rows[0]
    assert "... and 484 more layers that change less: `print(report.full())`." in lines
    full = [x for x in large_report(500).full(100).splitlines() if x.startswith("encoder.")]
    assert full[0].split()[0] == "encoder.layers.0.self_attn.out_proj"
    assert len({row.split()[0] for row in full}) == 500
    assert len([x for x in large_report(500).table(7).splitlines() if "out_proj  " in x]) == 7


def test_of_a_long_table_what_has_no_ratio_comes_first(report: InitReport) -> None:
    assert report.table(max_rows=1).splitlines()[6].startswith("head")


def test_the_full_table_keeps_the_order_of_the_model(report: InitReport) -> None:
    rows = report.full().splitlines()[6:9]
    assert [row.split()[0] for row in rows] == ["net.0", "net.2", "head"]
    rows = report.table().splitlines()[6:9]
    assert [row.split()[0] for row in rows] == ["head", "net.0", "net.2"]


def test_every_column_has_its_own_values(report: InitReport, layer: LayerReport) -> None:
    told = replace(layer, forgotten_share=0.11, learning_rate=0.22, implied_variance=0.33)
    lines = replace(report, layers=(told,)).markdown().splitlines()
    header, _, row = (line.strip("| ").split(" | ") for line in lines if line.startswith("|"))
    cells = dict(zip(header, row, strict=True))
    assert cells["forgotten by decay"] == "0.11"
    assert cells["learning rate"] == "0.22"
    assert cells["implied V"] == "0.33"


def test_a_band_that_rounds_to_one_number_is_none(report: InitReport, layer: LayerReport) -> None:
    sharp = replace(layer, drift_lower=0.038, drift_upper=0.042)
    row = replace(report, layers=(sharp,)).table().splitlines()[6]
    assert " 0.04 " in row
    assert "[" not in row


def test_a_stationary_layer_has_its_reason_too(report: InitReport) -> None:
    said = "why: net.0: stationary, because V moves by at most 7% over the horizon"
    assert f"{said}." in report.table()
    told = replace(report, settings=(("tolerance", 0.1),))
    assert f"{said}, within the tolerance of 10%." in told.table()


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        (("unchanged",) * 3, "nothing to change: 3 of 3 layers within 0.5 %"),
        (
            ("redrawn", "unchanged", "kept"),
            "1 of 3 layers redrawn, 1 unchanged (within 0.5 % of V)",
        ),
        (("kept",) * 3, "nothing was changed, 3 kept (not settled)"),
    ],
)
def test_the_headline_says_what_matters(
    actions: tuple[str, ...], said: str, report: InitReport, layer: LayerReport
) -> None:
    rows = tuple(
        replace(layer, variance=0.0201, action=action, note="not settled: initial weights kept")
        for action in actions
    )
    assert headline(replace(report, layers=rows)).startswith(said)


def test_settled_and_unchanged_layers_pass_and_others_are_named(
    report: InitReport, layer: LayerReport
) -> None:
    still = replace(layer, name="net.2", verdict=Verdict.INCONCLUSIVE, action="unchanged")
    replace(report, layers=(layer, still)).assert_settled()
    moving = replace(layer, name="head", verdict=Verdict.DRIFTING, reason="It moves. Wait.")
    said = "1 of 2 layers had not settled after 1000 probe steps (head). head: It moves. Wait."
    with pytest.raises(AssertionError, match=re.escape(said)):
        replace(report, layers=(layer, moving)).assert_settled()
    with pytest.raises(AssertionError, match="no layer took part"):
        replace(report, layers=()).assert_settled()
    with pytest.raises(AssertionError, match="interrupted after 1 000 probe steps"):
        replace(report, interrupted=True).assert_settled()
    lost = replace(layer, verdict=Verdict.INVALID, reason="Lower the learning rate.")
    with pytest.raises(AssertionError, match=r"the probe diverged.* Lower the learning rate\."):
        replace(report, divergence="the loss rose", layers=(lost,)).assert_settled()


def test_a_report_without_layers_can_be_read() -> None:
    report = InitReport((), (), "No weight takes part.", 0, 1, 1, True, 0.0)
    for text in (report.table(), report.markdown(), report._repr_html_()):
        assert "No weight takes part." in text
    assert len(report.to_pandas()) == 0


def test_markdown_has_one_row_per_layer_and_full_names(
    large_report: Callable[[int], InitReport], report: InitReport
) -> None:
    rows = [x for x in large_report(60).markdown().splitlines() if x.startswith("| encoder")]
    assert len(rows) == 60
    assert rows[3].split(" | ")[0] == "| encoder.layers.3.self_attn.out_proj"
    columns = {x.count(" | ") for x in report.markdown().splitlines() if x.startswith("|")}
    assert len(columns) == 1


def test_html_escapes_names(report: InitReport, layer: LayerReport) -> None:
    hostile = replace(report, layers=(replace(layer, name="<img src=x>"),))
    assert "<img" not in hostile._repr_html_()
    assert "&lt;img src=x&gt;" in hostile._repr_html_()


def test_to_dict_is_strict_json_and_complete(report: InitReport) -> None:
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    fields = {field.name for field in dataclasses.fields(InitReport)}
    assert set(content) == fields - {"weight_samples"} | {"guard_steps", "total_steps"}
    first, _, last = content["layers"]
    assert first["ratio"] == pytest.approx(1.5)
    assert first["verdict"] == "stationary"
    assert first["shape"] == [64, 32]
    assert last["variance"] is None
    assert last["ratio"] is None
    assert content["left_out"][0]["reason"] == "frozen (requires_grad=False)"
    assert content["history"]["variances"][2] == [0.02, None, None]
    assert content["settings"] == {"max_probe_steps": 1000, "exclude": ["*.norm"], "limit": None}


def test_to_pandas(report: InitReport) -> None:
    frame = report.to_pandas()
    assert list(frame.index) == ["net.0", "net.2", "head"]
    assert frame.loc["net.0", "ratio"] == pytest.approx(1.5)
    assert frame.loc["net.2", "verdict"] == "drifting"


def test_without_pandas_one_line_says_what_to_install(
    report: InitReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="`to_pandas` needs pandas; install it"):
        report.to_pandas()


def test_plot_draws_every_layer_and_marks_those_that_fired(report: InitReport) -> None:
    (axes,) = report.plot().axes
    curves = [line for line in axes.lines if line.get_gid() is not None]
    marks = [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "o"]
    assert {line.get_gid() for line in curves} == {"net.0", "net.2", "head"}
    assert sorted(marks) == [[], [], [300]]
