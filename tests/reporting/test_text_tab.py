from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lightning_init.reporting.report import InitReport
from lightning_init.reporting.text_tab import HEADERS, text_tab


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
    said = "**2 of 3 layers redrawn, 1 kept (not finite from step 7 on); 1 of 3 layers stationary**"
    assert text.startswith(f"{said} over a horizon of 20000 optimizer steps.")


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
