"""Where each place of a mesh stands on a screen: bands down, cells across, in groups.

The rule this module keeps: no terminal and no job, only sizes. A grid takes the largest cells
with which every place has its own; where even single characters do not fit, several share one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["MeshLayout", "mesh_layout"]

# Height, least and largest width of a cell, the best first; each says less than the one before.
_SIZES = ((4, 19, 40), (3, 17, 40), (2, 15, 40), (1, 11, 26), (1, 5, 10), (1, 2, 2), (1, 1, 1))
#: Blank columns between groups of cells, where there is room; 1 between single characters.
_CELL_GROUP_GAP = 2


@dataclass(frozen=True, slots=True)
class MeshLayout:
    """A grid of cells.

    Attributes:
        num_down: Of the axes, how many go down; the others go across.
        num_bands, band_cells: Bands of cells, and cells in each.
        cols: Cells on a line; a band with more goes on below.
        cell_width, cell_height: Of one cell, without the gap right of it.
        gap: Blank columns between cells.
        left: Columns for the names of the bands; 0 for none.
        top: Lines for the names of the columns; 0 or 1.
        line_gap: Blank lines between the lines of cells.
        band_gap: Blank lines between bands, besides.
        per_cell: Places in one cell.
        is_flat: The bands are not kept apart: there are more of them than lines.
        band_group: Bands in a group, which have all but the last of the axes down in common.
        group_gap: Blank lines between these groups, besides.
        cell_group: Cells in a group, which have all but the last of the axes across in common.
        cell_group_gap: Blank columns between these, besides.
    """

    num_down: int
    num_bands: int
    band_cells: int
    cols: int
    cell_width: int
    cell_height: int
    gap: int
    left: int
    top: int
    line_gap: int
    band_gap: int
    per_cell: int
    is_flat: bool
    band_group: int = 1
    group_gap: int = 0
    cell_group: int = 1
    cell_group_gap: int = 0

    @property
    def band_lines(self) -> int:
        """Lines of cells in a band."""
        return -(-self.band_cells // self.cols)

    @property
    def band_height(self) -> int:
        """Lines of a band, without the gap below it."""
        return self.band_lines * self._step - self.line_gap

    @property
    def _step(self) -> int:
        """From a line of cells to the next."""
        return self.cell_height + self.line_gap

    @property
    def _band_step(self) -> int:
        return self.band_height + self.line_gap + self.band_gap

    @property
    def height(self) -> int:
        """Lines of the grid."""
        return self._band_top(self.num_bands - 1) + self.band_height

    def _band_top(self, band: int) -> int:
        return self.top + band * self._band_step + band // self.band_group * self.group_gap

    @property
    def num_cells(self) -> int:
        return self.num_bands * self.band_cells

    def left_of(self, col: int) -> int:
        """The first column of characters of a column of cells."""
        before = col // self.cell_group * self.cell_group_gap
        return self.left + col * (self.cell_width + self.gap) + before

    def origin(self, cell: int) -> tuple[int, int]:
        """Column and line of a cell's first character."""
        band, at = divmod(cell, self.band_cells)
        line, col = divmod(at, self.cols)
        return self.left_of(col), self._band_top(band) + line * self._step

    def cell_at(self, x: int, y: int) -> int | None:
        """The cell at a character, or None."""
        place = self.line_at(y)
        if place is None or x < self.left:
            return None
        group_step = self.cell_group * (self.cell_width + self.gap) + self.cell_group_gap
        group, rest = divmod(x - self.left, group_step)
        in_group, beyond = divmod(rest, self.cell_width + self.gap)
        col = group * self.cell_group + in_group
        if in_group >= self.cell_group or beyond >= self.cell_width or col >= self.cols:
            return None
        band, line, _ = place
        at = line * self.cols + col
        return band * self.band_cells + at if at < self.band_cells else None

    def line_at(self, y: int) -> tuple[int, int, int] | None:
        """Band, line of cells in it, and line within those cells; None on headers and gaps."""
        if y < self.top:
            return None
        group_step = self.band_group * self._band_step + self.group_gap
        group, rest = divmod(y - self.top, group_step)
        in_group, rest = divmod(rest, self._band_step)
        line, part = divmod(rest, self._step)
        band = group * self.band_group + in_group
        if in_group >= self.band_group or band >= self.num_bands:
            return None
        if line >= self.band_lines or part >= self.cell_height:
            return None
        return band, line, part

    def cells_on(self, band: int, line: int) -> range:
        """The cells on a line of a band."""
        first = band * self.band_cells
        start = first + line * self.cols
        return range(start, min(start + self.cols, first + self.band_cells))


