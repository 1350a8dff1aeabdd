"""What a plan, a report and a recipe look like: one page, as text, rich, Markdown and HTML."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from lightning_init.tables import html_table, markdown_table, shorten, shorten_all, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Row = TypeVar("_Row")

MOST_ROWS = 16  # of a page that nobody asked to be full
_NAMES = 28  # characters that layer names keep while columns can go instead
_SHORTEST_NAMES = 12
_CELL = 40
_WITHOUT_TERMINAL = (100, 24)


class Column(NamedTuple):
    """One column of a page.

    Args:
        header: A word or two.
        cells: One text per row.
        leaves: 0 for a column that stays; of the others the largest goes first where it is narrow.
    """

    header: str
    cells: tuple[str, ...]
    leaves: int = 0

    @property
    def width(self) -> int:
        """Characters of the widest cell."""
        return max(len(cell) for cell in (self.header, *self.cells))

    def shortened(self, width: int) -> Column:
        """The column with its cells cut so that no two look alike."""
        short = shorten_all(self.cells, width)
        return self._replace(cells=tuple(short[cell] for cell in self.cells))

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing of any row."""
        return all(cell in ("", "-") for cell in self.cells)


def columns_of(
    rows: Sequence[_Row], cells: Sequence[tuple[str, Callable[[_Row], str], int]]
) -> tuple[Column, ...]:
    """Columns out of rows, each by its header, the text of its cell, and when it leaves."""
    return tuple(Column(header, tuple(map(cell, rows)), leaves) for header, cell, leaves in cells)


@dataclass(frozen=True)
class Page:
    """A sentence, what it rests on, a table, and remarks.

    Args:
        lead: What the reader should take away, in one sentence.
        columns: The table, names first; no rows, no table.
        facts: Lines between the sentence and the table.
        remarks: Lines below the table.
        folds: Whether columns without room are a table of their own below, or are only named.
    """

    lead: str
    columns: tuple[Column, ...] = ()
    facts: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    folds: bool = False

    def text(self, width: int | None = None) -> str:
        """Plain text whose table fits a width.

        Args:
            width: Characters of a line, prose included. By default tables fit the terminal (or
                `COLUMNS`, or 100), and prose is broken where a terminal reads it.
        """
        wide = shutil.get_terminal_size(_WITHOUT_TERMINAL).columns if width is None else width
        breaks = width is not None or sys.stdout.isatty()
        lines = [self.lead, *self.facts]
        for table in self.tables(wide):
            lines.append(text_table([one.header for one in table], _rows(table)))
        lines += [*self.missing(wide), *self.remarks]
        return "\n".join(_broken(line, wide) if breaks else line for line in lines)

    def tables(self, width: int, gap: int = 2) -> list[list[Column]]:
        """The table in a width, and what it has no room for as further ones, if the page folds."""
        columns = list(self.columns) if self.columns and self.columns[0].cells else []
        names = _NAMES
        if self.folds and columns:
            names = width // 2
            columns[0] = columns[0].shortened(names)  # once, to be alike in all tables
        found = []
        while columns:
            shown, hidden = fit(columns, width, gap, names)
            found.append(shown)
            columns = [columns[0], *hidden] if hidden and self.folds else []
        return found

    def missing(self, width: int, gap: int = 2) -> list[str]:
        """Say which columns have no room."""
        if self.folds or not self.columns or not self.columns[0].cells:
            return []
        hidden = [column.header for column in fit(self.columns, width, gap)[1]]
        return [f"No room for {', '.join(hidden)}: `full()` has them."] if hidden else []

    def markdown(self) -> str:
        """Paragraphs, the table, and the remarks as a list; a full page has every column."""
        shown = [column for column in self.columns if not column.is_empty]
        if shown and not self.folds:  # viewers break the words of a wide table
            shown = [shown[0], *fit(shown, _WITHOUT_TERMINAL[0], 2)[0][1:]]
        parts = [f"**{self.lead}**", "  \n".join(self.facts)]
        parts += [markdown_table([one.header for one in shown], _rows(shown))] if shown else []
        parts.append("\n".join(f"- {remark}" for remark in self.remarks))
        return "\n\n".join(part for part in parts if part)

    def html(self) -> str:
        """The same for a notebook; a table that is too wide scrolls by itself."""
        shown = [column for column in self.columns if not column.is_empty]
        facts = "<br>".join(map(escape, self.facts))
        parts = [f"<p><b>{escape(self.lead)}</b></p>", f"<p>{facts}</p>" if facts else ""]
        if shown:
            table = html_table([one.header for one in shown], _rows(shown))
            parts.append(f'<div style="overflow-x:auto">{table}</div>')
        listed = "".join(f"<li>{escape(remark)}</li>" for remark in self.remarks)
        return "".join(parts) + (f"<ul>{listed}</ul>" if listed else "")

    def show(self) -> None:
        """Print: with rich where it is installed and a terminal reads, else as plain text."""
        if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
            from rich.console import Console

            print_rich(self, Console(highlight=False))
            return
        sys.stdout.write(f"\n{self.text()}\n\n")
        sys.stdout.flush()


