"""`Sheet`: a plane as lines and columns of a grid. `Tiles`: the numbers of it that were read.

A plane of one row or one column is wrapped into lines, as text is. Pure; no widget.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from inspector.checkpoint.model import Ints, Tensor
from inspector.tui.kit.cell_text import fit
from inspector.values.slices import Plane, value_text

__all__ = [
    "GAP",
    "GAP_CELLS",
    "HELD",
    "UNREADABLE",
    "Cells",
    "Look",
    "NumberLines",
    "Sheet",
    "Tiles",
    "chunk_ids",
    "dims_after",
    "look_of",
    "slice_after",
]

Array: TypeAlias = npt.NDArray[Any]

#: What is known of an element: no chunk holds it, its value, or that it cannot be read.
GAP, HELD, UNREADABLE = 0, 1, 2

_TILE = 64
_RUN = 4096
_MAX_TILES = 384
# Numbers on a line of a plane that is wrapped: round ones, so that an index is found by the eye.
_PER_LINE = (100, 50, 40, 32, 25, 20, 16, 10, 8, 5, 4, 2)


@dataclass(frozen=True, slots=True)
class Sheet:
    """How a plane stands on lines.

    Attributes:
        plane: The plane.
        per_line: Numbers on a line of a plane that is wrapped; 0 if it is not.
    """

    plane: Plane
    per_line: int = 0

    @classmethod
    def of(cls, plane: Plane, num_fitting: int) -> Sheet:
        """The sheet of a plane where so many numbers fit on a line."""
        if plane.rows > 1 and plane.columns > 1:
            return cls(plane)
        return cls(plane, next((n for n in _PER_LINE if n <= num_fitting), 1))

    @property
    def num_elements(self) -> int:
        return self.plane.rows * self.plane.columns

    @property
    def num_lines(self) -> int:
        if not self.per_line:
            return self.plane.rows if self.plane.columns else 0
        return -(-self.num_elements // self.per_line)

    @property
    def num_columns(self) -> int:
        return min(self.per_line, self.num_elements) if self.per_line else self.plane.columns

    def cell(self, line: int, column: int) -> tuple[int, int] | None:
        """Row and column of the plane at a place of the grid, or None past its end."""
        if not self.per_line:
            return line, column
        at = line * self.per_line + column
        if at >= self.num_elements:
            return None
        return (at, 0) if self.plane.columns == 1 else (0, at)

    def place(self, row: int, column: int) -> tuple[int, int]:
        """Line and column of the grid of a cell of the plane."""
        return divmod(row + column, self.per_line) if self.per_line else (row, column)

    def span(self, lines: range, columns: range) -> tuple[range, range]:
        """Rows and columns of the plane that these lines show."""
        if not self.per_line:
            return (
                range(lines.start, min(lines.stop, self.plane.rows)),
                range(columns.start, min(columns.stop, self.plane.columns)),
            )
        end = min(lines.stop * self.per_line, self.num_elements)
        run = range(min(lines.start * self.per_line, end), end)
        return (run, range(1)) if self.plane.columns == 1 else (range(1), run)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """A rectangle of a plane that was read.

    Attributes:
        values: The elements, shape (rows, columns).
        state: `GAP`, `HELD` or `UNREADABLE` for each, int8, same shape.
        problem: Why some cannot be read, printable, or an empty string.
    """

    values: Array
    state: npt.NDArray[np.int8]
    problem: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    cells: Cells
    row: int
    column: int


class Tiles:
    """The numbers of one plane that were read lately, in tiles.

    Args:
        plane: The plane; a tile of one that is a single row or column is a run of it.
    """

    def __init__(self, plane: Plane) -> None:
        self.tile_rows = _TILE if plane.columns > 1 else _RUN
        self.tile_columns = _TILE if plane.rows > 1 else _RUN
        self._plane = plane
        self._kept: OrderedDict[tuple[int, ...], _Tile] = OrderedDict()

    def _tiles(self, rows: range, columns: range) -> Iterator[tuple[int, int]]:
        if not len(rows) or not len(columns):
            return
        for i in range(rows.start // self.tile_rows, (rows.stop - 1) // self.tile_rows + 1):
            for j in range(
                columns.start // self.tile_columns, (columns.stop - 1) // self.tile_columns + 1
            ):
                yield i, j

    def missing(
        self, leading: Sequence[int], rows: range, columns: range
    ) -> tuple[range, range] | None:
        """What to read so that all of a rectangle is there: whole tiles; None if it is."""
        wanted = [t for t in self._tiles(rows, columns) if (*leading, *t) not in self._kept]
        if not wanted:
            return None
        down, across = [i for i, _ in wanted], [j for _, j in wanted]
        high, wide = self.tile_rows, self.tile_columns
        return (
            range(min(down) * high, min((max(down) + 1) * high, self._plane.rows)),
            range(min(across) * wide, min((max(across) + 1) * wide, self._plane.columns)),
        )

    def put(self, leading: Sequence[int], rows: range, columns: range, cells: Cells) -> None:
        """Keep what was read of a rectangle that `missing` gave."""
        high, wide = self.tile_rows, self.tile_columns
        for i, j in self._tiles(rows, columns):
            down = slice(i * high - rows.start, (i + 1) * high - rows.start)
            across = slice(j * wide - columns.start, (j + 1) * wide - columns.start)
            # Copies, so that a tile does not keep all that was read with it.
            part = Cells(
                cells.values[down, across].copy(), cells.state[down, across].copy(), cells.problem
            )
            key = (*leading, i, j)
            self._kept[key] = _Tile(part, i * high, j * wide)
        while len(self._kept) > _MAX_TILES:
            self._kept.popitem(last=False)

    def get(self, leading: Sequence[int], row: int, column: int) -> tuple[Any, int, str] | None:
        """An element's value, its state and its tile's problem; None if it was not read."""
        key = (*leading, row // self.tile_rows, column // self.tile_columns)
        tile = self._kept.get(key)
        if tile is None:
            return None
        self._kept.move_to_end(key)
        at = row - tile.row, column - tile.column
        return tile.cells.values[at], int(tile.cells.state[at]), tile.cells.problem

    def forget_problems(self) -> None:
        """Let what could not be read be read again."""
        for key in [k for k, tile in self._kept.items() if tile.cells.problem]:
            del self._kept[key]


@dataclass(frozen=True, slots=True)
class Look:
    """One element as the grid shows it: its text, and what kind it is, which gives the style."""

    text: str
    kind: Literal["", "bad", "zero", "none", "pending"]


def look_of(value: Any, state: int, width: int) -> Look:
    """An element in at most `width` cells; digits are dropped rather than cut off."""
    if state == GAP:
        return Look("·", "none")
    if state == UNREADABLE:
        return Look("✗", "bad")
    for digits in (4, 3, 2, 1):
        text = value_text(value, digits)
        if len(text) <= width:
            break
    if "n" in text:  # nan and inf; no other number has the letter
        return Look(text, "bad")
    return Look(text, "zero" if text in ("0", "-0", "False", "0+0j") else "")


def chunk_ids(
    tensor: Tensor, plane: Plane, leading: Sequence[int], rows: range, columns: range
) -> Ints:
    """The chunk that holds each element of a rectangle, shape (rows, columns); -1 for none."""
    result = np.full((len(rows), len(columns)), -1, np.int64)
    box = plane.box(leading, rows, columns)
    low = np.array([s.start for s in box], np.int64)
    high = np.array([s.stop for s in box], np.int64)
    first = np.maximum(tensor.offsets, low)
    last = np.minimum(tensor.offsets + tensor.sizes, high)
    for chunk in np.flatnonzero((first < last).all(axis=1)).tolist():
        down, across = slice(None), slice(None)
        if plane.row_dim >= 0:
            d = plane.row_dim
            down = slice(int(first[chunk, d]) - rows.start, int(last[chunk, d]) - rows.start)
        if plane.column_dim >= 0:
            d = plane.column_dim
            a, b = int(first[chunk, d]), int(last[chunk, d])
            across = slice(a - columns.start, b - columns.start)
        result[down, across] = chunk
    return result


def slice_after(plane: Plane, leading: Sequence[int], steps: int) -> tuple[int, ...]:
    """The slice so many steps on, in C order; after the last comes the first."""
    number, total = 0, 1
    for at, size in zip(leading, plane.leading, strict=True):
        number, total = number * size + at, total * size
    number = (number + steps) % max(total, 1)
    result = []
    for size in reversed(plane.leading):
        number, at = divmod(number, size)
        result.append(at)
    return tuple(reversed(result))


def dims_after(plane: Plane) -> tuple[int, int] | None:
    """The pair of dims to show as rows and columns after these; None if there is no other."""
    pairs = list(combinations(range(plane.ndim), 2))
    if len(pairs) < 2:
        return None
    return pairs[(pairs.index((plane.row_dim, plane.column_dim)) - 1) % len(pairs)]


#: Cells between two columns; the first holds the rule between two chunks.
GAP_CELLS = 2
_PENDING = Look("…", "pending")
_RULE = Style(underline=True)
_NAMES = {"": "base", "bad": "bad", "zero": "dim", "none": "dim", "pending": "dim"}


@dataclass(frozen=True)
class NumberLines:
    """One picture of a grid.

    Attributes:
        tensor: The tensor, for where its chunks meet.
        leading: Index of the slice.
        sheet: How the plane stands on lines.
        tiles: What was read.
        lines, columns: The part of the sheet in view.
        cursor: Row and column of the plane.
        label_width, cell_width: Cells of a line's label, and of a number.
        width: Cells of a line.
        styles: By name: `base`, `head`, `label`, `bad`, `dim`, `chunk`, `cursor`.
    """

    tensor: Tensor
    leading: tuple[int, ...]
    sheet: Sheet
    tiles: Tiles
    lines: range
    columns: range
    cursor: tuple[int, int]
    label_width: int
    cell_width: int
    width: int
    styles: Mapping[str, Style]

    def strip(self, y: int) -> Strip:
        """Line `y` of the widget; 0 is the header."""
        if y == 0:
            return self._head()
        if y > len(self.lines):
            return Strip.blank(self.width, self.styles["base"])
        return self._line(y - 1)

    def _head(self) -> Strip:
        plus = "+" if self.sheet.per_line else ""
        text = " " * self.label_width + "".join(
            " " * GAP_CELLS + fit(f"{plus}{column}", self.cell_width, "right")
            for column in self.columns
        )
        return Strip([Segment(fit(text, self.width), self.styles["head"])])

    def _line(self, at: int) -> Strip:
        line, per_line = self.lines[at], self.sheet.per_line
        rule = _RULE if self._ends_chunk(at) else Style.null()
        base, chunk = self.styles["base"] + rule, self.styles["chunk"] + rule
        label = fit(str(line * (per_line or 1)), self.label_width - 1, "right") + " "
        segments = [Segment(label, self.styles["label"] + rule)]
        edges = self._edges[at]
        for n, column in enumerate(self.columns):
            cell = self.sheet.cell(line, column)
            if cell is None:
                break
            if edges[n]:
                segments.append(Segment("│" + " " * (GAP_CELLS - 1), chunk))
            else:
                segments.append(Segment(" " * GAP_CELLS, base))
            segments.append(self._number(cell, rule))
        return Strip(segments).adjust_cell_length(self.width, base)

    def _number(self, cell: tuple[int, int], rule: Style) -> Segment:
        found = self.tiles.get(self.leading, *cell)
        look = _PENDING if found is None else look_of(found[0], found[1], self.cell_width)
        style = self.styles[_NAMES[look.kind]]
        if rule:
            style += rule
        if cell == self.cursor:
            # In its own colour: the red of a NaN, a faint zero cannot be read upon that of the bar.
            style += self.styles["cursor"]
        return Segment(fit(look.text, self.cell_width, "right"), style)

    # Where chunks meet.

    @cached_property
    def _ids(self) -> Ints:
        """The chunk of each place in view, and of the line below: shape (lines, columns)."""
        more = range(self.lines.start, min(self.lines.stop + 1, self.sheet.num_lines))
        rows, columns = self.sheet.span(more, self.columns)
        ids = chunk_ids(self.tensor, self.sheet.plane, self.leading, rows, columns)
        per_line = self.sheet.per_line
        if not per_line:
            return ids
        flat = np.full(len(more) * per_line, -1, np.int64)
        flat[: ids.size] = ids.reshape(-1)
        return flat.reshape(len(more), per_line)

    @cached_property
    def _edges(self) -> list[list[bool]]:
        """Whether a chunk begins at each place in view, and another is at its left."""
        ids = self._ids
        edges = np.zeros(ids.shape, np.bool_)
        edges[:, 1:] = ids[:, 1:] != ids[:, :-1]
        result: list[list[bool]] = edges.tolist()
        return result

    def _ends_chunk(self, at: int) -> bool:
        """Whether other chunks begin below a line."""
        ids = self._ids
        if self.sheet.per_line or at + 1 >= len(ids):
            return False
        return bool((ids[at] != ids[at + 1]).any())
