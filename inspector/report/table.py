"""Rows of text as an aligned table that fits a width, or as a complete plain one."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from inspector.checkpoint.text import shorten
from inspector.report.fitting import GAP, fit_columns

__all__ = ["TextColumn", "render_table", "wrapped"]


@dataclass(frozen=True, slots=True)
class TextColumn:
    """One column of a table.

    Attributes:
        title: Its head.
        align: `left` or `right`.
        min_width: Cells it may be shortened to; None if it must stay whole.
        priority: 0 stays always; the highest number is dropped first where it gets narrow.
    """

    title: str
    align: Literal["left", "right"] = "left"
    min_width: int | None = None
    priority: int = 0


@dataclass(frozen=True, slots=True)
class _Span:
    """A column with its cells known: those that may be shortened share what is there."""

    place: int
    least: int
    most: int
    column: TextColumn

    @property
    def flex(self) -> int:
        return int(self.least < self.most)

    @property
    def priority(self) -> int:
        return self.column.priority


def wrapped(text: str, width: int | None, first: str = "", later: str = "") -> list[str]:
    """Lines of at most `width` cells (None: one line), each after what indents it.

    No word is broken at its hyphens: a name or an option could not be copied then.
    """
    if width is None:
        return [first + text]
    return textwrap.wrap(
        text,
        max(len(first) + 18, width),
        initial_indent=first,
        subsequent_indent=later,
        break_on_hyphens=False,
    )


def _cells(text: str) -> int:
    """The cells that printable text takes."""
    if text.replace("…", ".").isascii():
        return len(text)
    from rich.cells import cell_len  # lazy: most names are ASCII

    return cell_len(text)


def _shortened(text: str, width: int) -> str:
    if text.isascii():
        return shorten(text, width)
    from rich.cells import get_character_cell_size  # lazy: as above

    return shorten(text, width, "middle", get_character_cell_size)


def render_table(
    columns: Sequence[TextColumn], rows: Iterable[Sequence[str]], width: int | None = None
) -> list[str]:
    """The lines of a table, head first; empty if there are no rows.

    Args:
        columns: Its columns.
        rows: Printable cells.
        width: Cells it may take; None for a complete table whatever its width.
    """
    cells = [list(row) for row in rows]
    if not cells:
        return []
    widths = [
        max(len(column.title), *(_cells(row[i]) for row in cells))
        for i, column in enumerate(columns)
    ]
    spans = [
        _Span(i, most if column.min_width is None else min(column.min_width, most), most, column)
        for i, (column, most) in enumerate(zip(columns, widths, strict=True))
    ]
    shown = [(s, s.most) for s in spans] if width is None else fit_columns(spans, width)
    lines = []
    for row in [[column.title for column in columns], *cells]:
        parts = []
        for span, cells_wide in shown:
            text = _shortened(row[span.place], cells_wide)
            space = " " * (cells_wide - _cells(text))
            parts.append(space + text if span.column.align == "right" else text + space)
        lines.append((" " * GAP).join(parts).rstrip())
    return lines
