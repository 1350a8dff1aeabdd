from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from lightning_init import fractional_moment_init_
from lightning_init.reporting.report import InitReport
from lightning_init.reporting.text_tab import HEADERS, PLAN_HEADERS, plan_tab, text_tab
from lightning_init.tables import number


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_layer_is_a_row_of_eight_cells(report: InitReport) -> None:
    header, _, *body = rows(text_tab(report))
    assert header == list(HEADERS)
    assert body == [
        ["`net.0`", "0.02", "0.03", "1.5", "0.04 [0.01, 0.07]", "stationary", "0.173", "redrawn"],
        [
            "`net.2`",
            "0.02",
            "0.0201",
            "1 (unchanged)",
            "0.40 [0.30, 0.50]",
            "drifting",
            "0.142",
            "redrawn",
        ],
        ["`head`", "0.02", "-", "-", "-", "invalid", "0.141", "kept"],
    ]


def test_what_would_widen_the_table_stands_below_it(report: InitReport) -> None:
    text = text_tab(report)
    table_ends = text.rindex("|")
    for part in (
        "- Adam has no steady state of this form: a heuristic.",
        "- `head`: not finite from step 7 on",
        "- `embedding`: frozen (requires_grad=False)",
    ):
        assert text.index(part) > table_ends
    said = "**2 redrawn, 1 kept, 1 left out; 1 of 3 layers stationary** over a horizon of 20000"
    assert text.startswith(f"{said} optimizer steps.")


def test_of_many_layers_those_that_change_most_are_shown(
    large_report: Callable[[int], InitReport],
) -> None:
    text = text_tab(large_report(500), max_rows=10)
    names = [row[0] for row in rows(text)[2:]]
    assert names == [f"`encoder.layers.{i}.self_attn.out_proj`" for i in range(499, 489, -1)]
    assert "490 more layers change less." in text


def test_many_weights_that_are_left_out_are_counted(report: InitReport) -> None:
    (left,) = report.left_out
    many = tuple(replace(left, name=f"embedding.{i}") for i in range(50))
    text = text_tab(replace(report, left_out=many))
    assert text.count("frozen (requires_grad=False)") == 20
    assert "- and 30 more" in text


def test_a_report_without_layers_is_text_all_the_same(report: InitReport) -> None:
    text = text_tab(replace(report, layers=(), notes=(), left_out=()))
    assert text.startswith("**no layer took part**")
    assert "Left out" not in text


def test_a_band_that_rounds_to_one_number_is_not_shown(report: InitReport) -> None:
    narrow = replace(report.layers[0], drift_lower=0.0401, drift_upper=0.0402)
    (row,) = rows(text_tab(replace(report, layers=(narrow,))))[2:]
    assert row[4] == "0.04"


def test_a_plan_of_many_weights_is_one_table_in_the_models_order() -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(12)])
    plan = fractional_moment_init_(model, dry_run=True)
    text = plan_tab(plan, max_rows=10)
    header, _, *body = rows(text)
    assert header == list(PLAN_HEADERS)
    assert [row[0] for row in body] == [f"`{i}`" for i in range(10)]
    assert body[0][3] == number(plan.rows[0].std)
    assert "2 more weights; `print(callback.plan)` has them." in text
    assert all(f"- {note}" in text for note in plan.notes)
