"""A `ChunkGrid` -> characters and style codes: how chunks look, with and without colour.

The rule this module keeps: still no terminal. A cell is a character and a code (background,
foreground, flags); `ChunkMap` turns codes into styles.

With colour a chunk is a tile in its rank's colour, parted from the next by the thin edge of its
first cells. Without colour it is a box of lines, or, where there is no room for lines, one of
three shades, never that of a neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from inspector.layout.geometry import Ints
from inspector.tui.tensors.chunk_layout import GAP, OUTSIDE, Cells, ChunkGrid, Mark, layout

__all__ = [
    "BOLD",
    "CLASH",
    "EDGE",
    "HOLE",
    "NUM_HUES",
    "PANE",
    "SWAPPED",
    "TEXT",
    "UNKNOWN",
    "Chars",
    "ChunkBoxes",
    "Painting",
    "code",
    "paint",
]

Chars: TypeAlias = npt.NDArray[np.str_]

NUM_HUES = 16
# What a background or foreground can be: a hue (0 to 15), or one of these.
UNKNOWN, HOLE, CLASH, PANE, EDGE, TEXT = 16, 17, 18, 19, 20, 21
# Flags of a code.
BOLD, SWAPPED = 1 << 10, 1 << 11


@dataclass(frozen=True, slots=True, eq=False)
class ChunkBoxes:
    """The value a `ChunkMap` shows: how one tensor is cut.

    Attributes:
        shape: Global shape.
        offsets, sizes: Boxes of the chunks, shape (n, ndim).
        ranks: Rank that wrote each chunk, shape (n,); -1 if not known.
        marks: Boxes of findings, drawn over the chunks.
        places: What colours and labels the chunks in place of their ranks, shape (n,); -1 for
            those that have none. None for their ranks.
        axis: What the places stand for: a caption.
        letter: What stands before a place, and before a rank: `r3`.
    """

    shape: tuple[int, ...]
    offsets: Ints
    sizes: Ints
    ranks: Ints | Cells
    marks: tuple[Mark, ...] = ()
    places: Ints | None = None
    axis: str = ""
    letter: str = "r"

    @property
    def key(self) -> tuple[object, ...]:
        """Is equal for boxes that are drawn alike."""
        arrays = (self.offsets, self.sizes, self.labels, np.asarray(self.ranks))
        held = (np.ascontiguousarray(array).tobytes() for array in arrays)
        return (self.shape, *held, self.marks, self.axis, self.letter)

    @property
    def labels(self) -> Ints:
        """The number that colours each chunk and stands in it; -1 for none."""
        return np.asarray(self.ranks if self.places is None else self.places, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Painting:
    """The drawing, one entry per terminal cell, shape (lines, columns).

    Attributes:
        grid: The geometry it was made from.
        chars: One character per cell.
        codes: Background | foreground << 5 | flags.
        chunk: Chunk at each cell, or GAP or OUTSIDE.
        row_lines: For each row of the grid: the line on which it starts.
        all_labelled: Whether every chunk carries its rank.
    """

    grid: ChunkGrid
    chars: Chars
    codes: Cells
    chunk: Cells
    row_lines: list[int]
    all_labelled: bool


def code(background: int, foreground: int) -> int:
    """The code of a cell; 5 bits each for what is behind and what is in front."""
    return background | foreground << 5


_SHADES = "░▒▓"
_CROSS = "\u2573"  # diagonal cross
_TIMES = "\u00d7"
# By arms: up 8, down 4, left 2, right 1.
_LINES = np.array(list(" ╶╴─╷┌┐┬╵└┘┴│├┤┼"))
_FRAME = "┏━┓┃┗┛"


def paint(
    boxes: ChunkBoxes, width: int, height: int, *, colour: bool, highlight: int | None = None
) -> Painting:
    """Draw `boxes` on at most `width` x `height` cells."""
    width, height = max(1, width), max(1, height)
    if not colour and width >= 8 and height >= 3:
        grid = _lay_out(boxes, width - 1, height - 1, band_lines=2)
        if _has_room_for_lines(grid):
            return _Painter(boxes, grid, height, "lines", highlight).painting()
    grid = _lay_out(boxes, width, height, band_lines=1)
    return _Painter(boxes, grid, height, "tiles" if colour else "shades", highlight).painting()


def _lay_out(boxes: ChunkBoxes, width: int, height: int, *, band_lines: int) -> ChunkGrid:
    """The layout; a band leaves room for blank lines unless its chunks then share cells."""

    def at(rows: int) -> ChunkGrid:
        return layout(
            boxes.shape, boxes.offsets, boxes.sizes, width, rows,
            marks=boxes.marks,
        )  # fmt: skip

    grid = at(height)
    if not grid.wrap:
        return grid
    airy = at(max(1, (height + 1) // (band_lines + 1)))
    if airy.wrap and airy.cols.per_cell == 1:
        return airy
    return grid


def _has_room_for_lines(grid: ChunkGrid) -> bool:
    if grid.kind == "empty" or grid.rows.per_cell > 1 or grid.cols.per_cell > 1:
        return False
    alive = grid.boxes[grid.boxes[:, 0] >= 0]
    if not len(alive):
        return True
    wide = int((alive[:, 3] - alive[:, 1]).min())
    high = int((alive[:, 2] - alive[:, 0]).min())
    if (grid.owner == GAP).any() or (grid.count > 1).any():
        # A hole or an overlap one line high would be all line and no pattern.
        high = min(high, int(np.diff(grid.rows.at).min()))
        wide = min(wide, int(np.diff(grid.cols.at).min()) + 1)
    return wide >= 3 and (high >= 2 or grid.wrap > 0)


class _Painter:
    """Holds the arrays while one painting is made."""

    def __init__(
        self,
        boxes: ChunkBoxes,
        grid: ChunkGrid,
        height: int,
        mode: Literal["tiles", "lines", "shades"],
        highlight: int | None,
    ) -> None:
        self.boxes, self.grid, self.mode, self.highlight = boxes, grid, mode, highlight
        ranks = boxes.labels
        self.has_own_cells = (
            grid.rows.per_cell == 1 and grid.cols.per_cell == 1 and not grid.folded_cut
        )
        self.ranks = ranks if len(ranks) == len(grid.boxes) else np.full(len(grid.boxes), -1)
        self.hues = np.where(self.ranks < 0, UNKNOWN, self.ranks % NUM_HUES).astype(np.int32)
        rows, cols = grid.owner.shape
        lined = 1 if mode == "lines" else 0
        if grid.wrap:
            # A band row: as high as there is room for, apart from the next if there is.
            share = (height + 1) // max(1, rows)
            self.deep = (
                max(1 + lined, min(share - 1 - lined, 3))
                if rows > 1
                else max(1 + lined, min(height - lined, 4))
            )
            self.pitch = min(self.deep + lined + 1, max(self.deep + lined, share))
        else:
            self.deep, self.pitch = 1, 1
        self.blocks = rows if grid.wrap else 1
        lines = (rows - 1) * self.pitch + self.deep + lined if rows else 0
        self.row_lines = [r * self.pitch for r in range(rows)]
        shape = (lines, cols + lined if cols else 0)
        self.chars: Chars = np.full(shape, " ", dtype="<U1")
        self.codes = np.full(shape, code(PANE, TEXT), np.int32)
        self.chunk = np.full(shape, OUTSIDE, np.int32)

    def painting(self) -> Painting:
        labelled = True
        if self.grid.owner.size:
            for block in range(self.blocks):
                self._block(block)
            labelled = self._labels()
            self._marks()
            self._highlight()
        return Painting(self.grid, self.chars, self.codes, self.chunk, self.row_lines, labelled)

    # Areas.

    def _block(self, block: int) -> None:
        """One closed area: the plane, or one row of a band."""
        rows = slice(block, block + 1) if self.grid.wrap else slice(None)
        owner, other, count = (
            np.repeat(a[rows], self.deep, axis=0)
            for a in (self.grid.owner, self.grid.other, self.grid.count)
        )
        top = block * self.pitch
        area = (slice(top, top + owner.shape[0]), slice(0, owner.shape[1]))
        self.chunk[area] = owner
        if self.mode == "lines":
            self._lines(top, owner)
        else:
            self._tiles(area, owner, other, count)

    def _tiles(self, area: tuple[slice, slice], owner: Cells, other: Cells, count: Cells) -> None:
        chars, codes = self.chars[area], self.codes[area]
        covered = owner >= 0
        hue = self.hues[owner] if len(self.hues) else np.full(owner.shape, UNKNOWN)
        hue2 = self.hues[other] if len(self.hues) else hue
        shared = covered & (count > 1)
        overlap = shared if self._is_overlap() else np.zeros_like(shared)
        if self.mode == "tiles":
            codes[covered] = hue[covered] | EDGE << 5
            inner = np.zeros(owner.shape, np.bool_)
            inner[1:] = (owner[1:] != owner[:-1]) & covered[1:]
            # Where only colour has to part them, a label can have the whole line.
            thin = inner.copy()
            thin[:-1] &= owner[1:] != owner[:-1]
            thin[1:] &= hue[1:] != hue[:-1]
            chars[inner & ~thin] = "▔"
            inner[:] = False
            inner[:, 1:] = (owner[:, 1:] != owner[:, :-1]) & covered[:, 1:]
            chars[inner] = "▏"
            mixed = shared & ~overlap
            same = hue2 == hue
            chars[mixed] = np.where(same, _SHADES[0], _SHADES[1])[mixed]
            codes[mixed] = hue[mixed] | np.where(same, EDGE, hue2)[mixed] << 5
            if (half := self._half()) is not None:
                pair = mixed & (count == 2)
                chars[pair] = half
                codes[pair] = hue2[pair] | hue[pair] << 5
        else:
            shade = self._shade_of_chunk()[owner] if len(self.hues) else np.zeros_like(owner)
            chars[covered] = np.array(list(_SHADES))[shade[covered]]
            codes[covered] = code(PANE, TEXT)
        self._pattern(area, owner == GAP, _CROSS, HOLE)
        self._pattern(area, overlap, "!", CLASH)

    def _pattern(
        self, area: tuple[slice, slice], where: npt.NDArray[np.bool_], char: str, ink: int
    ) -> None:
        self.chars[area][where] = char
        self.codes[area][where] = code(ink, TEXT)

    def _is_overlap(self) -> bool:
        """Whether two chunks in one cell can only mean that they overlap."""
        return self.has_own_cells and len(self.boxes.shape) > 0

    def _half(self) -> str | None:
        """The half block that draws two chunks in one cell as they lie, if one does."""
        per_cell = (self.grid.rows.per_cell, self.grid.cols.per_cell)
        if self.grid.folded_cut or self.deep > 1:
            return None
        return {(2, 1): "▀", (1, 2): "▌"}.get(per_cell)

    def _shade_of_chunk(self) -> Ints:
        """A shade per chunk; a step along either axis changes it."""
        step = np.zeros(len(self.grid.boxes), np.int64)
        for axis in (self.grid.rows, self.grid.cols):
            if axis.dim >= 0:
                step += np.searchsorted(axis.cuts, self.boxes.offsets[:, axis.dim]) // axis.per_cell
        return step % len(_SHADES)

    def _lines(self, top: int, owner: Cells) -> None:
        """Box lines around every chunk of a block, in the first row and column of each."""
        framed = np.pad(owner, ((1, 1), (1, 1)), constant_values=OUTSIDE)
        upper = (framed[1:, :] != framed[:-1, :]).astype(int)  # edge above cell (y, x - 1)
        left = (framed[:, 1:] != framed[:, :-1]).astype(int)  # edge left of cell (y - 1, x)
        arms = 8 * left[:-1, :] + 4 * left[1:, :] + 2 * upper[:, :-1] + upper[:, 1:]
        area = (slice(top, top + arms.shape[0]), slice(0, arms.shape[1]))
        self.chars[area] = _LINES[arms]
        inside = np.zeros(arms.shape, np.bool_)
        inside[: owner.shape[0], : owner.shape[1]] = owner == GAP
        hole = inside & (arms == 0)
        self.chars[area][hole] = _CROSS
        self.codes[area][hole] = code(HOLE, TEXT)
        if self._is_overlap() and (self.grid.count > 1).any():
            rows = (
                slice(None)
                if not self.grid.wrap
                else slice(top // self.pitch, top // self.pitch + 1)
            )
            clash = np.zeros(arms.shape, np.bool_)
            clash[: owner.shape[0], : owner.shape[1]] = (
                np.repeat(self.grid.count[rows], self.deep, axis=0) > 1
            )
            clash &= arms == 0
            self.chars[area][clash] = "!"
            self.codes[area][clash] = code(CLASH, TEXT)

    # Things over the areas.

    def _areas(self, box: Ints) -> list[tuple[int, int, int, int]]:
        """A box of the grid in lines and columns: top, left, bottom, right."""
        if not self.grid.wrap:
            return self.grid.cells_of(box)
        return [
            (r * self.pitch, left, r * self.pitch + self.deep, right)
            for r, left, _, right in self.grid.cells_of(box)
        ]

    def _labels(self) -> bool:
        """Rank (and where there is room, size) inside each chunk that has cells of its own."""
        grid = self.grid
        alive = np.flatnonzero(grid.boxes[:, 0] >= 0)
        if not self.has_own_cells:
            return False
        inset = 1 if self.mode == "lines" else 0
        # Of a thousand chunks most have no room even for their rank; that is seen at a glance.
        ranks = self.ranks[alive]
        needed = np.where(ranks < 0, 1, 2 + np.log10(np.maximum(ranks, 1)).astype(np.int64))
        has_room = grid.boxes[alive, 3] - grid.boxes[alive, 1] >= needed
        done = bool(has_room.all())
        for i in alive[has_room].tolist():
            top, left, bottom, right = max(
                self._areas(grid.boxes[i]), key=lambda area: area[3] - area[1]
            )
            done &= self._label(i, top + inset, left + inset, bottom, right)
        return done

    def _label(self, index: int, top: int, left: int, bottom: int, right: int) -> bool:
        """One chunk's label; False if there is no room for its rank."""
        rank = int(self.ranks[index])
        unknown = "?" if self.boxes.places is None else "*"
        text = f"{self.boxes.letter}{rank}" if rank >= 0 else unknown
        wide, high = right - left, bottom - top
        if wide < len(text) or high < 1:
            return False
        size = _TIMES.join(
            str(int(self.boxes.sizes[index, axis.dim]))
            for axis in (self.grid.rows, self.grid.cols)
            if axis.dim >= 0
        )
        framed = index == self.highlight and self.mode == "tiles"
        two = high >= (4 if framed else 3) and wide >= len(size) + 2 and bool(size)
        line = top + (high - (1 if two else 0)) // 2  # off the top edge, which a label would break
        self._write(line, left, wide, text, BOLD)
        if two:
            self._write(line + 1, left, wide, size, 0)
        return True

    def _write(self, line: int, left: int, wide: int, text: str, flags: int) -> None:
        if wide >= len(text) + 2 and (self.mode == "shades" or self.chars[line, left] == _FRAME[1]):
            text = f" {text} "
        start = left + (wide - len(text)) // 2
        cells = (line, slice(start, start + len(text)))
        self.chars[cells] = list(text)
        self.codes[cells] = self.codes[cells] & 31 | TEXT << 5 | flags

    def _marks(self) -> None:
        for mark, box in zip(self.boxes.marks, self.grid.marks, strict=True):
            char, ink = (_CROSS, HOLE) if mark.kind == "gap" else ("!", CLASH)
            for top, left, bottom, right in self._areas(box):
                self._pattern(
                    (slice(top, bottom), slice(left, right)),
                    np.ones((bottom - top, right - left), np.bool_), char, ink,
                )  # fmt: skip

    def _highlight(self) -> None:
        index = self.highlight
        if index is None or not 0 <= index < len(self.grid.boxes):
            return
        end = 1 if self.mode == "lines" else 0
        for top, left, bottom, right in self._areas(self.grid.boxes[index]):
            bottom, right = bottom + end, right + end
            area = (slice(top, bottom), slice(left, right))
            if self.mode == "tiles":
                self.codes[area] = self.hues[index] | TEXT << 5 | SWAPPED
                self.chars[area] = " "
            else:
                self.codes[area] |= SWAPPED
            if right - left < 3:
                if self.mode != "lines":
                    self.chars[area] = "◆"
            elif bottom - top >= 2:
                self._frame(top, left, bottom - 1, right - 1)
            elif self.mode == "tiles":
                self.chars[area] = _FRAME[1]
            if self.mode == "tiles" and right - left >= 5 and self.has_own_cells:
                self._label(index, top, left, bottom, right)

    def _frame(self, top: int, left: int, bottom: int, right: int) -> None:
        self.chars[[top, bottom], left + 1 : right] = _FRAME[1]
        self.chars[top + 1 : bottom, [left, right]] = _FRAME[3]
        corners = ((top, left, 0), (top, right, 2), (bottom, left, 4), (bottom, right, 5))
        for line, column, which in corners:
            self.chars[line, column] = _FRAME[which]
