from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_init.tables import (
    html_table,
    markdown_table,
    number,
    shorten,
    text_table,
)


@settings(max_examples=50)
@given(st.text(max_size=60), st.integers(5, 40))
def test_shorten_keeps_both_ends_and_never_exceeds_the_width(text: str, width: int) -> None:
    short = shorten(text, width)
    assert len(short) == min(len(text), width)
    if len(text) > width:
        head, tail = short.split("...")[0], short[-(width - 3) // 2 :]
        assert text.startswith(head)
        assert text.endswith(tail.replace("...", "")[-1:])
    else:
        assert short == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (1.0, "1"), (1234.5, "1.23e+03"), (math.nan, "-"), (math.inf, "inf")],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


def test_columns_of_a_text_table_are_aligned() -> None:
    lines = text_table(("a", "b", "c"), [("1", "22", "3"), ("1111", "2", "33")]).splitlines()
    assert lines == ["a     b   c", "----  --  --", "1     22  3", "1111  2   33"]


def test_a_line_break_in_a_cell_does_not_break_the_table() -> None:
    assert len(text_table(("a",), [("x\ny",)]).splitlines()) == 3
    assert len(markdown_table(("a",), [("x\ny|z",)]).splitlines()) == 3
    assert r"x y\|z" in markdown_table(("a",), [("x\ny|z",)])


def test_html_is_escaped_and_the_last_cell_of_a_short_row_spans() -> None:
    html = html_table(("a", "b", "c"), [("<script>", "x & y")])
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert '<td colspan="2">x &amp; y</td>' in html
