"""What fits into so many cells, for paper and screen: the columns of a table, and a `bar`.

It stands alone, so that the screen's first frame does not wait for what prints tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

__all__ = ["GAP", "bar", "fit_columns"]

GAP = 2
"""Blank cells between two columns."""


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


_Column = TypeVar("_Column", bound=Fitted)


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


_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(fraction: float, width: int, *, ascii_only: bool = False) -> str:
    """A horizontal bar, exactly as wide as asked, filled from the left in eighths of a cell.

    Args:
        fraction: Part to fill; below 0, NaN and infinity count as 0, above 1 as 1. Anything
            more than nothing shows at least one eighth.
        width: Cells.
        ascii_only: Draw with `#`, in whole cells.
    """
    if width <= 0:
        return ""
    part = min(1.0, max(0.0, fraction)) if math.isfinite(fraction) else 0.0
    if ascii_only:
        filled = max(1, round(part * width)) if part > 0 else 0
        return "#" * filled + " " * (width - filled)
    eighths = max(1, round(part * width * 8)) if part > 0 else 0
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)
