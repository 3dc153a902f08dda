"""`Pane`: a widget that was given its size; `RowPane` and `ColumnPane` are panes that hold others.

Textual lays the whole screen out a second time whenever the size of a widget changed, in case
scrollbars follow from it. Nothing follows from the size of these, so they do not ask for it.
"""

from __future__ import annotations

from textual.geometry import Size
from textual.reactive import Reactive
from textual.widget import Widget

__all__ = ["ColumnPane", "Pane", "RowPane"]


class Pane(Widget):
    """A widget without scrollbars of its own, whose content does not tell its size."""

    virtual_size = Reactive(Size(0, 0), layout=False, repaint=False)


class RowPane(Pane):
    """Widgets side by side."""

    # Nothing of it is seen, so there is nothing to draw line by line.
    BLANK = True

    DEFAULT_CSS = (
        "RowPane { width: 1fr; height: 1fr; layout: horizontal; overflow: hidden hidden; }"
    )


class ColumnPane(Pane):
    """Widgets below each other."""

    BLANK = True

    DEFAULT_CSS = (
        "ColumnPane { width: 1fr; height: 1fr; layout: vertical; overflow: hidden hidden; }"
    )
