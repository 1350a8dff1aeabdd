"""Plain text, Markdown and HTML tables out of rows of strings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape


def shorten(text: str, width: int) -> str:
    """Cut the middle out of a text that is too wide, so that both ends stay readable.

    >>> shorten("encoder.layers.11.self_attn.out_proj", 20)
    'encoder.l...out_proj'
    """
    if len(text) <= width:
        return text
    kept = width - 3
    return text[: kept - kept // 2] + "..." + text[len(text) - kept // 2 :]


def shorten_all(texts: Sequence[str], width: int) -> dict[str, str]:
    """Shorten dotted names so that different ones stay different.

    Where the middle tells them apart, all words but the last are cut and numbers stay.

    >>> shorten_all(["encoder.block.3.attention.output", "encoder.block.4.attention.output"], 20)
    ... # doctest: +NORMALIZE_WHITESPACE
    {'encoder.block.3.attention.output': 'enc.blo.3.att.output',
     'encoder.block.4.attention.output': 'enc.blo.4.att.output'}
    """
    short = {text: shorten(text, width) for text in texts}
    for letters in range(width // 2, 0, -1):
        uses = Counter(short.values())
        alike = [text for text in short if uses[short[text]] > 1]
        for text in alike:
            *words, last = text.split(".")
            cut = ".".join([*(w if w.isdigit() else w[:letters] for w in words), last])
            short[text] = cut if len(cut) <= width else shorten(cut, width)
    uses = Counter(short.values())
    left = [text for text in short if uses[short[text]] > 1]
    short.update({t: f"{shorten(t, width - 5)} #{place + 1}" for place, t in enumerate(left)})
    return short


def number(value: float, digits: int = 3) -> str:
    """Format a float with a few significant digits; what is not known is a dash.

    >>> number(0.0123456), number(1.5e-7), number(float("nan"))
    ('0.0123', '1.5e-07', '-')
    """
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def shape_text(shape: Sequence[int]) -> str:
    """Write a shape as one word.

    >>> shape_text((64, 3, 7, 7))
    '64x3x7x7'
    """
    return "x".join(map(str, shape)) or "scalar"


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]], width: int = 40) -> str:
    """Align rows in columns separated by two blanks.

    A row may hold fewer cells than there are headers: its last cell is then a remark, which runs on
    over the remaining columns and does not widen them.

    Args:
        headers: One word per column.
        rows: Cells, at most one per header.
        width: Widest column, in characters; longer cells are shortened in their middle.

    Returns:
        Lines joined by newlines, without trailing blanks.

    >>> print(text_table(("layer", "V", "verdict"), [("net.0", "0.25", "stationary"),
    ...                                              ("head", "left out: frozen")]))
    layer  V     verdict
    -----  ----  ----------
    net.0  0.25  stationary
    head   left out: frozen
    """
    cells = [_fit(row, len(headers), width) for row in rows]
    widths = [len(header) for header in headers]
    for row in cells:
        aligned = row if len(row) == len(headers) else row[:-1]
        for column, cell in enumerate(aligned):
            widths[column] = max(widths[column], len(cell))
    lines = [list(headers), ["-" * wide for wide in widths], *cells]
    return "\n".join(_line(line, widths) for line in lines)


def _fit(row: Sequence[str], columns: int, width: int) -> list[str]:
    aligned = len(row) if len(row) == columns else len(row) - 1
    cells = [" ".join(cell.split()) for cell in row]
    return [shorten(cell, width) if i < aligned else cell for i, cell in enumerate(cells)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(wide) for cell, wide in zip(cells, widths, strict=False)).rstrip()


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Write rows as a GitHub-flavoured Markdown table; short rows are filled up with empty cells.

    >>> print(markdown_table(("layer", "V"), [("a|b", "0.25"), ("head",)]))
    | layer | V |
    | --- | --- |
    | a\|b | 0.25 |
    | head |  |
    """
    lines = [list(headers), ["---"] * len(headers)]
    for row in rows:
        cells = [" ".join(cell.split()).replace("|", "\\|") for cell in row]
        lines.append(cells + [""] * (len(headers) - len(cells)))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def html_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write rows as an HTML table with every cell escaped; a short row's last cell spans the rest.

    >>> html_table(("layer",), [("<b>",)])
    '<table><thead><tr><th>layer</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(f"<tr>{_html_cells(row, len(headers))}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _html_cells(row: Sequence[str], columns: int) -> str:
    *aligned, last = row
    span = columns - len(aligned)
    opening = f'<td colspan="{span}">' if span > 1 else "<td>"
    return "".join(f"<td>{escape(cell)}</td>" for cell in aligned) + f"{opening}{escape(last)}</td>"
