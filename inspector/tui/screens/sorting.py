"""`sort_table`: the tables' own sorting, as a command of a screen."""

from __future__ import annotations

from typing import Any

from textual.screen import Screen

from inspector.tui.widgets.virtual_table import VirtualTable

__all__ = ["sort_table"]


def sort_table(screen: Screen[Any], table: VirtualTable, *, reverse: bool) -> None:
    """Sort the table that has the keys by its next column, or turn its order.

    Args:
        screen: Where the keys go.
        table: The table that is meant if no table has them.
        reverse: True turns the order.
    """
    focused = screen.focused
    chosen = focused if isinstance(focused, VirtualTable) else table
    if reverse:
        chosen.action_sort_reverse()
    else:
        chosen.action_sort_next()
