"""`TableSource`: where the rows of a `VirtualTable` come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from inspector.tui.widgets.cell_text import Cell

if TYPE_CHECKING:
    from inspector.tui.widgets.row_order import SortKeys

__all__ = ["NoRows", "TableSource"]


class TableSource(Protocol):
    """Where a table's rows come from. Inherit from it to get the defaults."""

    @property
    def num_rows(self) -> int: ...

    def cell(self, row: int, column_key: str) -> Cell:
        """The value at a row and column. Names may be raw."""
        ...

    def sort_key(self, column_key: str) -> SortKeys | None:
        """One key per row (an array sorts fastest); None leaves the column unsortable."""
        return None

    def marker(self, row: int) -> str:
        """Severity of the row's badge (a key of `BADGES`), or nothing."""
        return ""

    def row_style(self, row: int) -> str:
        """Name of the style of the whole row, or nothing."""
        return ""


class NoRows(TableSource):
    """A source without rows, until there is one."""

    @property
    def num_rows(self) -> int:
        return 0

    def cell(self, row: int, column_key: str) -> Cell:
        raise IndexError(row)
