from __future__ import annotations

import io
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from lightning_init import InitReport, fractional_moment_init_
from lightning_init.initialization.plan import InitPlan
from lightning_init.pages import Column, Page, fit, print_rich
from lightning_init.recipes.recipe import InitRecipe


def page(names: tuple[str, ...], folds: bool = False) -> Page:
    columns = (
        Column("layer", names),
        Column("V", ("0.25",) * len(names)),
        Column("empty", ("-",) * len(names), 9),
        Column("remark", ("some words",) * len(names), 2),
        Column("first to go", ("many more words",) * len(names), 3),
    )
    return Page("One sentence.", columns, ("A fact.",), ("A remark.",), folds)


def test_columns_leave_in_their_order_and_are_named() -> None:
    wide, narrow, narrowest = (page(("net.0",)).text(width) for width in (80, 36, 20))
    assert wide.splitlines()[2] == "layer  V     remark      first to go"
    assert narrow.splitlines()[2] == "layer  V     remark"
    assert "No room for first to go: `full()` has them." in narrow.replace("\n  ", " ")
    assert narrowest.splitlines()[2] == "layer  V"
    assert "empty" not in wide


def test_a_full_page_continues_columns_below() -> None:
    lines = page(("net.0",), folds=True).text(20).splitlines()
    assert [line for line in lines if line.startswith("layer")] == [
        "layer  V",
        "layer  remark",
        "layer  first to go",
    ]
    assert not [line for line in lines if line.startswith("No room")]


_WORDS = st.sampled_from(["encoder", "layers", "0", "1", "11", "attention", "self_attn", "q", "k"])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(_WORDS, min_size=1, max_size=9).map(".".join), min_size=1, unique=True),
    st.sampled_from([80, 100, 160]),
)
def test_a_table_fits_and_no_two_names_look_alike(names: list[str], width: int) -> None:
    shown, _ = fit(page(tuple(names)).columns, width, gap=2)
    assert len(set(shown[0].cells)) == len(names)
    assert max(map(len, page(tuple(names)).text(width).splitlines())) <= width
    stream = io.StringIO()
    print_rich(page(tuple(names)), Console(file=stream, width=width, force_terminal=False))
    assert max(map(len, stream.getvalue().splitlines())) <= width
    for name in shown[0].cells[:1]:
        assert name in page(tuple(names)).text(width)


def test_rich_takes_no_markup_from_a_name() -> None:
    stream = io.StringIO()
    print_rich(page(("net[red].0",)), Console(file=stream, width=80))
    assert "net[red].0" in stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_gets_rich_and_a_file_plain_text(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    page(("net.0",)).show()
    printed = capsys.readouterr().out
    assert ("┃" in printed) is terminal
    assert ("layer  V" in printed) is not terminal
    assert "One sentence." in printed


def test_without_rich_a_terminal_gets_plain_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    page(("net.0",)).show()
    assert "layer  V" in capsys.readouterr().out


def deep_plan(**settings: Any) -> InitPlan:
    torch.manual_seed(0)
    layers = [part for _ in range(30) for part in (nn.Linear(16, 16), nn.ReLU())]
    example = torch.randn(64, 16)
    return fractional_moment_init_(nn.Sequential(*layers), example_input=example, **settings)


def shown_things(report: InitReport) -> list[Any]:
    return [report, InitRecipe.from_report(report), deep_plan()]


@pytest.mark.parametrize("which", [0, 1, 2], ids=["report", "recipe", "plan"])
def test_all_are_read_in_the_same_ways(which: int, report: InitReport) -> None:
    if which == 1:  # a recipe holds finite variances only
        report = InitReport(report.layers[:2], report.left_out, "Done.", 1, 1, 1, True, 0.0)
    shown = report if which == 0 else InitRecipe.from_report(report) if which == 1 else deep_plan()
    assert str(shown) == shown.table()
    assert len(shown.to_pandas()) == len(shown.records())
    assert shown.plot().axes
    html = shown._repr_html_()
    assert html.count("<table") == html.count("</table>") == 2
    assert "<details>" in html
    lead = shown.table().splitlines()[0]
    assert lead in shown.markdown()
    assert lead in shown.full()
    assert lead in repr(shown)
    assert "\n" not in repr(shown)


def test_html_holds_no_text_as_markup() -> None:
    evil = "<b onload=x>"
    html = Page(evil, (Column(evil, (evil,)),), (evil,), (evil,)).html()
    assert "<b onload" not in html
    assert html.count("&lt;b onload=x&gt;") == 5


def test_a_plan_leads_with_what_it_means_and_has_the_rest_on_request() -> None:
    plan = deep_plan()
    lead, *lines = str(plan).splitlines()
    assert re.fullmatch(
        r"Plan: redraw 30 of 30 weights, typically at 2\.\d+ times their size;"
        r" behind 30 in a row the signal is [\d.]+ times Kaiming's\.",
        lead,
    )
    assert len([line for line in lines if "relu (traced)" in line]) == 16
    assert "... and 14 more weights that change less: `print(plan.full())`." in lines
    assert len([line for line in plan.full().splitlines() if "relu (traced)" in line]) == 29


def test_weights_that_stay_are_counted_by_reason_and_listed_on_request() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 8))
    nn.init.orthogonal_(model[3].weight)
    plan = fractional_moment_init_(model, exclude=["0"])
    assert str(plan).startswith("Plan: nothing to change: 1 of 1 weights stay as they were made.")
    assert "kept (orthogonal): 3" in str(plan)
    assert "scale of a normalization layer (1)" in str(plan)
    assert "Left out: 2: scale of a normalization layer." in plan.full()


def test_a_healthy_plan_passes_and_one_that_vanishes_names_the_way_out() -> None:
    deep_plan(order=0.0).assert_healthy()
    layers = [part for _ in range(200) for part in (nn.Linear(8, 8), nn.ReLU())]
    vanishing = fractional_moment_init_(nn.Sequential(*layers), order=2.0, nonlinearity="relu")
    with pytest.raises(AssertionError, match=r"falls below a tenth with chance .*lower `order`"):
        vanishing.assert_healthy()


def test_a_plan_with_a_warning_is_not_healthy() -> None:
    with pytest.raises(AssertionError, match="the loss of the first batch went from 1 to 9"):
        deep_plan(order=0.0).with_losses(1.0, 9.0).assert_healthy()


def test_a_measurement_far_from_its_prediction_is_not_healthy() -> None:
    plan = deep_plan(order=0.0)
    (last,) = plan.log_norms[-1:]
    far = last.__class__(last.name, last.predicted + 4 * last.sd, last.predicted, last.sd, None)
    moved = InitPlan(plan.rows, plan.left_out, plan.settings, log_norms=(*plan.log_norms[:-1], far))
    with pytest.raises(AssertionError, match=rf"in 1 of 30 layers \({last.name}\)"):
        moved.assert_healthy()


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="figures need matplotlib; install it"):
        deep_plan().plot()
