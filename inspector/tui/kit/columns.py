"""Columns of a table on the screen."""

from __future__ import annotations

from dataclasses import dataclass

from inspector.tui.kit.cell_text import Align, Cut

__all__ = ["Column"]


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
