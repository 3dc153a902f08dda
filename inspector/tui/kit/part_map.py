"""`PartMap`: a widget that draws a grid of parts, each one cell or half of one.

What a part is, and what colour it has, is a subclass's. The rule this module keeps: what was
drawn is kept until something of it changes.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.strip import Strip
from textual.widget import Widget

from inspector.tui.values.heat_paint import Placing

__all__ = ["Drawing", "PartMap"]


class _Grid(Protocol):
    """The parts that are drawn."""

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...


class Drawing(Widget):
    """Strips that are drawn once, and kept until something changes."""

    ALLOW_SELECT = False

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._strips: list[Strip] | None = None

    def _draw(self) -> list[Strip]:
        """The lines from the top on; those that are missing are blank."""
        raise NotImplementedError

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._redraw()

    def _redraw(self) -> None:
        self._strips = None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        if self._strips is None:
            self._strips = [strip.adjust_cell_length(width, base) for strip in self._draw()]
        return self._strips[y] if y < len(self._strips) else Strip.blank(width, base)


class PartMap(Drawing, can_focus=True):
    """Keys (h j k l and the arrows) and clicks that go from part to part."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "part-map--label",
        "part-map--focused",
        "part-map--cursor",
    }

    DEFAULT_CSS = """
    PartMap {
        height: 1fr; background: $surface; color: $foreground;
        & > .part-map--label { color: $text-muted; }
        & > .part-map--focused { color: $text-primary; text-style: bold; }
        & > .part-map--cursor { color: white; background: black; text-style: bold; }
    }
    PartMap:ansi {
        & > .part-map--label { color: ansi_default; text-style: dim; }
        & > .part-map--focused { color: ansi_default; text-style: bold; }
        & > .part-map--cursor {
            color: ansi_default; background: ansi_default; text-style: reverse;
        }
    }
    PartMap:nocolor > .part-map--cursor {
        text-style: reverse; background: $surface; color: $foreground;
    }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1, 0)", "Down", show=False, id="map.down"),
        Binding("up,k", "move(-1, 0)", "Up", show=False, id="map.up"),
        Binding("right,l", "move(0, 1)", "Right", show=False, id="map.right"),
        Binding("left,h", "move(0, -1)", "Left", show=False, id="map.left"),
    ]

    def __init__(self, *, plain: bool | None = None, id: str | None = None) -> None:  # noqa: A002
        """Args: `plain` True draws shades; None does so where there are no colours for a ramp."""
        super().__init__(id=id)
        self._plain = plain
        #: What is drawn, or None.
        self.grid: _Grid | None = None
        self._placing = Placing(1, 1)
        #: Lines above the parts, cells at their left.
        self._margin = (0, 0)

    # What a subclass does.

    def _go(self, i: int, j: int) -> None:
        """Go to a part of the grid."""
        raise NotImplementedError

    def action_move(self, lines: int, columns: int) -> None:
        """Go so many parts on."""
        raise NotImplementedError

    # What they share.

    def _part(self, name: str) -> Style:
        return self.get_component_rich_style(f"part-map--{name}")

    def _said_instead(self, said: str) -> list[Strip]:
        """What is said, printable, where there is nothing to draw."""
        width, height = max(self.size.width, 1), self.size.height
        parts = [said[at : at + width] for at in range(0, len(said), width)]
        return [Strip([Segment(part, self._part("label"))]) for part in parts[:height]]

    @property
    def _halves(self) -> int:
        """Parts that a cell shows, one above the other."""
        return 1 if self.is_plain else 2

    @property
    def is_plain(self) -> bool:
        """Whether it is drawn in shades instead of colours."""
        if self._plain is not None:
            return self._plain
        app = self.app
        # A ramp in 16 colours would have no order.
        return app.no_color or app.native_ansi_color or app.console.color_system == "standard"

    def on_focus(self) -> None:
        self._redraw()

    def on_blur(self) -> None:
        self._redraw()

    def on_click(self, event: events.Click) -> None:
        offset, grid = event.get_content_offset(self), self.grid
        if offset is None or grid is None:
            return
        line, column = offset.y - self._margin[0], offset.x - self._margin[1]
        i = line * self._halves // self._placing.high
        j = column // self._placing.wide
        if line >= 0 and 0 <= i < grid.height and 0 <= j < grid.width:
            event.stop()
            self._go(i, j)
