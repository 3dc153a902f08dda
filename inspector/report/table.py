"""Rows of text as an aligned table that fits a width, or as a complete plain one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len, set_cell_size

__all__ = ["TextColumn", "render_table", "shorten_cells"]

_GAP = "  "


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


def shorten_cells(text: str, width: int) -> str:
    """Printable text cut to a width in cells, an ellipsis a third of the way in."""
    if cell_len(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    head = (width - 1) // 3
    tail = width - 1 - head
    # Cut the tail at a character, counting cells from the end.
    used, start = 0, len(text)
    while start > 0 and used + cell_len(text[start - 1]) <= tail:
        start -= 1
        used += cell_len(text[start])
    return set_cell_size(text, head).rstrip() + "…" + text[start:]


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
    shown = list(range(len(columns)))
    widths = [
        max(cell_len(column.title), *(cell_len(row[i]) for row in cells))
        for i, column in enumerate(columns)
    ]
    if width is not None:
        shown = _fit(columns, widths, width)
    lines = []
    for row in [[column.title for column in columns], *cells]:
        parts = []
        for i in shown:
            text = shorten_cells(row[i], widths[i])
            space = " " * (widths[i] - cell_len(text))
            parts.append(space + text if columns[i].align == "right" else text + space)
        lines.append(_GAP.join(parts).rstrip())
    return lines


def _fit(columns: Sequence[TextColumn], widths: list[int], width: int) -> list[int]:
    """Narrow `widths` in place, and give the columns that stay."""
    shown = list(range(len(columns)))

    def least(i: int) -> int:
        minimum = columns[i].min_width
        return widths[i] if minimum is None else min(minimum, widths[i])

    gaps = len(_GAP)
    while sum(least(i) + gaps for i in shown) - gaps > width and len(shown) > 1:
        droppable = max(shown, key=lambda i: columns[i].priority)
        if columns[droppable].priority == 0:
            break
        shown.remove(droppable)
    excess = sum(widths[i] + gaps for i in shown) - gaps - width
    while excess > 0:
        # The widest gives first, so that several long columns end up alike.
        flexible = [i for i in shown if widths[i] > least(i)]
        if not flexible:
            break
        widest = max(flexible, key=lambda i: widths[i])
        others = [widths[i] for i in flexible if i != widest]
        target = max([least(widest), *[w for w in others if w < widths[widest]]])
        step = max(1, min(excess, widths[widest] - target))
        widths[widest] -= step
        excess -= step
    return shown
