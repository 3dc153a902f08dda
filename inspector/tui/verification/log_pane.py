"""`LogPane`: lines that a job printed, the newest at the bottom.

The rule this module keeps: every line passes the display gate here; a rank may print anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from inspector.tui.kit.cell_text import fit, shown

__all__ = ["LogPane"]

_MAX_WIDTH = 400
_MAX_DRAWN = 500


class LogPane(ScrollView, can_focus=True, inherit_bindings=False):
    """A bounded list of lines; it follows the newest unless it was scrolled up."""

    ALLOW_SELECT = False

    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--who", "log--error", "log--title"}

    DEFAULT_CSS = """
    LogPane {
        height: 1fr; background: $surface; color: $foreground;
        scrollbar-size-vertical: 1; scrollbar-size-horizontal: 1;
        & > .log--who { color: $text-muted; }
        & > .log--error { color: $text-error; }
        & > .log--title { background: $panel; color: $text-muted; }
        &:focus > .log--title { color: $text-primary; text-style: bold; }
    }
    LogPane:ansi > .log--title { background: ansi_default; text-style: underline; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "scroll_down", "Down", show=False, id="log.down"),
        Binding("up,k", "scroll_up", "Up", show=False, id="log.up"),
        Binding("right,l", "scroll_right", "Right", show=False, id="log.right"),
        Binding("left,h", "scroll_left", "Left", show=False, id="log.left"),
        Binding("G", "scroll_end", "Last", show=False, id="log.last"),
        Binding("g", "scroll_home", "First", show=False, id="log.first"),
        Binding("pagedown,ctrl+f,ctrl+d", "page_down", "Page down", show=False, id="log.pgdn"),
        Binding("pageup,ctrl+b,ctrl+u", "page_up", "Page up", show=False, id="log.pgup"),
    ]

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._title = ""
        self._empty_text = ""
        self._lines: list[tuple[str, str, bool]] = []
        self._styles: dict[str, Style] = {}
        self._drawn: dict[tuple[str, str, bool], Strip] = {}

    @property
    def num_lines(self) -> int:
        return len(self._lines)

    def show(
        self, title: str, lines: Sequence[tuple[str, str, bool]], empty_text: str = ""
    ) -> None:
        """Show other lines.

        Args:
            title: Whose they are; printable.
            lines: Who printed it (printable), the raw text, and whether it tells of an error.
            empty_text: What stands there while there are none; printable.
        """
        same = title == self._title and empty_text == self._empty_text
        if same and list(lines) == self._lines:
            return
        at_end = self.scroll_offset.y >= self.max_scroll_y or title != self._title
        self._title, self._lines, self._empty_text = title, list(lines), empty_text
        # Measured raw: the gate only lengthens, and what lies beyond is cut anyway.
        wide = max((len(who) + len(text) + 2 for who, text, _ in self._lines), default=0)
        self.virtual_size = Size(min(wide + 2, _MAX_WIDTH), len(self._lines) + 1)
        self.refresh()
        if at_end:
            self.scroll_end(animate=False, force=True, immediate=True)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        base = self._style("")
        if y == 0:
            style = self.get_component_rich_style("log--title")
            return Strip([Segment(fit(f" {self._title}", width), style)])
        index = y - 1 + self.scroll_offset.y
        if not self._lines and y == 2:
            who = self._style("who")
            return Strip([Segment(fit(f"   {self._empty_text}", width), who)])
        if not 0 <= index < len(self._lines):
            return Strip.blank(width, base)
        said_by, text, is_error = key = self._lines[index]
        strip = self._drawn.get(key)
        if strip is None:
            style = self._style("error") if is_error else base
            head = f" {said_by}  " if said_by else " "
            line = fit(shown(text[:_MAX_WIDTH], _MAX_WIDTH), _MAX_WIDTH)
            strip = Strip([Segment(head, self._style("who")), Segment(line, style)])
            if len(self._drawn) > _MAX_DRAWN:
                self._drawn.clear()
            self._drawn[key] = strip
        left = self.scroll_offset.x
        return strip.crop_extend(left, left + width, base)

    def _style(self, name: str) -> Style:
        """A line's style; worked out once, as it is asked for at every line of every frame."""
        if (known := self._styles.get(name)) is not None:
            return known
        style = self.rich_style
        if name:
            style += self.get_component_rich_style(f"log--{name}", partial=True)
            style += Style(color=self.get_component_rich_style(f"log--{name}").color)
        self._styles[name] = style
        return style

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles.clear()
        self._drawn.clear()
