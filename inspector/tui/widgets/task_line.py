"""`TaskLine`: what runs in the background, how far it is, and how to stop it."""

from __future__ import annotations

from rich.text import Text
from textual.widgets import Static

from inspector.checkpoint.text import format_bytes, format_seconds
from inspector.tui.widgets.bar import bar

__all__ = ["TaskLine"]

_LEAST_BAR_CELLS, _MOST_BAR_CELLS = 6, 24
#: What the words beside the bar take.
_WORD_CELLS = 74


class TaskLine(Static):
    """One line above the footer; hidden while nothing runs."""

    DEFAULT_CSS = """
    TaskLine {
        dock: bottom; height: 1; margin-bottom: 1; padding: 0 1; background: $panel; display: none;
    }
    TaskLine.-running { display: block; }
    """

    def __init__(self) -> None:
        super().__init__("", markup=False)

    def show(self, title: str, num_done: int, num_bytes: int, elapsed_s: float, hint: str) -> None:
        """Show a task that reads bytes."""
        share = num_done / num_bytes if num_bytes else 0.0
        rate = num_done / elapsed_s if elapsed_s > 0 else 0.0
        left = format_seconds((num_bytes - num_done) / rate) if rate > 0 else "?"
        cells = self.size.width - _WORD_CELLS
        cells = max(_LEAST_BAR_CELLS, min(_MOST_BAR_CELLS, cells))
        text = Text.assemble(
            (f"{title} ", "bold"),
            bar(share, cells),
            f" {share:4.0%} of {format_bytes(num_bytes)}  {format_bytes(rate)}/s  {left} left  ",
            (hint, "dim"),
        )
        text.truncate(max(1, self.size.width - 2 if self.size.width else 200), overflow="ellipsis")
        # Of one line always: the rest of the screen need not be laid out anew.
        self.update(text, layout=False)
        self.add_class("-running")

    def hide(self) -> None:
        """Nothing runs any more."""
        self.remove_class("-running")
