"""Rows of text as an aligned table that fits a width, or as a complete plain one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from inspector.checkpoint.text import shorten

__all__ = ["GAP", "TextColumn", "fit_columns", "render_table"]

GAP = 2
"""Blank cells between two columns."""


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


class Fitted(Protocol):
    """What `fit_columns` asks of a column: cells at least and at most, its share, its priority."""

    @property
    def least(self) -> int: ...
    @property
    def most(self) -> int | None: ...
    @property
    def flex(self) -> int: ...
    @property
    def priority(self) -> int: ...


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


_Column = TypeVar("_Column", bound=Fitted)


def _cells(text: str) -> int:
    """The cells that printable text takes."""
    if text.replace("…", ".").isascii():
        return len(text)
    # lazy: most names are ASCII
    from rich.cells import cell_len

    return cell_len(text)


def _shortened(text: str, width: int) -> str:
    if text.isascii():
        return shorten(text, width)
    # lazy: as above
    from rich.cells import get_character_cell_size

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


def fit_columns(columns: Sequence[_Column], width: int) -> list[tuple[_Column, int]]:
    """The columns that show in `width` cells, in order, each with its width.

    Columns hide by priority until the least widths fit; those of them that fit into what a wider
    one then left come back. What is left after that goes to columns without flex up to their
    most, then to flex columns by their share. If even those of priority 0 do not fit, the result
    is wider than asked, and the table scrolls.
    """
    shown = set(range(len(columns)))

    def needed(*more: int) -> int:
        return _total([columns[i].least for i in (*shown, *more)])

    hidden: list[int] = []
    while needed() > width:
        hideable = [i for i in shown if columns[i].priority > 0]
        if not hideable:
            break
        hidden.append(max(hideable, key=lambda i: (columns[i].priority, i)))
        shown.discard(hidden[-1])
    for i in reversed(hidden):
        if needed(i) <= width:
            shown.add(i)
    kept = [columns[i] for i in sorted(shown)]
    widths = [c.least for c in kept]
    room = max(0, width - _total(widths))
    flexible = [i for i, c in enumerate(kept) if c.flex]
    room -= _grow(kept, widths, room // 2 if flexible else room)
    while room > 0 and flexible:
        shares = sum(kept[i].flex for i in flexible)
        given = 0
        for i in list(flexible):
            share = max(1, room * kept[i].flex // shares)
            most = kept[i].most
            limit = room if most is None else most - widths[i]
            more = max(0, min(share, limit, room - given))
            widths[i] += more
            given += more
            if most is not None and widths[i] >= most:
                flexible.remove(i)
        room -= given
        if not given:
            break
    _grow(kept, widths, room)
    return list(zip(kept, widths, strict=True))


def _grow(columns: Sequence[Fitted], widths: list[int], room: int) -> int:
    """Widens columns without flex, those that hide last first; how many cells that took."""
    taken = 0
    for i in sorted(range(len(columns)), key=lambda i: columns[i].priority):
        most = columns[i].most
        if not columns[i].flex and most is not None:
            more = min(room - taken, most - widths[i])
            widths[i] += more
            taken += more
    return taken


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * max(0, len(widths) - 1)
