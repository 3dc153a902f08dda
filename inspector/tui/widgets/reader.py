"""`Reader`: text that is longer than the screen, scrolled with the keys of the lists."""

from __future__ import annotations

from textual.binding import Binding
from textual.containers import VerticalScroll

__all__ = ["Reader"]


class Reader(VerticalScroll):
    """A scrolling pane with vim's keys beside Textual's own."""

    BINDINGS = [
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
        Binding("g", "scroll_home", "First", show=False),
        Binding("G", "scroll_end", "Last", show=False),
        Binding("ctrl+d", "page_down", "Page down", show=False),
        Binding("ctrl+u", "page_up", "Page up", show=False),
    ]
