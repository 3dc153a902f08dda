"""`KeyBar`: the keys that mean something now, on one line at the bottom.

The rules this module keeps: one widget, however many keys. A widget per key, made anew with every
change of focus, took longer than everything else that a change of view draws. And the keys that
lead to all the others (help, commands, quit) are there at any width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.strip import Strip
from textual.widget import Widget

from inspector.tui.commands import LAST_IN_FOOTER, shown_key

if TYPE_CHECKING:
    from textual.screen import Screen

__all__ = ["KeyBar"]

_MORE = " …"


@dataclass(frozen=True, slots=True)
class _Hint:
    """One key: what a click on it presses, and what stands there."""

    key: str
    shown_key: str
    title: str
    is_enabled: bool
    tooltip: str
    is_pinned: bool

    @property
    def cells(self) -> int:
        return cell_len(self.shown_key) + cell_len(self.title) + 3


class KeyBar(Widget):
    """` s Sort  / Filter `: a click presses the key; the wheel scrolls what does not fit.

    The app's own keys come last and always; the screen's as many as there is room for, in the
    order of the command table, those of `LAST_IN_FOOTER` after the others. A screen's
    `quiet_actions` are commands that would do nothing now.
    """

    ALLOW_SELECT = False

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "key-bar--key",
        "key-bar--title",
        "key-bar--hovered",
        "key-bar--disabled",
    }

    DEFAULT_CSS = """
    KeyBar {
        dock: bottom; height: 1; background: $panel; color: $footer-foreground;
        & > .key-bar--key { color: $footer-key-foreground; text-style: bold; }
        & > .key-bar--title { color: $footer-description-foreground; }
        & > .key-bar--hovered { background: $block-hover-background; }
        & > .key-bar--disabled { text-style: dim; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._hints: tuple[_Hint, ...] = ()
        self._hovered: _Hint | None = None
        self._first = 0

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._bindings_changed)
        self._read(self.screen)

    def _bindings_changed(self, screen: Screen[object]) -> None:
        # While another window has the keys nothing is focused here; that is no news.
        if screen is self.screen and self.app.app_focus:
            self._read(screen)

    def _read(self, screen: Screen[object]) -> None:
        hints: dict[str, _Hint] = {}
        quiet: frozenset[str] = getattr(screen, "quiet_actions", frozenset())
        for node, binding, enabled, tooltip in screen.active_bindings.values():
            if binding.show and binding.action not in hints and binding.action not in quiet:
                # Of several keys the first is told, but where that is typed into a line.
                shown = shown_key(binding.key)
                if not binding.key_display:
                    shown = self.app.get_key_display(binding)
                title, is_pinned = binding.description, node is self.app
                hint = _Hint(binding.key, shown, title, enabled, tooltip, is_pinned)
                hints[binding.action] = hint
        # Only where there is room for all the others.
        ordered = sorted(hints, key=LAST_IN_FOOTER.__contains__)
        if (found := tuple(hints[action] for action in ordered)) != self._hints:
            self._hints = found
            self._first = 0
            self.refresh()

    def _scroll(self, steps: int) -> None:
        """Leave out so many more keys at the start, while there are some that do not fit."""
        loose = sum(not hint.is_pinned for hint in self._hints)
        if steps < 0 or len(self._shown()) < len(self._hints) - self._first:
            self._first = max(0, min(loose - 1, self._first + steps))
            self.refresh()

    def on_resize(self) -> None:
        self._first = 0
        self.refresh()

    def _shown(self) -> list[_Hint]:
        """The keys that there is room for."""
        loose = [hint for hint in self._hints if not hint.is_pinned][self._first :]
        pinned = [hint for hint in self._hints if hint.is_pinned]
        room = self.size.width - sum(hint.cells for hint in pinned)
        if sum(hint.cells for hint in loose) > room:
            room -= len(_MORE)
        fitting = []
        for hint in loose:
            room -= hint.cells
            if room < 0:
                break
            fitting.append(hint)
        return fitting + pinned

    def _parts(self) -> list[_Hint | None]:
        """What stands on the line; None where some keys are left out."""
        shown = self._shown()
        parts: list[_Hint | None] = [*shown]
        if len(shown) < len(self._hints) - self._first:
            # Before the pinned ones; with none of them nothing is said of it.
            at = next((n for n, hint in enumerate(shown) if hint.is_pinned), None)
            if at is not None:
                parts.insert(at, None)
        return parts

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        key_style = self.get_component_rich_style("key-bar--key", partial=True)
        title_style = self.get_component_rich_style("key-bar--title", partial=True)
        disabled = self.get_component_rich_style("key-bar--disabled", partial=True)
        hovered = self.get_component_rich_style("key-bar--hovered", partial=True)
        segments = []
        for hint in self._parts():
            if hint is None:
                segments.append(Segment(_MORE, base + title_style))
                continue
            style = base if hint.is_enabled else base + disabled
            style = style + hovered if hint is self._hovered else style
            segments.append(Segment(f" {hint.shown_key} ", style + key_style))
            segments.append(Segment(f"{hint.title} ", style + title_style))
        return Strip(segments).adjust_cell_length(self.size.width, base)

    # The mouse.

    def _hint_at(self, x: int) -> _Hint | None:
        end = 0
        for hint in self._parts():
            end += len(_MORE) if hint is None else hint.cells
            if x < end:
                return hint
        return None

    def _hover(self, hint: _Hint | None) -> None:
        if hint is not self._hovered:
            self._hovered = hint
            self.tooltip = hint.tooltip if hint is not None and hint.tooltip else None
            self.refresh()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        self._hover(self._hint_at(event.x))

    def on_leave(self) -> None:
        self._hover(None)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        hint = self._hint_at(event.x)
        if hint is None:
            return
        if hint.is_enabled:
            self.app.simulate_key(hint.key)
        else:
            self.app.bell()

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._scroll(1)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._scroll(-1)
