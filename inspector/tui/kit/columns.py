"""Columns of a table: which fit into a width, and how wide each one gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inspector.tui.kit.cell_text import Align, Cut

__all__ = ["GAP", "Column", "fit_columns"]

GAP = 2
"""Blank cells between two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a `VirtualTable`.

    Attributes:
        key: What the table's source is asked for.
        title: Text of the header.
        width: Cells, if the column does not change. Otherwise it takes from `min_width` to
            `max_width` cells (None: as many as there are).
        flex: Share of the cells that the other columns leave.
        align: Where text stands in the column.
        cut: Where text that is too long is cut; see `cell_text.fit`.
        priority: 0 is never hidden; otherwise the highest number goes first on a narrow screen.
        sortable: Whether a click on the header sorts.
        descending_first: Whether the first click sorts largest first (sizes, counts).
    """

    key: str
    title: str
    width: int | None = None
    min_width: int = 4
    max_width: int | None = None
    flex: int = 0
    align: Align = "left"
    cut: Cut = "end"
    priority: int = 0
    sortable: bool = True
    descending_first: bool = False

    @property
    def least(self) -> int:
        return self.min_width if self.width is None else self.width

    @property
    def most(self) -> int | None:
        """Cells it can use; None if there is no limit."""
        if self.width is not None:
            return self.width
        if self.max_width is not None:
            return max(self.max_width, self.min_width)
        return None if self.flex else self.min_width


def fit_columns(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
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


def _grow(columns: Sequence[Column], widths: list[int], room: int) -> int:
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
