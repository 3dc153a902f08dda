"""`HeatMap`: a plane of a tensor as colours, with the grid's cursor on it.

The rule this module keeps: it reads nothing. It asks for a map of its size with `Wanted` and is
given it by `put`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual.message import Message
from textual.strip import Strip

from inspector.checkpoint.model import Tensor
from inspector.tui.kit.cell_text import fit
from inspector.tui.kit.part_map import PartMap
from inspector.tui.values.heat_paint import (
    BAD,
    DIVERGING,
    GAP,
    QUANTITIES,
    SEQUENTIAL,
    SHADES,
    STEPS,
    HeatGrid,
    Quantity,
    cell_codes,
    cuts_on,
    place,
    ramp_color,
)
from inspector.values.slices import Heat, Plane, plane_of, value_text

__all__ = ["HeatMap"]

_RULER_LINES, _RULER_CELLS = 9, 36
_LEGEND_CELLS = 8
#: What its sign stands for, the longest first; where there is no room, it stands alone.
_BAD_WORDS = (" NaN or Inf", " NaN/Inf")


class HeatMap(PartMap):
    """One line of legend, and the map below it.

    Keys: h j k l and the arrows go from part to part, and the grid goes with them. A click does
    so, too.
    """

    COMPONENT_CLASSES: ClassVar[set[str]] = {"part-map--bad", "part-map--gap"}

    DEFAULT_CSS = """
    HeatMap {
        & > .part-map--bad { color: white; background: $error; text-style: bold; }
        & > .part-map--gap { color: $foreground 50%; }
    }
    HeatMap:ansi {
        & > .part-map--bad { color: ansi_red; background: ansi_default; text-style: bold reverse; }
        & > .part-map--gap { color: ansi_default; text-style: dim; }
    }
    HeatMap:nocolor > .part-map--bad {
        text-style: bold reverse; background: $surface; color: $foreground;
    }
    """

    @dataclass
    class Wanted(Message):
        """A map of at most so many parts is to be read, and given to `put`."""

        heat_map: HeatMap
        height: int
        width: int

    @dataclass
    class Chosen(Message):
        """The user went to the part of the plane that begins at a cell."""

        row: int
        column: int

    def __init__(self, *, plain: bool | None = None, id: str | None = None) -> None:  # noqa: A002
        super().__init__(plain=plain, id=id)
        self.quantity: Quantity = "rms"
        self._tensor: Tensor | None = None
        self._plane: Plane = plane_of((0,))
        self._heat: Heat | None = None
        self._per_line = 0
        self._asked: tuple[int, int] | None = None
        self._problem = ""
        self._cursor = (0, 0)
        self.grid: HeatGrid | None = None
        self._glyphs: dict[tuple[int, int], tuple[str, Style]] = {}

    # Values in.

    def show(self, tensor: Tensor | None, dims: tuple[int, int] | None = None) -> None:
        """Show a plane of a tensor, or nothing; asks for its map."""
        self._tensor = tensor
        self._plane = plane_of((0,) if tensor is None else tensor.shape, dims)
        self._heat, self._problem, self._asked = None, "", None
        self._cursor = (0, 0)
        self._ask()
        self._redraw()

    def ask_again(self) -> None:
        """The slice is another one: its map is asked for, and this one stays until it comes."""
        self._asked = None
        self._ask()

    def put(self, heat: Heat) -> None:
        self._heat, self._problem = heat, ""
        self._redraw()

    def fail(self, problem: str) -> None:
        """Say, printable, why there is no map."""
        self._heat, self._problem = None, problem
        self._redraw()

    def set_cursor(self, row: int, column: int) -> None:
        """Show where in the plane the grid is; posts nothing."""
        if (row, column) != self._cursor:
            before, self._cursor = self._cursor, (row, column)
            grid = self.grid
            if grid is not None and grid.part_of(*before) != grid.part_of(row, column):
                self._redraw()

    def set_quantity(self, quantity: Quantity) -> None:
        self.quantity = quantity
        self._redraw()

    # Measures.

    def _room(self) -> tuple[int, int, int, int]:
        """Lines and cells for the map, lines of the ruler above, cells of the one at its left."""
        width, height = self.size
        lines = height - 1
        if lines >= _RULER_LINES and width >= _RULER_CELLS and not self._is_line:
            margin = len(str(max(self._plane.rows - 1, 0))) + 1
            return lines - 1, width - margin, 1, margin
        return lines, width, 0, 0

    @property
    def _is_line(self) -> bool:
        """Whether the plane is one row or column, and so is wrapped."""
        return min(self._plane.rows, self._plane.columns) == 1

    def _ask(self) -> None:
        lines, cells, _, _ = self._room()
        empty = self._plane.rows * self._plane.columns == 0
        if self._tensor is None or empty or lines < 1 or cells < 1:
            return
        height = self._halves * lines
        wanted = (height, cells)
        if self._is_line:
            along = self._plane.rows if self._plane.columns == 1 else self._plane.columns
            parts = min(height * cells, along)
            self._per_line = min(cells, parts)
            wanted = (parts, 1) if self._plane.columns == 1 else (1, parts)
        if wanted != self._asked:
            self._asked = wanted
            self.post_message(self.Wanted(self, *wanted))

    def on_resize(self) -> None:
        self._ask()
        self._redraw()

    # Drawing.

    def _draw(self) -> list[Strip]:
        self._glyphs.clear()
        heat, self.grid = self._heat, None
        if self._tensor is None or self.size.height < 2:
            return []
        if heat is None:
            return self._said_instead(self._problem or "map: reading ...")
        per_line = self._per_line if self._is_line else 0
        grid = HeatGrid.of(heat, self._plane, self.quantity, per_line)
        if not grid.values.size:
            return []
        self.grid = grid
        lines, cells, above, margin = self._room()
        self._placing = place(grid.height, grid.width, self._halves * lines, cells)
        self._margin = (1 + above, margin)
        head = [Strip(self._legend(grid, heat))]
        if above:
            head.append(self._columns_ruler(grid, margin))
        side = self._rows_ruler(grid) if margin else {}
        num_lines = min(-(-grid.height * self._placing.high // self._halves), lines)
        upper, lower = cell_codes(grid, num_lines, self._placing.high, halves=not self.is_plain)
        ruler = self._part("label")
        body = []
        for line, codes in enumerate(zip(upper.tolist(), lower.tolist(), strict=True)):
            label = fit(side.get(line, ""), margin - 1, "right") + " " if margin else ""
            body.append(Strip([Segment(label, ruler), *self._line(grid, line, *codes)]))
        return [*head, *body]

    def _line(self, grid: HeatGrid, line: int, upper: list[int], lower: list[int]) -> list[Segment]:
        scale = self._placing
        cursor = grid.part_of(*self._cursor)
        # The cursor's mark stands in the first cell of its part.
        marked = cursor[1] if line == cursor[0] * scale.high // self._halves else -1
        segments: list[Segment] = []
        for j, codes in enumerate(zip(upper, lower, strict=True)):
            char, style = self._glyph(grid, *codes)
            text = char * scale.wide
            if j == marked:
                segments.append(Segment("┼", self._part("cursor")))
                text = text[1:]
            segments.append(Segment(text, style))
        return segments

    def _glyph(self, grid: HeatGrid, upper: int, lower: int) -> tuple[str, Style]:
        """The character and style of one cell, which shows one part or two."""
        found = self._glyphs.get((upper, lower))
        if found is None:
            found = self._glyphs[upper, lower] = self._make_glyph(grid, upper, lower)
        return found

    def _make_glyph(self, grid: HeatGrid, upper: int, lower: int) -> tuple[str, Style]:
        if BAD in (upper, lower):
            return "✗", self._part("bad")
        if upper < 0 and lower < 0:
            is_gap = GAP in (upper, lower)
            return ("·", self._part("gap")) if is_gap else (" ", self.rich_style)
        if self.is_plain:
            # The least has a shade, too: blank is where nothing is.
            return SHADES[1 + min(upper * 4 // STEPS, 3)], self.rich_style
        ramp = DIVERGING if grid.is_signed else SEQUENTIAL
        colors = ["" if code < 0 else ramp_color(ramp, code / STEPS) for code in (upper, lower)]
        return "▀", self._half(*colors)

    def _half(self, upper: str, lower: str) -> Style:
        """The style of `▀` with these colours; empty for the background."""
        pane = self.rich_style
        return pane + Style(color=upper or pane.bgcolor, bgcolor=lower or pane.bgcolor)

    def _legend(self, grid: HeatGrid, heat: Heat) -> list[Segment]:
        style = self._part("focused" if self.has_focus else "label")
        title = "value" if grid.is_single else QUANTITIES[self.quantity]
        if self._tensor is not None and self._tensor.dtype.startswith("complex"):
            title = "|value|" if grid.is_single or self.quantity == "mean" else title
        if heat.is_sampled:
            title += ", sampled"
        low, high = grid.extent
        if np.isnan(low):
            segments = [Segment(f"{title}  none finite", style)]
        else:
            if grid.is_signed:
                high = max(-low, high)
                low = -high
            ends = value_text(np.float64(low), 3), value_text(np.float64(high), 3)
            segments = [Segment(f"{title}  {ends[0]} ", style), *self._ramp(grid)]
            segments.append(Segment(f" {ends[1]}", style))
        if grid.bad.any():
            segments += [Segment("  ", style), Segment("✗", self._part("bad"))]
            room = self.size.width - sum(segment.cell_length for segment in segments)
            said = (words for words in _BAD_WORDS if len(words) <= room)
            segments.append(Segment(next(said, ""), style))
        return segments

    def _ramp(self, grid: HeatGrid) -> list[Segment]:
        if self.is_plain:
            return [Segment(SHADES[1:], self.rich_style)]
        ramp = DIVERGING if grid.is_signed else SEQUENTIAL
        cells = _LEGEND_CELLS if self.size.width >= _RULER_CELLS else _LEGEND_CELLS // 2
        colors = [ramp_color(ramp, i / (2 * cells - 1)) for i in range(2 * cells)]
        return [Segment("▌", self._half(colors[2 * i], colors[2 * i + 1])) for i in range(cells)]

    def _cuts(self, dim: int) -> list[int]:
        """Where chunks begin along a dim."""
        if self._tensor is None or dim < 0:
            return [0]
        return [int(cut) for cut in np.unique(self._tensor.offsets[:, dim])] or [0]

    def _rows_ruler(self, grid: HeatGrid) -> dict[int, str]:
        """Row numbers by line: where chunks begin, if there are not too many, and the last."""
        high, step = self._placing.high, self._halves
        last = (grid.height * high - 1) // step
        cuts = cuts_on(grid.row_starts, self._cuts(self._plane.row_dim))
        if len(cuts) > max(last // 2, 1):
            cuts = {0: 0}
        side = {last: str(self._plane.rows - 1)} if last > 0 else {}
        return side | {part * high // step: str(cut) for part, cut in cuts.items()}

    def _columns_ruler(self, grid: HeatGrid, margin: int) -> Strip:
        wide = self._placing.wide
        end = margin + grid.width * wide
        text = [" "] * max(self.size.width, end)
        cuts = cuts_on(grid.column_starts, self._cuts(self._plane.column_dim))
        labels = [(margin + part * wide, str(cut)) for part, cut in sorted(cuts.items())]
        last = str(self._plane.columns - 1)
        free = 0
        for at, label in labels:
            mark = "╷" + label if at > margin else label
            if at >= free and at + len(mark) <= end - len(last) - 1:
                text[at : at + len(mark)] = mark
                free = at + len(mark) + 1
        if end - len(last) >= free:
            text[end - len(last) : end] = last
        return Strip([Segment(fit("".join(text), self.size.width), self._part("label"))])

    # Keys and mouse.

    def action_move(self, lines: int, columns: int) -> None:
        grid = self.grid
        if grid is None:
            return
        i, j = grid.part_of(*self._cursor)
        self._go(min(max(i + lines, 0), grid.height - 1), min(max(j + columns, 0), grid.width - 1))

    def _go(self, i: int, j: int) -> None:
        corner = None if self.grid is None else self.grid.corner(i, j, self._plane)
        if corner is not None:
            self.set_cursor(*corner)
            self.post_message(self.Chosen(*corner))
