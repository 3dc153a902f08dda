"""A dialog: a screen over another, which is seen behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.geometry import Region, Size
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.style import Style as WidgetStyle
from textual.visual import RenderOptions, Visual
from textual.widget import Widget

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Dialog"]

Answer = TypeVar("Answer")


class Dialog(ModalScreen[Answer]):
    """A screen over another, which is seen behind it, tinted.

    Until a dialog stands, Textual draws four times what lies behind, and lays the dialog out a
    second time in the size that it has. Here what lies behind is drawn when it has changed.
    """

    DEFAULT_CSS = """
    Dialog > Vertical, Dialog > Reader {
        width: 90%; max-width: 100; height: auto; max-height: 92%;
        padding: 1 2; background: $surface; border: round $primary;
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._behind: _Behind | None = None

    def refresh(
        self, *regions: Region, repaint: bool = True, layout: bool = False, recompose: bool = False
    ) -> Self:
        """As of any widget; a screen behind it that has changed names its regions."""
        if regions:
            self._behind = None
        return super().refresh(*regions, repaint=repaint, layout=layout, recompose=recompose)

    def render(self) -> Any:
        stack, tint = self.app.screen_stack, self.styles.background
        if self not in stack[1:] or tint.a == 1:
            return super().render()
        below = stack[stack.index(self) - 1]
        if self._behind is None or not self._behind.is_of(below, tint):
            self._behind = _Behind(below, tint)
        return self._behind

    def _screen_resized(self, size: Size) -> None:
        if size != self.outer_size:
            super()._screen_resized(size)


class _Behind(Visual):
    """What another screen shows, tinted, once it was drawn."""

    def __init__(self, screen: Widget, tint: Color) -> None:
        self._screen, self._tint = screen, tint
        self._drawn: tuple[tuple[Size, Style], list[Strip]] | None = None

    def is_of(self, screen: Widget, tint: Color) -> bool:
        return self._screen is screen and self._tint == tint

    def get_optimal_width(self, rules: object, container_width: int) -> int:
        return container_width

    def get_height(self, rules: object, width: int) -> int:
        return self._screen.size.height

    def render_strips(
        self, width: int, height: int | None, style: WidgetStyle, options: RenderOptions
    ) -> list[Strip]:
        size = Size(width, self._screen.size.height if height is None else height)
        key = size, style.rich_style
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = key, self._draw(*key)
        return self._drawn[1]

    def _draw(self, size: Size, base: Style) -> list[Strip]:
        tinted: dict[Style | None, Style] = {}

        def tint(segment: Segment) -> Segment:
            if (found := tinted.get(segment.style)) is None:
                found = tinted[segment.style] = base + self._tinted(segment.style)
            return Segment(segment.text, found)

        strips = self._screen.screen._compositor.render_strips()[: size.height]
        return [Strip([tint(segment) for segment in strip]) for strip in strips]

    def _tinted(self, style: Style | None) -> Style:
        """As `textual.renderables.background_screen` has it."""
        plain = Style.null() if style is None else style.clear_meta_and_links()
        if self._tint.a == 0:
            return plain
        ink, ground = (
            None if colour is None else (Color.from_rich_color(colour) + self._tint).rich_color
            for colour in (plain.color, plain.bgcolor)
        )
        return plain + Style.from_color(ink, ground)
