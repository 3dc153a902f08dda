"""`FilterLine`: the line that `/` opens above a table. `Reader` and `FactSheet`: text to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, Static

__all__ = ["ChoiceLine", "FactSheet", "FilterLine", "Reader", "Section"]

#: A title, which may be empty, and rows of cells, of which the last may be long.
Section = tuple[str, Sequence[tuple[str, ...]]]

_MORE = " …"


class FilterLine(Input):
    """Words that a name must hold, and how many names do."""

    DEFAULT_CSS = """
    FilterLine, FilterLine:focus { height: 1; border: none; padding: 0 1; background: $boost; }
    """

    #: How many rows are left, where some are not; else empty.
    count: reactive[str] = reactive("")

    def __init__(self) -> None:
        super().__init__(placeholder="words that the name holds; !word leaves it out; esc clears")

    def render_line(self, y: int) -> Strip:
        line, width = super().render_line(y), self.size.width
        room = width - len(self.count)
        # What is typed comes first, and a blank for the cursor behind it.
        if not self.count or cell_len(self.value) + 2 > room:
            return line
        end = Segment(self.count, self.rich_style)
        return Strip([*line.crop(0, room), end], width)


class ChoiceLine(Static, can_focus=True):
    """Left and right (or a click) choose; the chosen word stands out without colour too."""

    DEFAULT_CSS = """
    ChoiceLine { height: 1; width: 1fr; color: $text-muted; }
    ChoiceLine:focus { background: $primary 25%; color: $foreground; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("right,l", "step(1)", "Next", show=False, id="choice.right"),
        Binding("left,h", "step(-1)", "Previous", show=False, id="choice.left"),
    ]

    @dataclass
    class Changed(Message):
        """The user chose another word."""

        line: ChoiceLine
        value: str

    def __init__(
        self,
        words: Sequence[str],
        value: str = "",
        *,
        id: str | None = None,  # noqa: A002
    ) -> None:
        """Args: `words` are printable; `value` is the one chosen, or none of them."""
        super().__init__("", markup=False, id=id)
        self.words = tuple(words)
        self.value = value
        self._spans: list[tuple[int, int, str]] = []

    def set_words(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self.refresh()

    def choose(self, value: str) -> None:
        """Mark a word, and say nothing; none, if it is not among them."""
        if value != self.value:
            self.value = value
            self.refresh()

    def _fitting(self) -> tuple[str, ...]:
        """The words that there is room for, the chosen one among them: none is cut."""
        words, room = self.words, self.size.width
        if not room or sum(len(word) + 2 for word in words) <= room:
            return words
        room -= 2 * len(_MORE)
        words = tuple(word for word in words if len(word) + 2 <= room)
        if not words:
            return ()
        at = words.index(self.value) if self.value in words else 0
        first, last = at, at + 1
        room -= len(words[at]) + 2
        while last < len(words) and room >= len(words[last]) + 2:
            room -= len(words[last]) + 2
            last += 1
        while first and room >= len(words[first - 1]) + 2:
            first -= 1
            room -= len(words[first]) + 2
        return words[first:last]

    def render(self) -> Text:
        text = Text(no_wrap=True)
        self._spans = []
        words = self._fitting()
        if words[:1] != self.words[:1]:
            text.append(_MORE)
        for word in words:
            start = text.cell_len
            if word == self.value:
                text.append(f"[{word}]", "bold reverse")
            else:
                text.append(f" {word} ")
            self._spans.append((start, text.cell_len, word))
        if words[-1:] != self.words[-1:]:
            text.append(_MORE)
        return text

    def action_step(self, steps: int) -> None:
        if not self.words:
            return
        if self.value in self.words:
            index = self.words.index(self.value) + steps
        else:
            index = 0 if steps > 0 else len(self.words) - 1
        self._take(self.words[max(0, min(index, len(self.words) - 1))])

    def _take(self, word: str) -> None:
        if word != self.value:
            self.choose(word)
            self.post_message(self.Changed(self, word))

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        for start, end, word in self._spans:
            if offset is not None and start <= offset.x < end:
                self._take(word)


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


#: Between two columns of a sheet, and the least that the last of them is given.
_GAP_CELLS, _LEAST_CELLS = 2, 10


class FactSheet(Widget):
    """Sections of rows; the last cell of a row is wrapped, the others are as wide as they must be.

    It is laid out once for a width. A table of Rich's would be for its height, for each of its
    lines and for each scroll, and a key that shows a long one would wait for that.
    """

    DEFAULT_CSS = "FactSheet { width: 1fr; height: auto; }"

    def __init__(self, *styles: str, sections: Sequence[Section] = ()) -> None:
        super().__init__()
        self._styles = tuple(Style.parse(style) for style in styles)
        self._sections = sections
        self._laid_width = 0
        self._lines: list[list[tuple[str, Style]]] = []

    def show(self, sections: Sequence[Section]) -> None:
        """Show sections of printable rows, of as many cells as there are styles."""
        self._sections = sections
        self._laid_width = 0
        self.refresh(layout=True)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        self._lay(width)
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        width, base = self.size.width, self.rich_style
        self._lay(width)
        parts = self._lines[y] if y < len(self._lines) else []
        strip = Strip([Segment(text, base + style) for text, style in parts])
        return strip.adjust_cell_length(width, base)

    def _lay(self, width: int) -> None:
        if width == self._laid_width:
            return
        self._laid_width, self._lines = width, []
        for title, rows in self._sections:
            if self._lines:
                self._lines.append([])
            if title:
                self._lines.append([(title, Style(bold=True))])
            widths = [max(map(cell_len, column)) for column in list(zip(*rows, strict=True))[:-1]]
            room = width - sum(widths) - _GAP_CELLS * len(widths)
            for row in rows:
                self._lay_row(row, widths, max(room, _LEAST_CELLS))

    def _lay_row(self, row: tuple[str, ...], widths: Sequence[int], room: int) -> None:
        """One row, its last cell on as many lines as it takes in `room` cells."""
        *heads, last = row
        wrapped = [line.plain.rstrip() for line in Text(last).wrap(self.app.console, room)] or [""]
        for number, text in enumerate(wrapped):
            parts = [
                (("" if number else head) + " " * (width + _GAP_CELLS - cells), style)
                for head, width, style in zip(heads, widths, self._styles, strict=False)
                for cells in (0 if number else cell_len(head),)
            ]
            self._lines.append([*parts, (text, self._styles[-1])])
