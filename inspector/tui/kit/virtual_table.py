"""`VirtualTable`: a table of any length whose cells are asked for when they come into view.

The rule this module keeps: nothing here costs by the number of rows except a sort, which numpy
does. A row is known by its number in the source; filter and sort are arrays of such numbers.
numpy is imported by the first filter or sort, so that the first frame does not wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from inspector.report.fitting import GAP, fit_columns
from inspector.tui.kit.cell_text import BADGES, Align, Cell, Cut, cell_segments, fit, shown
from inspector.tui.kit.cursor_view import CursorView

if TYPE_CHECKING:
    from inspector.tui.kit.row_order import Ints, SortKeys

__all__ = ["Column", "NoRows", "TableSource", "VirtualTable"]


class Column(NamedTuple):
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


class TableSource(Protocol):
    """Where a table's rows come from. Inherit from it to get the defaults."""

    @property
    def num_rows(self) -> int: ...

    def cell(self, row: int, column_key: str) -> Cell:
        """The value at a row and column. Names may be raw."""
        ...

    def text(self, row: int, column_key: str) -> str:
        """The characters of a cell, without its style."""
        cell = self.cell(row, column_key)
        return cell[0] if isinstance(cell, tuple) else str(cell)

    def widest(self, column_key: str, least: int, most: int, max_rows: int) -> int:
        """Characters of the longest of a column's cells in so many rows, kept within bounds."""
        rows = range(0, self.num_rows, max(1, self.num_rows // max_rows))
        longest = max((len(self.text(row, column_key)) for row in rows), default=0)
        return max(least, min(most, longest))

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


_GUTTER = 3
"""Cells left of the first column: the cursor's mark, the row's badge, a blank."""
_SCROLL_STEP = 8
# The palette shows no command that says nothing of itself, and these are met before the views' own.
_SORT = "Sort the table by its next column."
_TURN = "Turn the order of the table round."


class VirtualTable(CursorView):
    """A table over a `TableSource`.

    Keys: j k g G ctrl+d ctrl+u and the usual ones move, h and l scroll columns that do not
    fit, s and S choose the sort column and turn its direction, enter selects.
    """

    HEADER_LINES = 1

    COMPONENT_CLASSES: ClassVar[set[str]] = {"virtual-table--header", "virtual-table--sorted"}

    DEFAULT_CSS = """
    VirtualTable {
        & > .virtual-table--header { background: $panel; color: $text-muted; }
        & > .virtual-table--sorted { color: $text-primary; text-style: bold; }
        &:focus > .virtual-table--header { color: $text-primary; text-style: bold; }
    }
    VirtualTable:nocolor:focus > .virtual-table--header { text-style: bold underline; }
    VirtualTable:ansi {
        & > .virtual-table--header {
            background: ansi_default; color: ansi_default; text-style: underline;
        }
        & > .virtual-table--sorted { color: ansi_blue; text-style: bold underline; }
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "scroll_columns(1)", "Columns right", show=False, id="table.right"),
        Binding("left,h", "scroll_columns(-1)", "Columns left", show=False, id="table.left"),
        Binding("s", "sort_next", "Sort", show=False, id="table.sort", tooltip=_SORT),
        Binding("S", "sort_reverse", "Turn order", show=False, id="table.reverse", tooltip=_TURN),
    ]

    class _RowMessage(Message):
        def __init__(self, table: VirtualTable, row: int) -> None:
            super().__init__()
            self.table = table
            self.row = row

    class Highlighted(_RowMessage):
        """The cursor came to rest on `row` of the source, or on none (-1)."""

    class Selected(_RowMessage):
        """Enter or a double click on `row` of the source."""

    def __init__(
        self,
        columns: Sequence[Column],
        source: TableSource | None = None,
        *,
        empty_text: str = "Nothing to show",
        id: str | None = None,  # noqa: A002
    ) -> None:
        super().__init__(id=id)
        self._columns = tuple(columns)
        self.source: TableSource = source if source is not None else NoRows()
        self._empty_text = empty_text
        self._shown_columns: list[tuple[Column, int]] = []
        self._filter: Ints | None = None
        #: The rows of the source that show, in the order in which they do.
        self.rows: Ints | range = range(self.source.num_rows)
        #: Column key and whether reversed, or None.
        self.sorted_by: tuple[str, bool] | None = None
        self._orders: dict[tuple[str, bool], Ints] = {}

    # Values in.

    def set_source(self, source: TableSource) -> None:
        """Show another source; the sort stays, the cursor goes to the top."""
        self.source = source
        self._filter = None
        self._orders.clear()
        self.cursor = 0
        self.scroll_to(y=0, animate=False, force=True)
        self._arrange()
        self.announce()

    def set_columns(self, columns: Sequence[Column]) -> None:
        self._columns = tuple(columns)
        if self.sorted_by is not None and self.sorted_by[0] not in {c.key for c in columns}:
            self.sorted_by = None
        self._arrange()

    def set_filter(self, rows: Ints | None) -> None:
        """Show only `rows` of the source (None: all), in that order unless the table is sorted."""
        row = self.cursor_row
        self._filter = rows
        self._arrange()
        self._go_back_to(row)

    def set_empty_text(self, text: str) -> None:
        """What stands in the pane while there is no row."""
        self._empty_text = text
        self.refresh()

    def sort(self, column_key: str | None, *, reverse: bool = False) -> bool:
        """Sort by a column (None: not at all). False if the source gives no keys for it."""
        # From the first line the eye wants the new first; further down, the row it is on.
        row = self.cursor_row if self.cursor else None
        if column_key is not None and self._order(column_key, reverse) is None:
            return False
        self.sorted_by = None if column_key is None else (column_key, reverse)
        self._arrange()
        self._go_back_to(row)
        return True

    def select_row(self, row: int) -> bool:
        """Put the cursor on a row of the source; False if the filter hides it."""
        if isinstance(self.rows, range):
            if row not in self.rows:
                return False
            self.move_cursor(row)
            return True
        found = (self.rows == row).nonzero()[0]
        if not len(found):
            return False
        self.move_cursor(int(found[0]))
        return True

    def refresh_rows(self) -> None:
        """Draw anew what the source now says (badges that changed, values that arrived)."""
        self._drawn.clear()
        self.refresh()

    # Values out.

    @property
    def num_lines(self) -> int:
        return len(self.rows)

    @property
    def cursor_row(self) -> int | None:
        """Row of the source under the cursor, or None if no row shows."""
        return int(self.rows[self.cursor]) if len(self.rows) else None

    # Order and measures.

    def _order(self, key: str, reverse: bool) -> Ints | None:
        if (order := self._orders.get((key, reverse))) is None:
            keys = self.source.sort_key(key)
            if keys is None:
                return None
            from inspector.tui.kit.row_order import sort_order  # lazy: the first frame does without

            order = self._orders[key, reverse] = sort_order(keys, reverse=reverse)
        return order

    def _arrange(self) -> None:
        order = None if self.sorted_by is None else self._order(*self.sorted_by)
        if self._filter is None:
            self.rows = range(self.source.num_rows) if order is None else order
        elif order is None:
            self.rows = self._filter
        else:
            from inspector.tui.kit.row_order import ordered  # lazy: the first frame does without

            self.rows = ordered(self._filter, order)
        self._measure()

    def _go_back_to(self, row: int | None) -> None:
        """After the rows changed: the cursor stays on its row, or goes to the first."""
        if row is None or not self.select_row(row):
            self.move_cursor(0)
            self.announce()

    def _measure(self) -> None:
        width = self.scrollable_content_region.width
        # Nothing is measured while it is hidden: that is done when it shows (`on_show`), and at
        # the latest when it is drawn.
        self._fitted = width if width > 0 else -1
        if width > 0:
            self.fit_width(width)
        self.lines_changed(width=self._scrolled_width if width > 0 else 0)

    def fit_width(self, width: int) -> None:
        before = self._shown_columns
        self._shown_columns = fit_columns(self._columns, max(0, width - _GUTTER))
        if self._shown_columns != before:
            self._drawn.clear()

    @property
    def _scrolled_width(self) -> int:
        """Cells of all columns if the pane has no room for them, else 0."""
        total = _GUTTER + sum(w + GAP for _, w in self._shown_columns) - GAP
        return total if total > self.scrollable_content_region.width else 0

    def on_mount(self) -> None:
        self._measure()
        self.announce()

    def on_show(self) -> None:
        # What was measured before, and not changed while it was hidden, is drawn already.
        if self._fitted != self.scrollable_content_region.width:
            self._measure()

    def on_resize(self, event: events.Resize) -> None:
        self.fit_width(self.scrollable_content_region.width)
        self.virtual_size = Size(self._scrolled_width, self.virtual_size.height)
        self.move_cursor(self.cursor)

    # Drawing.

    def draw_header(self, y: int, width: int) -> Strip:
        base = self.get_component_rich_style("virtual-table--header")
        sorted_style = self.get_component_rich_style("virtual-table--sorted", partial=True)
        cells: list[list[Segment]] = []
        for column, cells_wide in self._shown_columns:
            if self.sorted_by is not None and self.sorted_by[0] == column.key:
                arrow = "▼" if self.sorted_by[1] else "▲"
                title = fit(column.title, min(len(column.title), max(0, cells_wide - 2)))
                text = fit(f"{title} {arrow}".strip(), cells_wide, column.align)
                cells.append([Segment(text, base + sorted_style)])
            else:
                cells.append([Segment(fit(column.title, cells_wide, column.align), base)])
        return self._join([Segment(" " * _GUTTER, base)], cells, width, base)

    def draw_line(self, line: int, width: int, is_cursor: bool) -> Strip:
        row = int(self.rows[line])
        style_on = self.style_plain if is_cursor and self.has_focus else self.style_on
        base = style_on(self.line_style(is_cursor), self.source.row_style(row))
        glyph, badge_style = BADGES.get(self.source.marker(row), (" ", ""))
        gutter = [
            Segment(self.CURSOR_MARK if is_cursor else " ", base),
            Segment(glyph, style_on(base, badge_style)),
            Segment(" ", base),
        ]
        cells = [
            cell_segments(
                self.source.cell(row, column.key), wide, base, style_on, column.align, column.cut
            )
            for column, wide in self._shown_columns
        ]
        return self._join(gutter, cells, width, base)

    def draw_empty(self, y: int, width: int) -> Strip:
        line = min(2, max(1, self.size.height - 1))
        text = "  " + shown(self._empty_text, width) if y == line else ""
        return Strip([Segment(fit(text, width), self.style_on(self.rich_style, "dim"))])

    def _join(
        self, gutter: list[Segment], cells: list[list[Segment]], width: int, base: Style
    ) -> Strip:
        """Gutter and first column stand; the other columns are cut by the scroll position."""
        gap = Segment(" " * GAP, base)
        fixed = [*gutter, *(cells[0] if cells else [])]
        rest = [segment for cell in cells[1:] for segment in (gap, *cell)]
        if not (scroll := round(self.scroll_x)):
            return Strip([*fixed, *rest]).adjust_cell_length(width, base).simplify()
        head = Strip(fixed)
        room = max(0, width - head.cell_length)
        tail = Strip(rest).crop_extend(scroll, scroll + room, base)
        return Strip.join([head, tail]).adjust_cell_length(width, base)

    # Keys and mouse.

    def cursor_moved(self) -> None:
        row = self.cursor_row
        self.post_message(self.Highlighted(self, -1 if row is None else row))

    def line_chosen(self, line: int) -> None:
        self.post_message(self.Selected(self, int(self.rows[line])))

    def header_clicked(self, x: int) -> None:
        left = _GUTTER
        for index, (column, wide) in enumerate(self._shown_columns):
            start = left - (round(self.scroll_x) if index else 0)
            if start <= x < start + wide + GAP:
                if column.sortable:
                    self._turn(column)
                return
            left += wide + GAP

    def _turn(self, column: Column) -> None:
        """Sort by a column; if it is the one sorted by, turn round."""
        if self.sorted_by is not None and self.sorted_by[0] == column.key:
            self.sort(column.key, reverse=not self.sorted_by[1])
        else:
            self.sort(column.key, reverse=column.descending_first)

    def action_sort_next(self) -> None:
        """Sort by the next sortable column that shows; after the last, by none."""
        choices = [column for column, _ in self._shown_columns if column.sortable]
        keys = [column.key for column in choices]
        start = (
            keys.index(self.sorted_by[0]) + 1 if self.sorted_by and self.sorted_by[0] in keys else 0
        )
        for column in choices[start:]:
            if self.sort(column.key, reverse=column.descending_first):
                return
        self.sort(None)

    def action_sort_reverse(self) -> None:
        if self.sorted_by is not None:
            self.sort(self.sorted_by[0], reverse=not self.sorted_by[1])

    def action_scroll_columns(self, steps: int) -> None:
        self.scroll_to(x=self.scroll_x + steps * _SCROLL_STEP, animate=False, force=True)
