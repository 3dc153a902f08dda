"""`DifferenceMap`: where in a tensor two checkpoints differ, framed by the chunks of both.

The rule this module keeps: it reads nothing. It asks for a map of its size with `Wanted` and is
given it by `put`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from rich.segment import Segment
from rich.style import Style
from textual.message import Message
from textual.strip import Strip

from inspector.checkpoint.model import Ints, Tensor
from inspector.checkpoint.text import format_box, format_shape
from inspector.diff.elements import index_of
from inspector.diff.map import DifferenceCells
from inspector.diff.map import DifferenceCells as Found
from inspector.tui.kit.cell_text import fit
from inspector.tui.kit.part_map import PartMap
from inspector.tui.values.heat_paint import cuts_on, place

__all__ = ["DifferenceMap", "PartGrid", "plane_cuts"]


#: Where each level of a part ends, as a share of its elements; level 0 is where nothing differs.
LEVELS = (0.0, 0.01, 0.1, 0.5, 1.0)
#: A level's look without colours, and in colours (of level 0: the theme's).
SHADES = "·░▒▓█"
COLORS = ("", "#c9b458", "#e39a2d", "#e0622d", "#c81e3c")


def plane_size(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of the plane that `difference_map` sees in a tensor."""
    return math.prod(shape[:-1]), (shape[-1] if shape else 1)


