"""`ViewBar`: the views and their keys on one line, the open one picked out."""

from __future__ import annotations

from rich.text import Text
from textual import events
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Static

__all__ = ["ViewBar"]


class ViewBar(Static):
    """One line: `1 Tensors   2 Files`, with the count of what is shown at its end."""

    DEFAULT_CSS = """
    ViewBar { height: 1; padding: 0 1; background: $panel; color: $text-muted; }
    """

    current: reactive[str] = reactive("")
    note: reactive[str] = reactive("")

    class Chosen(Message):
        """A click on a view's title."""

        def __init__(self, view: str) -> None:
            super().__init__()
            self.view = view

    def __init__(self, views: tuple[tuple[str, str, str], ...]) -> None:
        """Args: `views` are (id, key, title)."""
        super().__init__(markup=False)
        self._views = views
        self._spans: list[tuple[int, int, str]] = []

    def watch_current(self) -> None:
        self._draw()

    def watch_note(self) -> None:
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    def _draw(self) -> None:
        text = Text()
        self._spans = []
        # Where there is no room for a blank between them, they stand side by side.
        needed = sum(len(key) + len(title) + 4 for _, key, title in self._views)
        gap = " " if needed <= self.size.width - 2 else ""
        for view, key, title in self._views:
            start = text.cell_len
            style = "bold reverse" if view == self.current else ""
            text.append(f" {key} {title} ", style=style)
            self._spans.append((start, text.cell_len, view))
            text.append(gap)
        room = self.size.width - 2 - text.cell_len - len(self.note)
        if self.note and room >= 1:
            text.append(" " * room + self.note)
        # Of one line always: the rest of the screen need not be laid out anew.
        self.update(text, layout=False)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        for start, end, view in self._spans:
            if offset is not None and start <= offset.x < end:
                self.post_message(self.Chosen(view))