def mesh_layout(
    sizes: Sequence[int], width: int, height: int, *, names_columns: bool = False
) -> MeshLayout:
    """Lay out a mesh on `width` x `height` characters.

    The first axis goes down if there are two or more, the last across; those between go where the
    cells are larger for it. It is never wider than `width`, and never higher than `height` unless
    that is less than 1.

    Args:
        sizes: Places along each axis, the last varying fastest; none is one place.
        width: Room.
        height: Likewise.
        names_columns: Whether columns with names are worth smaller cells.
    """
    sizes = [max(1, size) for size in sizes] or [1]
    room = width, height = max(1, width), max(1, height)
    splits = range(1, len(sizes)) if len(sizes) > 1 else range(1)
    for cell_height, least, most in _SIZES:
        found = [
            fitting
            for num_down in splits
            if (fitting := _fit(sizes, num_down, room, (cell_height, least, most), names_columns))
        ]
        if names_columns and least > 5:
            wraps = len(sizes) == 1
            found = [x for x in found if x.top or x.band_cells == 1 or (wraps and x.band_lines > 1)]
        whole = [layout for layout in found if layout.band_lines == 1]
        # Of two axes the second may wrap: then its numbers in the cells say enough. Of more, which
        # line of a band is which would be anybody's guess: rather smaller cells.
        if whole or (found and len(sizes) <= 2):
            return max(whole or found, key=lambda layout: (layout.top, -layout.num_down))
    return _dense(sizes, width, height)


def _dense(sizes: Sequence[int], width: int, height: int) -> MeshLayout:
    """Single characters, each for several places if need be."""
    num_down = 1 if len(sizes) > 1 else 0
    bands, band = math.prod(sizes[:num_down]), math.prod(sizes[num_down:])
    is_flat = bands > height
    if is_flat:
        bands, band = 1, bands * band
    per_cell = _share(band, width * (height // bands))
    cells = -(-band // per_cell)
    cols = min(cells, width)
    # Lines begin where the last axis does, if that takes no more of them.
    whole = cols - cols % max(1, sizes[-1] // per_cell)
    if whole and -(-cells // whole) * bands <= height:
        cols = whole
    return MeshLayout(num_down, bands, cells, cols, 1, 1, 0, 0, 0, 0, 0, per_cell, is_flat)


def _share(num_places: int, num_cells: int) -> int:
    """How many places share a cell: a number that divides them, if that is not many more."""
    least = -(-num_places // num_cells)
    return next((n for n in range(least, 2 * least) if num_places % n == 0), least)


def _fit(
    sizes: Sequence[int],
    num_down: int,
    room: tuple[int, int],
    cell: tuple[int, int, int],
    names_columns: bool,
) -> MeshLayout | None:
    """The layout with cells of one size, or None if they do not all fit."""
    (width, height), (cell_height, least, most) = room, cell
    bands, band = math.prod(sizes[:num_down]), math.prod(sizes[num_down:])
    band_group = sizes[num_down - 1] if num_down > 1 else 1
    cell_group = sizes[-1] if len(sizes) - num_down > 1 else 1
    gap = 1 if least > 1 else 0
    # A letter, a number and a blank for each axis.
    named = sum(len(str(size - 1)) + 2 for size in sizes[:num_down])
    has_room = width > 20 and (least > 1 or band + named <= width)
    left = named if bands > 1 and has_room else 0
    fitting = (width - left + gap) // (least + gap)
    if fitting < 1:
        return None
    cols = _columns(band, min(fitting, band))
    lines = -(-band // cols)
    needed = bands * lines * cell_height
    if needed > height:
        return None
    # Without a gap between them, tiles of several lines run into each other.
    line_gap = int(cell_height > 1)
    spare = height - needed - line_gap * (bands * lines - 1)
    if spare < 0:
        return None
    gaps = bands - 1 if lines > 1 else 0
    band_gap = int(0 < gaps <= spare)
    spare -= gaps * band_gap
    whole = width - left + gap
    between = _CELL_GROUP_GAP if least > 1 else 1
    cell_gaps = cols // cell_group - 1 if cell_group > 1 and cols % cell_group == 0 else 0
    spread = whole - cell_gaps * between
    cell_group_gap = between if cell_gaps and spread // cols - gap >= least else 0
    wide = min(most, (spread if cell_group_gap else whole) // cols - gap)
    # The header says something only where each column, or each group of them, is one coordinate.
    is_named = lines == 1 and band > 1 and (bands > 1 or names_columns)
    top = int(is_named and spare > 0 and (least >= 5 or cell_group_gap > 0))
    spare -= top
    groups = bands // band_group - 1 if band_group > 1 else 0
    group_gap = int(0 < groups <= spare)
    return MeshLayout(
        num_down=num_down,
        num_bands=bands,
        band_cells=band,
        cols=cols,
        cell_width=wide,
        cell_height=cell_height,
        gap=gap,
        left=left,
        top=top,
        line_gap=line_gap,
        band_gap=band_gap,
        per_cell=1,
        is_flat=False,
        band_group=band_group,
        group_gap=group_gap,
        cell_group=cell_group if cell_group_gap else 1,
        cell_group_gap=cell_group_gap,
    )


def _columns(num_cells: int, most: int) -> int:
    """Cells on a line: all of them, or a divisor of theirs that is not much less than fits."""
    if num_cells <= most:
        return num_cells
    for cols in range(most, most // 2, -1):
        if num_cells % cols == 0:
            return cols
    return most
