"""`VerdictBar`: how many rows have each verdict; a click or its key shows those alone."""

from __future__ import annotations

from collections.abc import Mapping

from rich.text import Text
from textual import events
from textual.message import Message
from textual.widgets import Static

from inspector.checkpoint.text import plural

__all__ = ["VerdictBar"]


class VerdictBar(Static):
    """`a all 12 rows  2 DIFFER 1  7 EXACT 11`, on as many lines as that takes."""

    DEFAULT_CSS = """
    VerdictBar { height: auto; max-height: 3; padding: 0 1; background: $panel; }
    """

    class Chosen(Message):
        """A click on a group; empty for all."""

        def __init__(self, group: str) -> None:
            super().__init__()
            self.group = group

    def __init__(self, groups: Mapping[str, str], styles: Mapping[str, str]) -> None:
        """Args: `groups` are titles by id, keyed 1 to 9 and 0 by place; `styles` by id."""
        super().__init__("", markup=False)
        self._groups = dict(groups)
        self._styles = dict(styles)
        self._counts: Mapping[str, int] = {}
        self._total = 0
        self._current = ""
        self._num_shown = 0
        self._num_lines = 1
        self._spans: list[tuple[int, int, int, str]] = []

    def show(self, counts: Mapping[str, int], current: str, num_shown: int) -> None:
        """Show how many rows each group has.

        Args:
            counts: By id.
            current: The group that is shown alone; empty if all are.
            num_shown: Rows that the filters leave.
        """
        self._counts, self._total = dict(counts), sum(counts.values())
        self._current, self._num_shown = current, num_shown
        self._draw()

    def on_resize(self) -> None:
        # After this layout, not in it: the bar may need another height.
        self.call_after_refresh(self._draw)

    def _all(self) -> str:
        rows = plural(self._total, "row")
        return f"all {rows}" if self._num_shown == self._total else f"{self._num_shown:,} of {rows}"

    def _draw(self) -> None:
        width = max(self.size.width - 2, 20)
        text, self._spans, used, line = Text(no_wrap=True), [], 0, 0
        choices = [("", "a", self._all(), "")]
        for number, (group, title) in enumerate(self._groups.items(), 1):
            # One that is shown alone stays, though a reload emptied it.
            if self._counts.get(group) or group == self._current:
                found = f"{title} {self._counts.get(group, 0):,}"
                choices.append((group, str(number % 10), found, self._styles[group]))
        for group, key, title, style in choices:
            label = f" {key} {title} "
            if used and used + len(label) > width:
                text.append("\n")
                used, line = 0, line + 1
            start = used
            if group == self._current:
                text.append(label, "bold reverse")
            else:
                text.append(f" {key} ", "dim").append(f"{title} ", style)
            used += len(label)
            self._spans.append((line, start, used, group))
        is_taller = line + 1 != self._num_lines
        self._num_lines = line + 1
        self.update(text, layout=is_taller)

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        for line, start, end, group in self._spans:
            if offset is not None and offset.y == line and start <= offset.x < end:
                self.post_message(self.Chosen(group))
