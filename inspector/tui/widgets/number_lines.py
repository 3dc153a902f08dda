"""`NumberLines`: the lines of a grid of numbers, drawn from what is there at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from inspector.checkpoint.model import Tensor
from inspector.tui.widgets.cell_text import fit
from inspector.tui.widgets.number_sheet import Ints, Look, Sheet, Tiles, chunk_ids, look_of

__all__ = ["GAP_CELLS", "NumberLines"]

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
            cursor = self.styles["cursor"]
            style += Style(bgcolor=cursor.bgcolor, bold=cursor.bold, reverse=cursor.reverse)
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
