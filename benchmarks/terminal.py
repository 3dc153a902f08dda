"""What a terminal would show of what a program writes: cells, each a character and its style.

Enough of a terminal for what Textual writes: text, absolute cursor moves, colours, and modes that
draw nothing. Nothing scrolls.
"""

from __future__ import annotations

import codecs
import re

from rich.cells import cell_len

__all__ = ["Picture"]

_TOKEN = re.compile(
    r"\x1b\[(?P<args>[0-9;:<=>?]*)(?P<between>[ -/]*)(?P<final>[@-~])"
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-~]"
    r"|[\r\n\b\x07]"
    r"|(?P<text>[^\x1b\r\n\b\x07]+)",
    re.DOTALL,
)


class Picture:
    """The screen as it stands."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.cells = [[(" ", "")] * columns for _ in range(rows)]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._x = self._y = 0
        self._style = ""

    def feed(self, written: bytes) -> None:
        """Draw what was written next; a sequence may end in the next piece."""
        text = self._rest + self._decoder.decode(written)
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                break  # The beginning of a sequence.
            at = token.end()
            if (plain := token["text"]) is not None:
                self._put(plain)
            elif token["final"] is not None:
                self._control(token["args"], token["final"])
            elif token[0] == "\r":
                self._x = 0
            elif token[0] == "\n":
                self._y += 1
        self._rest = text[at:]

    def _put(self, text: str) -> None:
        for character in text:
            width = 1 if character.isascii() else cell_len(character)
            if 0 <= self._y < self.rows and 0 <= self._x < self.columns and width:
                line = self.cells[self._y]
                line[self._x] = (character, self._style)
                if width == 2 and self._x + 1 < self.columns:
                    line[self._x + 1] = ("", self._style)
            self._x += width

    def _control(self, args: str, final: str) -> None:
        if final == "H":
            row, _, column = args.partition(";")
            self._y, self._x = int(row or 1) - 1, int(column or 1) - 1
        elif final == "m":
            self._style = "" if args in ("", "0") else args
        elif final == "J" and args == "2":
            self.cells = [[(" ", "")] * self.columns for _ in range(self.rows)]

    def text(self, row: int) -> str:
        """A line without its styles."""
        return "".join(character for character, _ in self.cells[row])

    @property
    def texts(self) -> list[str]:
        """All lines."""
        return [self.text(row) for row in range(self.rows)]

    def part(
        self, top: int, bottom: int, left: int, right: int
    ) -> list[tuple[tuple[str, str], ...]]:
        """The cells from line `top` and column `left` up to `bottom` and `right`."""
        return [tuple(line[left:right]) for line in self.cells[top:bottom]]
