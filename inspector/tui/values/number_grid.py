"""`NumberGrid`: the numbers of a plane, of which only those in view are asked for.

The rule this module keeps: it reads nothing. What it lacks it asks for with `Wanted`, draws `…` in
its place, and is given it by `put`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget
from typing_extensions import Self

from inspector.checkpoint.model import Tensor
from inspector.tui.values.number_sheet import GAP_CELLS, Cells, NumberLines, Sheet, Tiles
from inspector.values.slices import Plane, plane_of

__all__ = ["NumberGrid"]

_WIDTHS = {"bool": 5, "int8": 4, "uint8": 4, "qint8": 4, "quint8": 4, "int16": 6, "uint16": 6}
_FLOAT_CELLS, _COMPLEX_CELLS, _INT_CELLS = 10, 21, 6
_WHEEL_LINES = 3
#: Pages beyond the one in view that are read with it.
_MARGIN = 1


class NumberGrid(Widget, can_focus=True):
    """Numbers on lines, with a cursor on one of them.

    Keys: h j k l and the arrows move; g and G go to the first and last line, home and end to the
    first and last column; ctrl+d, ctrl+u and the page keys turn pages, with shift sideways.
    """

    ALLOW_SELECT = False

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "number-grid--head",
        "number-grid--label",
        "number-grid--cursor",
        "number-grid--bad",
        "number-grid--dim",
        "number-grid--chunk",
    }

    DEFAULT_CSS = """
    NumberGrid {
        height: 1fr; background: $surface; color: $foreground;
        & > .number-grid--head { background: $panel; color: $text-muted; }
        & > .number-grid--label { color: $text-muted; }
        & > .number-grid--cursor { background: $primary 25%; }
        &:focus > .number-grid--cursor { background: $primary 60%; text-style: bold; }
        & > .number-grid--bad { color: $text-error; text-style: bold; }
        & > .number-grid--dim { color: $foreground 45%; }
        & > .number-grid--chunk { color: $text-accent; }
    }
    NumberGrid:ansi {
        & > .number-grid--head { background: ansi_default; text-style: underline; }
        & > .number-grid--label, & > .number-grid--dim { color: ansi_default; text-style: dim; }
        & > .number-grid--cursor { background: ansi_default; text-style: bold; }
        &:focus > .number-grid--cursor { background: ansi_default; text-style: reverse; }
        & > .number-grid--bad { color: ansi_red; text-style: bold; }
        & > .number-grid--chunk { color: ansi_yellow; }
    }
    NumberGrid:nocolor:focus > .number-grid--cursor { text-style: reverse; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1, 0)", "Down", show=False, id="grid.down"),
        Binding("up,k", "move(-1, 0)", "Up", show=False, id="grid.up"),
        Binding("right,l", "move(0, 1)", "Right", show=False, id="grid.right"),
        Binding("left,h", "move(0, -1)", "Left", show=False, id="grid.left"),
        Binding("g", "line_end(False)", "First line", show=False, id="grid.first"),
        Binding("G", "line_end(True)", "Last line", show=False, id="grid.last"),
        Binding("home", "column_end(False)", "First column", show=False, id="grid.home"),
        Binding("end", "column_end(True)", "Last column", show=False, id="grid.end"),
        Binding("pagedown,ctrl+f", "page(1.0, 0)", "Page down", show=False, id="grid.page_down"),
        Binding("pageup,ctrl+b", "page(-1.0, 0)", "Page up", show=False, id="grid.page_up"),
        Binding("ctrl+d", "page(0.5, 0)", "Half page down", show=False, id="grid.half_down"),
        Binding("ctrl+u", "page(-0.5, 0)", "Half page up", show=False, id="grid.half_up"),
        Binding("shift+right,L", "page(0, 1)", "Page right", show=False, id="grid.page_right"),
        Binding("shift+left,H", "page(0, -1)", "Page left", show=False, id="grid.page_left"),
    ]

    class Moved(Message):
        """The cursor came to rest on another element."""

    class Wanted(Message):
        """A rectangle of the plane is to be read, and given to `put`."""

        def __init__(self, grid: NumberGrid, rows: range, columns: range) -> None:
            super().__init__()
            self.grid = grid
            self.tensor = grid.tensor
            self.leading = grid.leading
            self.rows = rows
            self.columns = columns

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.tensor: Tensor | None = None
        self.plane: Plane = plane_of((0,))
        self.leading: tuple[int, ...] = ()
        self.row = self.column = 0
        self._tiles = Tiles(self.plane)
        self._cell_width = _FLOAT_CELLS
        self._top = self._left = 0
        self._asked: tuple[object, ...] | None = None
        self._told = True
        self._picture: NumberLines | None = None

    # Values in.

    def show(
        self,
        tensor: Tensor | None,
        dims: tuple[int, int] | None = None,
        index: Sequence[int] | None = None,
    ) -> None:
        """Show a tensor, with the cursor on an element of it."""
        self.tensor = tensor
        self.plane = plane_of((0,) if tensor is None else tensor.shape, dims)
        self._tiles = Tiles(self.plane)
        self._cell_width = _cell_width("" if tensor is None else tensor.dtype)
        self._asked = None
        self._top = self._left = 0
        self.leading = (0,) * len(self.plane.leading)
        self.row = self.column = 0
        if index is not None:
            self.leading, self.row, self.column = self.plane.cell(index)
        self._settle()

    def go_to(self, index: Sequence[int]) -> None:
        """Put the cursor on an element, in whichever slice it is.

        Raises:
            UsageError: The tensor has no such element.
        """
        self.leading, self.row, self.column = self.plane.cell(index)
        self._settle()

    def put(self, leading: tuple[int, ...], rows: range, columns: range, cells: Cells) -> None:
        if cells.values.shape != (len(rows), len(columns)):
            return
        self._tiles.put(leading, rows, columns, cells)
        self._asked = None
        if cells.values.dtype.kind in "iu" and cells.values.size:
            ends = cells.values.min(), cells.values.max()
            widest = max(len(str(int(end))) for end in ends)
            if widest > self._cell_width:
                self._cell_width = widest
        self._settle()

    def read_again(self) -> None:
        """Forget what could not be read, and ask for it again."""
        self._tiles.forget_problems()
        self._asked = None
        self._settle()

    # Values out.

    @property
    def sheet(self) -> Sheet:
        """How the plane stands on the lines."""
        return Sheet.of(self.plane, self._fitting)

    @property
    def index(self) -> tuple[int, ...]:
        """The index of the element under the cursor."""
        return self.plane.index(self.leading, self.row, self.column)

    @property
    def current(self) -> tuple[Any, int, str] | None:
        """Value, state and problem of the element under the cursor; None if it was not read."""
        if not self.sheet.num_elements:
            return None
        return self._tiles.get(self.leading, self.row, self.column)

    # Measures.

    @property
    def _label_width(self) -> int:
        return len(str(max(self.plane.rows, self.plane.columns, 1) - 1)) + 2

    @property
    def _fitting(self) -> int:
        """Numbers that fit on a line."""
        room = self.size.width - self._label_width
        return max(room // (self._cell_width + GAP_CELLS), 1)

    @property
    def _page(self) -> int:
        return max(self.size.height - 1, 1)

    def _visible(self) -> tuple[range, range]:
        """Lines and columns of the grid that are in view."""
        sheet = self.sheet
        return (
            range(self._top, min(self._top + self._page, sheet.num_lines)),
            range(self._left, min(self._left + self._fitting, sheet.num_columns)),
        )

    def _settle(self) -> None:
        """After any change: the cursor inside and in view, what is missing asked for."""
        sheet = self.sheet
        self.row = max(0, min(self.row, self.plane.rows - 1))
        self.column = max(0, min(self.column, self.plane.columns - 1))
        line, column = sheet.place(self.row, self.column)
        page, fitting = self._page, self._fitting
        self._top = max(min(self._top, line, max(sheet.num_lines - page, 0)), line - page + 1, 0)
        last = max(sheet.num_columns - fitting, 0)
        self._left = max(min(self._left, column, last), column - fitting + 1, 0)
        self._ask()
        self.refresh()
        if self._told:
            self._told = False
            self.call_after_refresh(self._tell)

    def _tell(self) -> None:
        self._told = True
        self.post_message(self.Moved())

    def _ask(self) -> None:
        if self.tensor is None or not self.size.height or not self.sheet.num_elements:
            return
        sheet = self.sheet
        lines, columns = self._visible()
        if self._tiles.missing(self.leading, *sheet.span(lines, columns)) is None:
            return
        down, across = _MARGIN * self._page, _MARGIN * self._fitting
        wider = (
            range(max(lines.start - down, 0), min(lines.stop + down, sheet.num_lines)),
            range(max(columns.start - across, 0), min(columns.stop + across, sheet.num_columns)),
        )
        rect = self._tiles.missing(self.leading, *sheet.span(*wider))
        wanted = (self.leading, rect)
        if rect is not None and wanted != self._asked:
            self._asked = wanted
            self.post_message(self.Wanted(self, *rect))

    def on_resize(self) -> None:
        self._settle()

    # Drawing.

    def refresh(self, *regions: Region, **options: bool) -> Self:
        """Draw anew: whatever changed, the picture is made of what is there then."""
        self._picture = None
        return super().refresh(*regions, **options)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._picture = None

    def render_line(self, y: int) -> Strip:
        if self.tensor is None or not self.sheet.num_elements:
            return Strip.blank(self.size.width, self.rich_style)
        if self._picture is None:
            self._picture = self._make_picture(self.tensor)
        return self._picture.strip(y)

    def _make_picture(self, tensor: Tensor) -> NumberLines:
        base = self.rich_style
        styles = {"base": base}
        for name in ("head", "cursor"):
            styles[name] = self.get_component_rich_style(f"number-grid--{name}")
        for name in ("label", "bad", "dim", "chunk"):
            part = self.get_component_rich_style(f"number-grid--{name}")
            styles[name] = base + Style(color=part.color, bold=part.bold, dim=part.dim)
        return NumberLines(
            tensor,
            self.leading,
            self.sheet,
            self._tiles,
            *self._visible(),
            (self.row, self.column),
            self._label_width,
            self._cell_width,
            self.size.width,
            styles,
        )

    # Keys and mouse.

    def _go(self, line: int, column: int) -> None:
        sheet = self.sheet
        if not sheet.num_elements:
            return
        if sheet.per_line:
            # A line goes on in the next.
            at = max(0, min(line * sheet.per_line + column, sheet.num_elements - 1))
            line, column = divmod(at, sheet.per_line)
        line = max(0, min(line, sheet.num_lines - 1))
        cell = sheet.cell(line, max(0, min(column, sheet.num_columns - 1)))
        self.row, self.column = cell if cell is not None else (self.row, self.column)
        self._settle()

    @property
    def _place(self) -> tuple[int, int]:
        return self.sheet.place(self.row, self.column)

    def action_move(self, lines: int, columns: int) -> None:
        line, column = self._place
        self._go(line + lines, column + columns)

    def action_line_end(self, last: bool) -> None:
        _, column = self._place
        self._go(self.sheet.num_lines - 1 if last else 0, column)

    def action_column_end(self, last: bool) -> None:
        line, _ = self._place
        self._go(line, self.sheet.num_columns - 1 if last else 0)

    def action_page(self, down: float, right: float) -> None:
        line, column = self._place
        lines, columns = round(down * self._page), round(right * self._fitting)
        # The page moves with the cursor, so that the cursor keeps its place on the screen.
        self._top += lines
        self._left += columns
        self._go(line + lines, column + columns)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.action_move(_WHEEL_LINES, 0)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.action_move(-_WHEEL_LINES, 0)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        sheet = self.sheet
        if offset is None or offset.y < 1 or not sheet.num_elements:
            return
        column = (offset.x - self._label_width) // (self._cell_width + GAP_CELLS)
        if column >= 0:
            event.stop()
            self._go(self._top + offset.y - 1, self._left + column)


def _cell_width(dtype: str) -> int:
    if dtype.startswith("complex"):
        return _COMPLEX_CELLS
    if dtype in _WIDTHS:
        return _WIDTHS[dtype]
    return _INT_CELLS if "int" in dtype else _FLOAT_CELLS
