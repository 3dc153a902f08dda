"""`ViewBar`: the views and their keys; `TaskLine`: what runs; `VerdictBar`: rows by verdict."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text
from textual import events
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Static

from inspector.checkpoint.text import format_bytes, format_seconds, plural
from inspector.checkpoint.workers import BytesProgress
from inspector.report.fitting import bar
from inspector.tui.background import Background
from inspector.tui.kit.cell_text import clip

__all__ = ["TaskLine", "VerdictBar", "ViewBar"]


_MANY = 10_000


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
        self._counts: dict[str, tuple[str, str]] = {}
        self._spans: list[tuple[int, int, str]] = []

    def show_count(self, view: str, count: int, style: str = "") -> None:
        """Show how many things of note a view holds, beside its title; none if it is 0."""
        said = f"{count:,}" if count < _MANY else f"{count // 1000}k"
        self.show_word(view, said if count else "", style)

    def show_word(self, view: str, word: str, style: str = "") -> None:
        """Show how something in a view stands, beside its title; empty for nothing."""
        if self._counts.get(view, ("", "")) != (word, style):
            self._counts[view] = word, style
            self.refresh()

    def render(self) -> Text:
        text = Text()
        self._spans = []
        counts = {view: f" {word}" for view, (word, _) in self._counts.items() if word}
        titles = {view: title for view, _, title in self._views}

        def needed() -> int:
            return sum(
                len(key) + len(titles[view]) + len(counts.get(view, "")) + 3
                for view, key, _ in self._views
            )

        # Where there is no room for a blank between them, they stand side by side; then the last
        # words of titles go: `Load plan` is `plan` enough.
        room = self.size.width - 2
        gap = " " if needed() + len(self._views) <= room else ""
        for view, title in titles.items():
            if needed() > room:
                titles[view] = title.rpartition(" ")[2].capitalize()
        for view, key, _ in self._views:
            start = text.cell_len
            style = "bold reverse" if view == self.current else ""
            text.append(f" {key} {titles[view]}", style=style)
            if view in counts:
                text.append(counts[view], style or self._counts[view][1])
            text.append(" ", style=style)
            self._spans.append((start, text.cell_len, view))
            text.append(gap)
        for note in self._notes():
            room = self.size.width - 2 - text.cell_len - len(note)
            if room >= 1:
                text.append(" " * room + note)
                break
        return text

    def _notes(self) -> Iterator[str]:
        """What may stand at the end, the longest first."""
        if not self.note[-1:].isdigit():
            yield self.note
            return
        yield f"{self.note} {'row' if self.note == '1' else 'rows'}"
        if " of " in self.note:
            # A bare number beside the last title would look like the key of another view.
            yield self.note

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        for start, end, view in self._spans:
            if offset is not None and start <= offset.x < end:
                self.post_message(self.Chosen(view))


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

    def show(
        self,
        title: str,
        progress: BytesProgress | None,
        background: Background[Any],
        hint: str,
        *,
        num_wrong: int = 0,
    ) -> None:
        """Show a task that reads bytes, and how many payloads it found wrong so far.

        Args:
            title: What it does.
            progress: How far it is; None, or of no bytes in all, while that is not known.
            background: Where it runs.
            hint: How to stop it.
            num_wrong: Payloads with something wrong.
        """
        num_done = 0 if progress is None else progress.bytes_done
        num_bytes = 0 if progress is None else progress.bytes_total
        elapsed_s = time.monotonic() - background.asked_s
        hint = "stopping" if background.is_stopping else hint
        share = num_done / num_bytes if num_bytes else 0.0
        rate = num_done / elapsed_s if elapsed_s > 0 else 0.0
        left = format_seconds((num_bytes - num_done) / rate) if rate > 0 else "?"
        cells = self.size.width - _WORD_CELLS
        cells = max(_LEAST_BAR_CELLS, min(_MOST_BAR_CELLS, cells))
        wrong = f"  {num_wrong:,} wrong so far" if num_wrong else ""
        parts: list[str | tuple[str, str] | Text] = [" ..."]
        if num_bytes:
            parts = [
                " ",
                bar(share, max(_LEAST_BAR_CELLS, cells - len(wrong))),
                f" {share:4.0%} of {format_bytes(num_bytes)}",
                (wrong, "error"),
                f"  {format_bytes(rate)}/s  {left} left",
            ]
        text = Text.assemble((title, "bold"), *parts, "  ", (hint, "dim"))
        clip(text, max(1, self.size.width - 2 if self.size.width else 200))
        # Of one line always: the rest of the screen need not be laid out anew.
        self.update(text, layout=False)
        self.add_class("-running")
        self.screen.add_class("-busy")

    def hide(self) -> None:
        """Nothing runs any more."""
        if not self.has_class("-running"):
            return
        self.remove_class("-running")
        self.screen.remove_class("-busy")


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
        """Show how many rows each group has."""
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