def print_rich(page: Page, console: Any) -> None:
    """Print with rich's borders, which take three characters per column."""
    from rich.table import Table
    from rich.text import Text

    console.print()
    console.print(Text(page.lead, style="bold"))
    for fact in page.facts:
        console.print(Text(fact))
    for columns in page.tables(console.width - 4, gap=3):
        table = Table()
        for column in columns:
            table.add_column(Text(column.header), no_wrap=True)
        for row in _rows(columns):
            table.add_row(*map(Text, row))
        console.print(table)
    for remark in (*page.missing(console.width - 4, gap=3), *page.remarks):
        console.print(Text(remark))
    console.print()


def fit(
    columns: Sequence[Column], width: int, gap: int, name_width: int = _NAMES
) -> tuple[list[Column], list[Column]]:
    """Columns that fit a width, names shortened so that no two look alike; and those that do not.

    Columns that say nothing are neither. Names keep `name_width` characters while a column may go;
    one column beside them always stays.
    """
    names, *others = columns
    shown = [
        column._replace(cells=tuple(shorten(cell, _CELL) for cell in column.cells))
        for column in others
        if not column.is_empty
    ]

    def room() -> int:
        return width - sum(column.width + gap for column in shown)

    needed = min(names.width, name_width)
    while room() < needed and len(shown) > 1 and any(column.leaves for column in shown):
        shown.remove(max(shown, key=lambda column: column.leaves))
    headers = {column.header for column in shown}
    hidden = [one for one in others if not one.is_empty and one.header not in headers]
    return [names.shortened(max(room(), _SHORTEST_NAMES)), *shown], hidden


def _rows(columns: Sequence[Column]) -> list[tuple[str, ...]]:
    return list(zip(*(column.cells for column in columns), strict=True))


def _broken(line: str, width: int) -> str:
    """Break prose; the lines of a table, which fit, have no word that is too long."""
    if "\n" in line or len(line) <= width:
        return line
    return textwrap.fill(line, width, subsequent_indent="  ", break_on_hyphens=False)


class Readable(ABC):
    """The ways in which a plan, a report and a recipe are read: the same for all of them."""

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.page(0).lead}>"

    @abstractmethod
    def page(self, max_rows: int | None = MOST_ROWS) -> Page:
        """What there is to read.

        Args:
            max_rows: Most layers to show, those that change most first; None for all of them in the
                model's order, with every column and everything that was left out by name.
        """

    @abstractmethod
    def records(self) -> list[dict[str, Any]]:
        """Name and values of every layer, in the model's order."""

    @abstractmethod
    def plot(self) -> Figure:
        """Draw it.

        Raises:
            ImportError: matplotlib is not installed.
        """

    def table(self, max_rows: int = MOST_ROWS, width: int | None = None) -> str:
        """Plain text: the sentence, and the layers that change most.

        Columns without room go in a stated order, and a line names them; see `Page.text`.
        """
        return self.page(max_rows).text(width)

    def full(self, width: int | None = None) -> str:
        """Plain text of every layer, every column, and every parameter that is left out."""
        return self.page(None).text(width)

    def markdown(self, max_rows: int | None = None) -> str:
        """Markdown with every column; `max_rows` as in `page`."""
        page = self.page(None)
        return (page if max_rows is None else self.page(max_rows)).markdown()

    def _repr_html_(self) -> str:
        rest = f"<details><summary>Everything</summary>{self.page(None).html()}</details>"
        return f'<div style="max-width:60em">{self.page().html()}{rest}</div>'

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with one row per layer, indexed by layer name.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")
        except ImportError:
            raise ImportError(
                "`to_pandas` needs pandas; install it with `pip install pandas`, or use `str`."
            ) from None
        rows = self.records()
        return pandas.DataFrame(rows).set_index("name") if rows else pandas.DataFrame()
