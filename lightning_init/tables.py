"""Plain text, Markdown and HTML tables out of rows of strings, and what stands around them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
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


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align rows in columns separated by two blanks, without trailing blanks.

    >>> print(text_table(("layer", "V"), [("net.0", "0.25"), ("head", "1")]))
    layer  V
    -----  ----
    net.0  0.25
    head   1
    """
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    lines = [list(headers), ["-" * wide for wide in widths], *cells]
    return "\n".join(
        "  ".join(cell.ljust(wide) for cell, wide in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


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


def grouped(pairs: Iterable[tuple[str, str]], most: int | None = None) -> list[tuple[str, str]]:
    """Each text once, with the names that it holds for.

    >>> grouped([("net.0", "frozen"), ("net.2", "frozen"), ("head", "tied")])
    [('net.0, net.2', 'frozen'), ('head', 'tied')]

    Args:
        pairs: Name and text.
        most: Names to write out; more of them are counted.
    """
    found: dict[str, list[str]] = {}
    for name, text in pairs:
        found.setdefault(text, []).append(name)
    return [(_listed(names, most), text) for text, names in found.items()]


def _listed(names: Sequence[str], most: int | None) -> str:
    shown = names if most is None else names[:most]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def left_out_lines(pairs: Sequence[tuple[str, str]], every: bool) -> list[str]:
    """What takes no part: counted by reason, or listed.

    >>> left_out_lines([("norm", "scale of a norm"), ("0.bias", "bias of 0")], every=False)
    ['Left out: scale of a norm (1), bias of a weight that is left out (1).']
    """
    told = [
        (name, "bias of a weight that is left out" if reason.startswith("bias of ") else reason)
        for name, reason in pairs
    ]
    if every:
        return [f"Left out: {names}: {reason}." for names, reason in grouped(told)]
    counts = Counter(reason for _, reason in told)
    said = ", ".join(f"{reason} ({count})" for reason, count in counts.items())
    return [f"Left out: {said}."] if said else []


def banded(value: float, lower: float, upper: float, form: str = ".3g") -> str:
    """A number with its band; a band that rounds to one number is none.

    >>> banded(0.4, 0.3, 0.5, ".2f"), banded(0.031, 0.029, 0.033, ".2f")
    ('0.40 [0.30,0.50]', '0.03')
    """
    if math.isnan(value):
        return "-"
    shown, low, high = (
        f"{one:{form}}" if one < 99 or form != ".2f" else ">99" for one in (value, lower, upper)
    )
    return shown if shown == low == high or math.isnan(lower) else f"{shown} [{low},{high}]"
