"""`CursorView`: a scrolling list of lines with a cursor, of which only the visible are drawn.

The rule this module keeps: it knows lines, not what they mean. `VirtualTable` and `TensorTree`
say how many lines there are and draw one of them.
"""

from __future__ import annotations

from typing import Any, ClassVar

from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.cache import LRUCache
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from inspector.tui.kit.cell_text import STYLE_NAMES

__all__ = ["CursorView"]


class CursorView(ScrollView, can_focus=True, inherit_bindings=False):
    """Base of the line widgets: cursor, keys, mouse, scrolling and the cache of drawn lines.

    A subclass gives `num_lines`, `draw_line`, `cursor_moved` and `line_chosen`, and calls
    `lines_changed` when its lines are others.
    """

    ALLOW_SELECT = False
    HEADER_LINES: ClassVar[int] = 0
    CURSOR_MARK: ClassVar[str] = "▌"

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "line--cursor",
        *(f"line--{name}" for name in STYLE_NAMES),
    }

    DEFAULT_CSS = """
    CursorView {
        height: 1fr;
        scrollbar-size-vertical: 1;
        scrollbar-size-horizontal: 1;
        background: $surface;
        color: $foreground;

        & > .line--cursor { background: $primary 25%; }
        &:focus > .line--cursor { background: $primary 55%; text-style: bold; }
        & > .line--dim { color: $text-muted; }
        & > .line--strong { text-style: bold; }
        & > .line--accent { color: $text-accent; }
        & > .line--ok { color: $text-success; }
        & > .line--note { color: $text-secondary; }
        & > .line--warning { color: $text-warning; }
        & > .line--error { color: $text-error; text-style: bold; }
    }
    CursorView:ansi {
        & > .line--cursor { background: ansi_default; text-style: bold; }
        &:focus > .line--cursor { background: ansi_default; text-style: reverse; }
        & > .line--dim { color: ansi_default; text-style: dim; }
        & > .line--accent { color: ansi_cyan; }
        & > .line--ok { color: ansi_green; }
        & > .line--note { color: ansi_blue; }
        & > .line--warning { color: ansi_yellow; }
        & > .line--error { color: ansi_red; text-style: bold; }
    }
    CursorView:nocolor:focus > .line--cursor { text-style: reverse; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "cursor_move(1)", "Down", show=False, id="list.down"),
        Binding("up,k", "cursor_move(-1)", "Up", show=False, id="list.up"),
        Binding("g,home", "cursor_to(0)", "First", show=False, id="list.first"),
        Binding("G,end", "cursor_to(-1)", "Last", show=False, id="list.last"),
        Binding("ctrl+d", "cursor_page(0.5)", "Half page down", show=False, id="list.half_down"),
        Binding("ctrl+u", "cursor_page(-0.5)", "Half page up", show=False, id="list.half_up"),
        Binding("pagedown,ctrl+f", "cursor_page(1)", "Page down", show=False, id="list.page_down"),
        Binding("pageup,ctrl+b", "cursor_page(-1)", "Page up", show=False, id="list.page_up"),
        Binding("enter", "choose", "Open", show=False, id="list.choose"),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        #: The line the cursor is on; 0 if there are none.
        self.cursor = 0
        self._announced = True
        self._drawn: LRUCache[tuple[Any, ...], Strip] = LRUCache(1024)
        self._fitted = -1
        self._base: Style | None = None
        self._look: tuple[object, ...] = ()

    # What a subclass gives.

    @property
    def num_lines(self) -> int:
        """Lines below the header."""
        raise NotImplementedError

    def draw_line(self, line: int, width: int, is_cursor: bool) -> Strip:
        """Line `line` (0 is the first below the header), `width` cells wide."""
        raise NotImplementedError

    def draw_header(self, y: int, width: int) -> Strip:
        """Header line `y`."""
        raise NotImplementedError

    def draw_empty(self, y: int, width: int) -> Strip:
        """Line `y` of the pane while there are no lines."""
        return Strip.blank(width, self.rich_style)

    def cursor_moved(self) -> None:
        """The cursor came to rest on another line; called once for a burst of moves."""

    def fit_width(self, width: int) -> None:
        """The pane is `width` cells wide: whatever `draw_line` makes of that."""

    def line_chosen(self, line: int) -> None:
        """Enter or a double click on a line."""

    def header_clicked(self, x: int) -> None:
        """A click on the header at cell `x` of the pane."""

    def line_clicked(self, line: int, x: int) -> None:
        """A click on a line, after the cursor went there."""

    # State.

    @property
    def page_lines(self) -> int:
        return max(1, self.scrollable_content_region.height - self.HEADER_LINES)

    def move_cursor(self, line: int) -> None:
        """Put the cursor on `line` (kept within the lines) and scroll it into view."""
        line = max(0, min(line, self.num_lines - 1))
        if line != self.cursor:
            old, self.cursor = self.cursor, line
            self.refresh_line(old + self.HEADER_LINES)
            self.refresh_line(line + self.HEADER_LINES)
            self.announce()
        self._scroll_to_cursor()

    def announce(self) -> None:
        """Have `cursor_moved` called when the keys that wait have been worked off."""
        if self._announced:
            self._announced = False
            self.call_after_refresh(self._announce_now)

    def _announce_now(self) -> None:
        self._announced = True
        self.cursor_moved()

    def _scroll_to_cursor(self) -> None:
        if not self.scrollable_content_region.height:
            return  # Not laid out yet: then there is no telling what is in view.
        top = round(self.scroll_y)
        page = self.page_lines
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, force=True)
        elif self.cursor >= top + page:
            self.scroll_to(y=self.cursor - page + 1, animate=False, force=True)

    def lines_changed(self, *, width: int | None = None) -> None:
        """Measure and draw anew. `width`: cells of the widest line, if it can be scrolled."""
        self._drawn.clear()
        wide, high = width or 0, self.num_lines + self.HEADER_LINES
        self.virtual_size = Size(wide, high)
        if room := self.container_size.height:
            # The layout would find that out, and ask for another.
            was_higher, is_higher = self.show_vertical_scrollbar, high > room
            self.show_vertical_scrollbar = is_higher
            if was_higher or is_higher:
                self.vertical_scrollbar.display = is_higher
        self.cursor = max(0, min(self.cursor, self.num_lines - 1))
        self.refresh()

    def style_of(self, name: str) -> Style:
        """The partial style of one of the names a cell may use; nothing for any other."""
        if name not in STYLE_NAMES:
            return Style.null()
        component = f"line--{name}"
        partial = self.get_component_rich_style(component, partial=True)
        if partial.color is None:
            return partial
        # Only the full style has the colour as it is seen: partly transparent, or `auto`.
        return partial + Style(color=self.get_component_rich_style(component).color)

    @property
    def base_style(self) -> Style:
        """`rich_style`, looked up once: it is made of the styles of every ancestor."""
        if self._base is None:
            self._base = self.rich_style
        return self._base

    def line_style(self, is_cursor: bool) -> Style:
        """Style of a line before its cells have their say."""
        if not is_cursor:
            return self.base_style
        full = self.get_component_rich_style("line--cursor")
        return self.base_style + Style(
            bgcolor=full.bgcolor, bold=full.bold, reverse=full.reverse, underline=full.underline
        )

    def style_on(self, base: Style, name: str) -> Style:
        """`base` in one of the named styles."""
        return base + self.style_of(name)

    def style_plain(self, base: Style, name: str) -> Style:
        """`style_on` for the cursor's line, whose background would drown the colours."""
        return base

    # Drawing.

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        if self._base is None:
            self._forget_if_it_looks_other()
        if width != self._fitted:
            # Here and not when the resize is told, which is after the first repaint.
            self._fitted = width
            self.fit_width(width)
        if y < self.HEADER_LINES:
            return self.draw_header(y, width)
        if self.num_lines == 0:
            return self.draw_empty(y, width)
        line = y - self.HEADER_LINES + round(self.scroll_y)
        if line >= self.num_lines:
            return Strip.blank(width, self.base_style)
        is_cursor = line == self.cursor
        key = (line, width, is_cursor, is_cursor and self.has_focus, round(self.scroll_x))
        strip = self._drawn.get(key)
        if strip is None:
            strip = self.draw_line(line, width, is_cursor)
            self._drawn[key] = strip
        return strip

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._base = None

    def _forget_if_it_looks_other(self) -> None:
        """After a change of style: drop what is drawn, unless only the focus came or went."""
        names = sorted(self._get_component_classes() - {"line--cursor"})
        look = (
            self.app.theme,
            self.base_style,
            *(self.get_component_rich_style(name) for name in names),
        )
        if look != self._look:
            self._look = look
            self._drawn.clear()

    # Keys and mouse.

    def action_cursor_move(self, lines: int) -> None:
        self.move_cursor(self.cursor + lines)

    def action_cursor_to(self, line: int) -> None:
        self.move_cursor(self.num_lines + line if line < 0 else line)

    def action_cursor_page(self, pages: float) -> None:
        page = self.page_lines
        lines = max(1, int(page * abs(pages))) * (1 if pages > 0 else -1)
        # The page moves with the cursor, so that the cursor keeps its place on the screen.
        self.scroll_to(y=round(self.scroll_y) + lines, animate=False, force=True)
        self.move_cursor(self.cursor + lines)

    def action_choose(self) -> None:
        if self.num_lines:
            self.line_chosen(self.cursor)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is None:
            return
        if offset.y < self.HEADER_LINES:
            event.stop()
            self.header_clicked(offset.x)
            return
        line = offset.y - self.HEADER_LINES + round(self.scroll_y)
        if 0 <= line < self.num_lines:
            event.stop()
            self.move_cursor(line)
            self.line_clicked(line, offset.x)
            if event.chain == 2:
                self.line_chosen(line)