def plane_cuts(shape: Sequence[int], offsets: Ints) -> tuple[Ints, Ints]:
    """The rows and the columns of that plane at which chunks begin.

    Args:
        shape: The tensor's.
        offsets: Where its chunks begin, shape (chunks, dims).
    """
    if len(shape) == 0 or not len(offsets):
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    rows = np.zeros(len(offsets), np.int64)
    for dim, size in enumerate(shape[:-1]):
        rows = rows * size + offsets[:, dim]
    return np.unique(rows), np.unique(offsets[:, -1].astype(np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class PartGrid:
    """What is drawn: lines of parts, none of which looks the same if one element of it differs.

    Attributes:
        found: The map.
        shape: The tensor's.
        levels: Index into `SHADES` of each part, -1 past the end; shape (lines, parts).
        is_wrapped: Whether the plane is one row or one column, whose parts go on from line to line.
    """

    found: DifferenceCells
    shape: tuple[int, ...]
    levels: npt.NDArray[np.int8]
    is_wrapped: bool

    @classmethod
    def of(cls, found: DifferenceCells, shape: tuple[int, ...], per_line: int) -> PartGrid:
        """From a map; `per_line` parts in each line, if its plane is one row or column."""
        shares = found.num_different / np.maximum(found.num_elements, 1)
        levels = np.searchsorted(LEVELS, shares, side="left").astype(np.int8)
        rows, columns = plane_size(shape)
        is_wrapped = min(rows, columns) == 1 and levels.size > 0
        if is_wrapped:
            lines = -(-levels.size // per_line)
            flat = np.full(lines * per_line, -1, np.int8)
            flat[: levels.size] = levels.reshape(-1)
            levels = flat.reshape(lines, per_line)
        return cls(found, shape, levels, is_wrapped)

    @property
    def height(self) -> int:
        return int(self.levels.shape[0])

    @property
    def width(self) -> int:
        return int(self.levels.shape[1])

    def part(self, i: int, j: int) -> tuple[int, int]:
        """The map's row and column of a part."""
        if self.is_wrapped:
            at = i * self.width + j
            return divmod(at, len(self.found.column_cuts) - 1)
        return i, j

    def first_different(self) -> tuple[int, int] | None:
        at = np.argwhere(self.levels > 0)
        return (int(at[0][0]), int(at[0][1])) if len(at) else None

    def said(self, i: int, j: int) -> str:
        """What a part is: its box (of more than two dims, its ends), and how much of it differs."""
        row, column = self.part(i, j)
        low = int(self.found.row_cuts[row]), int(self.found.column_cuts[column])
        high = int(self.found.row_cuts[row + 1]), int(self.found.column_cuts[column + 1])
        differ = int(self.found.num_different[row, column])
        total = int(self.found.num_elements[row, column])
        if len(self.shape) > 2:
            width = plane_size(self.shape)[1]
            first, last = low[0] * width + low[1], (high[0] - 1) * width + high[1] - 1
            ends = (format_shape(index_of(at, self.shape)) for at in (first, last))
            where = " to ".join(dict.fromkeys(ends))
        else:
            skipped = 2 - len(self.shape)
            where = format_box(
                low[skipped:], [b - a for a, b in zip(low, high, strict=True)][skipped:]
            )
        return f"{where}  {differ:,} of {total:,} differ"


_LEGEND = ((" same", 0), ("≤1%", 1), ("≤10%", 2), ("≤50%", 3), (">50%", 4))


class DifferenceMap(PartMap):
    """A line of legend, a line on the part under the cursor, and the map in its frame.

    Ticks at the left and top of the frame are where chunks of A begin, at the right and bottom
    those of B.

    Keys: h j k l and the arrows go from part to part; a click does so, too.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"part-map--same"}

    DEFAULT_CSS = """
    DifferenceMap > .part-map--same { color: $foreground 25%; }
    DifferenceMap:ansi > .part-map--same { color: ansi_default; text-style: dim; }
    """

    @dataclass
    class Wanted(Message):
        """A map of at most so many parts is to be read, and given to `put`."""

        rows: int
        columns: int

    def __init__(self) -> None:
        super().__init__()
        self._margin = (3, 1)
        self._shape: tuple[int, ...] | None = None
        #: Of A and of B: rows and columns of the plane at which chunks begin.
        self._cuts: list[tuple[Ints, Ints]] = []
        self._found: Found | None = None
        self._said = ""
        self._asked: tuple[int, int] | None = None
        self._per_line = 1
        self._cursor: tuple[int, int] | None = None
        self.grid: PartGrid | None = None

    # Values in.

    def show(self, a: Tensor, b: Tensor, said: str = "") -> None:
        """Show a tensor that both sides have; `said`, printable, stands there until a map comes."""
        self._shape = a.shape
        self._cuts = [plane_cuts(tensor.shape, tensor.offsets) for tensor in (a, b)]
        self._found, self._said, self._asked, self._cursor = None, said, None, None
        self.ask()

    def say(self, said: str) -> None:
        """There is no map: say why, printable."""
        self._found, self._said, self._asked, self._cursor = None, said, None, None
        self._redraw()

    def show_nothing(self, said: str) -> None:
        """There can be no map: say why, printable."""
        self._shape, self._cuts = None, []
        self.say(said)

    def put(self, found: Found) -> None:
        self._found = found
        self._redraw()

    # Measures.

    def _room(self) -> tuple[int, int]:
        """Lines and cells for the map, inside its frame."""
        width, height = self.size
        return max(height - 4, 0), max(width - 2, 0)

    def ask(self) -> None:
        """Ask for a map of this size, if it was not asked for already."""
        lines, cells = self._room()
        self._redraw()
        if self._shape is None or lines < 1 or cells < 1:
            return
        rows, columns = plane_size(self._shape)
        if not rows * columns:
            return
        height = self._halves * lines
        wanted = (min(height, rows), min(cells, columns))
        if min(rows, columns) == 1:
            parts = min(height * cells, rows * columns)
            self._per_line = min(cells, parts)
            wanted = (parts, 1) if columns == 1 else (1, parts)
        if wanted != self._asked:
            self._asked = wanted
            self.post_message(self.Wanted(*wanted))

    def on_resize(self) -> None:
        self._cursor = None
        self.ask()

    # Drawing.

    def _draw(self) -> list[Strip]:
        self.grid = None
        lines, cells = self._room()
        if self._found is None or self._shape is None or lines < 1 or cells < 1:
            return self._said_instead(self._said)
        grid = self.grid = PartGrid.of(self._found, self._shape, self._per_line)
        if self._cursor is None:
            self._cursor = grid.first_different() or (0, 0)
        self._placing = place(grid.height, grid.width, self._halves * lines, cells)
        num_lines = min(-(-grid.height * self._placing.high // self._halves), lines)
        above, below, left, right = self._frame(grid, num_lines)
        label = self._part("label")
        body = [
            Strip([Segment(left[n], label), *self._line(grid, n), Segment(right[n], label)])
            for n in range(num_lines)
        ]
        head = Strip(self._legend())
        said = fit(grid.said(*self._cursor), self.size.width)
        where = Strip([Segment(said, self._part("focused" if self.has_focus else "label"))])
        return [head, where, Strip([Segment(above, label)]), *body, Strip([Segment(below, label)])]

    def _frame(self, grid: PartGrid, num_lines: int) -> tuple[str, str, list[str], list[str]]:
        """The four sides of the frame, with a tick where a chunk begins."""
        wide, high = self._placing.wide, self._placing.high
        step = self._halves
        above, below = ["─"] * (grid.width * wide), ["─"] * (grid.width * wide)
        left, right = ["│"] * num_lines, ["│"] * num_lines
        if self._cuts and not grid.is_wrapped:
            found = grid.found
            for (rows, columns), ends, mark, edge, tick in (
                (self._cuts[0], above, "┬", left, "├"),
                (self._cuts[1], below, "┴", right, "┤"),
            ):
                for part, cut in cuts_on(found.column_cuts, columns.tolist()).items():
                    if cut and part * wide < len(ends):
                        ends[part * wide] = mark
                for part, cut in cuts_on(found.row_cuts, rows.tolist()).items():
                    if cut and part * high // step < num_lines:
                        edge[part * high // step] = tick
        return f"┌{''.join(above)}┐", f"└{''.join(below)}┘", left, right

    def _line(self, grid: PartGrid, line: int) -> list[Segment]:
        scale, plain = self._placing, self.is_plain
        rows = [line] if plain else [2 * line, 2 * line + 1]
        parts = [row // scale.high for row in rows]
        cursor = self._cursor or (0, 0)
        first_line = cursor[0] * scale.high // (1 if plain else 2)
        segments = []
        for j in range(grid.width):
            levels = [int(grid.levels[i, j]) if i < grid.height else -1 for i in parts]
            char, style = self._cell(levels)
            text = char * scale.wide
            if (line, j) == (first_line, cursor[1]):
                # The cursor's mark stands in the first cell of its part.
                segments.append(Segment("┼", self._cursor_style(max(levels))))
                text = text[1:]
            segments.append(Segment(text, style))
        return segments

    def _cursor_style(self, level: int) -> Style:
        style = self._part("cursor")
        if level > 0 and not self.is_plain:
            # It must not hide what it stands on.
            style += Style(color="black", bgcolor=COLORS[level])
        return style

    def _cell(self, levels: list[int]) -> tuple[str, Style]:
        """The character and style of one cell, which shows one part or two."""
        if max(levels) < 0:
            return " ", self.rich_style
        if max(levels) == 0:
            return SHADES[0], self._part("same")
        if self.is_plain:
            return SHADES[levels[0]], self.rich_style
        return self._half([COLORS[max(level, 0)] for level in levels])

    def _half(self, colors: list[str]) -> tuple[str, Style]:
        upper, lower = colors
        pane = self.rich_style
        if not upper:
            return "▄", pane + Style(color=lower)
        if not lower:
            return "▀", pane + Style(color=upper)
        return "▀", pane + Style(color=upper, bgcolor=lower)

    def _legend(self) -> list[Segment]:
        label = self._part("label")
        segments = []
        for text, level in _LEGEND:
            style = self._part("same") if not level else self.rich_style
            if level and not self.is_plain:
                style = self.rich_style + Style(color=COLORS[level])
            shade = SHADES[level] if self.is_plain or not level else "■"
            segments += [Segment(shade, style), Segment(f"{text}  ", label)]
        if self.size.width > 70:
            segments.append(Segment("ticks: chunks of A ┬ ├, of B ┴ ┤", label))
        return segments

    # Keys and mouse.

    def action_move(self, lines: int, columns: int) -> None:
        if self.grid is not None and self._cursor is not None:
            self._go(self._cursor[0] + lines, self._cursor[1] + columns)

    def _go(self, i: int, j: int) -> None:
        grid = self.grid
        if grid is None:
            return
        i, j = min(max(i, 0), grid.height - 1), min(max(j, 0), grid.width - 1)
        if grid.levels[i, j] >= 0:
            self._cursor = (i, j)
            self._redraw()
