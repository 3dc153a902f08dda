"""Where each rank of a mesh stands on a screen: replicas down, shards across.

The rule this module keeps: no terminal and no job, only sizes. A grid takes the largest cells
with which every rank has its own; where even single characters do not fit, several share one.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MeshLayout", "mesh_layout"]

# Height, least and largest width of a cell, the best first; each says less than the one before.
_SIZES = ((4, 19, 40), (3, 17, 40), (2, 15, 40), (1, 11, 26), (1, 5, 10), (1, 2, 2), (1, 1, 1))


@dataclass(frozen=True, slots=True)
class MeshLayout:
    """A grid of cells.

    Attributes:
        num_replicas, num_shards: Bands of cells, and cells in each.
        cols: Cells on a line; a band with more goes on below.
        cell_width, cell_height: Of one cell, without the gap right of it.
        gap: Blank columns between cells.
        left: Columns for the names of the bands; 0 for none.
        top: Lines for the names of the shards; 0 or 1.
        line_gap: Blank lines between the lines of cells.
        band_gap: Blank lines between bands, besides.
        per_cell: Ranks in one cell.
        is_flat: The bands are not kept apart: there are more of them than lines.
    """

    num_replicas: int
    num_shards: int
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

    @property
    def band_lines(self) -> int:
        """Lines of cells in a band."""
        return -(-self.num_shards // self.cols)

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
        return self.top + (self.num_replicas - 1) * self._band_step + self.band_height

    @property
    def num_cells(self) -> int:
        return self.num_replicas * self.num_shards

    def origin(self, cell: int) -> tuple[int, int]:
        """Column and line of a cell's first character."""
        band, shard = divmod(cell, self.num_shards)
        line, col = divmod(shard, self.cols)
        y = self.top + band * self._band_step + line * self._step
        return self.left + col * (self.cell_width + self.gap), y

    def cell_at(self, x: int, y: int) -> int | None:
        """The cell at a character, or None."""
        place = self.line_at(y)
        col, beyond = divmod(x - self.left, self.cell_width + self.gap)
        if place is None or x < self.left or col >= self.cols or beyond >= self.cell_width:
            return None
        band, line, _ = place
        shard = line * self.cols + col
        return band * self.num_shards + shard if shard < self.num_shards else None

    def line_at(self, y: int) -> tuple[int, int, int] | None:
        """Band, line of cells in it, and line within those cells; None on headers and gaps."""
        band, rest = divmod(y - self.top, self._band_step)
        line, part = divmod(rest, self._step)
        if y < self.top or band >= self.num_replicas:
            return None
        if line >= self.band_lines or part >= self.cell_height:
            return None
        return band, line, part

    def cells_on(self, band: int, line: int) -> range:
        """The cells on a line of a band."""
        first = band * self.num_shards
        start = first + line * self.cols
        return range(start, min(start + self.cols, first + self.num_shards))


def mesh_layout(num_replicas: int, num_shards: int, width: int, height: int) -> MeshLayout:
    """Lay out a mesh of `num_replicas` x `num_shards` on `width` x `height` characters.

    It is never wider, and never higher unless `height` is less than 1.
    """
    num_replicas, num_shards = max(1, num_replicas), max(1, num_shards)
    width, height = max(1, width), max(1, height)
    for cell_height, least, most in _SIZES:
        found = _fit(num_replicas, num_shards, width, height, cell_height, least, most)
        if found is not None:
            return found
    if num_replicas <= height:
        lines = height // num_replicas
        per_cell = -(-num_shards // (width * lines))
        cells = -(-num_shards // per_cell)
        cols = min(cells, width)
        return MeshLayout(num_replicas, cells, cols, 1, 1, 0, 0, 0, 0, 0, per_cell, False)
    world = num_replicas * num_shards
    per_cell = -(-world // (width * height))
    cells = -(-world // per_cell)
    return MeshLayout(1, cells, min(cells, width), 1, 1, 0, 0, 0, 0, 0, per_cell, True)


def _fit(
    num_replicas: int,
    num_shards: int,
    width: int,
    height: int,
    cell_height: int,
    least: int,
    most: int,
) -> MeshLayout | None:
    """The layout with cells of one size, or None if they do not all fit."""
    gap = 1 if least > 1 else 0
    name = len(f"R{num_replicas - 1} ")
    left = name if num_replicas > 1 and least > 1 and width > 20 else 0
    fitting = (width - left + gap) // (least + gap)
    if fitting < 1:
        return None
    cols = _columns(num_shards, min(fitting, num_shards))
    lines = -(-num_shards // cols)
    needed = num_replicas * lines * cell_height
    if needed > height:
        return None
    # Without a gap between them, tiles of several lines run into each other.
    line_gap = int(cell_height > 1)
    spare = height - needed - line_gap * (num_replicas * lines - 1)
    if spare < 0:
        return None
    gaps = num_replicas - 1 if lines > 1 else 0
    band_gap = int(0 < gaps <= spare)
    spare -= gaps * band_gap
    # The header says something only where each column is one shard.
    top = int(least > 5 and lines == 1 and num_replicas > 1 and spare > 0)
    wide = min(most, (width - left + gap) // cols - gap)
    return MeshLayout(
        num_replicas,
        num_shards,
        cols,
        wide,
        cell_height,
        gap,
        left,
        top,
        line_gap,
        band_gap,
        1,
        False,
    )


def _columns(num_shards: int, most: int) -> int:
    """Cells on a line: all of them, or a divisor of theirs that is not much less than fits."""
    if num_shards <= most:
        return num_shards
    for cols in range(most, most // 2, -1):
        if num_shards % cols == 0:
            return cols
    return most
