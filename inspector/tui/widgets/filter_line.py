"""`FilterLine`: the line that `/` opens above a table."""

from __future__ import annotations

from textual.widgets import Input

__all__ = ["FilterLine"]


class FilterLine(Input):
    """Words that a name must hold."""

    DEFAULT_CSS = """
    FilterLine, FilterLine:focus { height: 1; border: none; padding: 0 1; background: $boost; }
    """

    def __init__(self) -> None:
        super().__init__(placeholder="words that the name holds; !word leaves it out; esc clears")
