"""Chunk boxes -> a grid of cells: which chunk each cell of the drawing belongs to.

The rule this module keeps: pure geometry, no colour and no terminal. Proportions are true along
each axis, with one bend: while there are cells enough, every cut gets one, so that a thin uneven
tail is seen. Where there are not, each cell stands for the same number of chunks.

Two kinds of drawing. A `plane` shows two dims, the lower one downwards. A `band` shows one dim
as a line that wraps; it is taken for 1-d tensors, and for tensors cut along one dim into more
pieces than the plane has rows or columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from inspector.layout.geometry import Ints, box_cuts, clipped, num_touching

__all__ = [
    "GAP",
    "LABEL_CELLS",
    "OUTSIDE",
    "POINT",
    "UNIT",
    "Cells",
    "ChunkGrid",
    "DrawnAxis",
    "Mark",
    "layout",
    "place_cuts",
    "wrap_cuts",
]

LABEL_CELLS = 6
"""Cells a chunk would like along a line, so that its rank can stand in it."""


@dataclass(frozen=True, slots=True, eq=False)
class DrawnAxis:
    """One drawn axis: where the cuts of a dim lie in cells.

    Attributes:
        dim: Dim of the tensor, or -1 for none (a scalar).
        cuts: Sorted indices where a chunk begins or ends, the dim's ends included.
        at: Cell at which each cut lies; not decreasing. More cuts than cells share cells.
        per_cell: Pieces between two cuts that share a cell; 1 if each has its own.
    """

    dim: int
    cuts: Ints
    at: Ints
    per_cell: int

    @property
    def num_cells(self) -> int:
        return int(self.at[-1]) if len(self.at) else 0

    @property
    def num_pieces(self) -> int:
        return max(1, len(self.cuts) - 1)

    def span(self, low: Ints, high: Ints) -> tuple[Ints, Ints]:
        """First and one past the last cell of each interval; never empty."""
        last = len(self.cuts) - 1
        first = np.clip(np.searchsorted(self.cuts, low, side="right") - 1, 0, max(0, last - 1))
        end = np.clip(np.searchsorted(self.cuts, high, side="left"), 1, max(1, last))
        start = np.minimum(self.at[first], self.num_cells - 1)
        # Where pieces share a cell, the end of one lies in the cell of the next.
        stop = np.where(self.per_cell > 1, self.at[end - 1] + 1, self.at[end])
        return start, np.maximum(stop, start + 1)


UNIT = np.array([0, 1], dtype=np.int64)
POINT = DrawnAxis(-1, UNIT, UNIT, 1)


def place_cuts(dim: int, cuts: Ints, cells: int, limit: int) -> DrawnAxis:
    """Places the cuts of a dim on `cells` cells, or on up to `limit` if they need more."""
    pieces = len(cuts) - 1
    if pieces > limit:
        per_cell = -(-pieces // limit)
        at = np.arange(pieces + 1, dtype=np.int64) // per_cell + _last(pieces, per_cell)
        return DrawnAxis(dim, cuts, at, per_cell)
    lengths = np.diff(cuts)
    if _is_regular(lengths):
        # To the nearest multiple: cells that cannot be shared evenly are not used.
        cells = min(max(1, round(cells / pieces)), limit // pieces) * pieces
    cells = max(cells, pieces)
    at = np.concatenate([[0], np.cumsum(_share(lengths, cells))]).astype(np.int64)
    return DrawnAxis(dim, cuts, at, 1)


def _last(pieces: int, per_cell: int) -> Ints:
    """1 at the final cut if the last cell is not full: the axis ends after it, not in it."""
    extra = np.zeros(pieces + 1, np.int64)
    extra[-1] = 1 if pieces % per_cell else 0
    return extra


def _is_regular(lengths: Ints) -> bool:
    """Whether the pieces are equal, at most with a short tail."""
    return bool((lengths[:-1] == lengths.max()).all())


def _share(lengths: Ints, cells: int) -> Ints:
    """Cells per piece: equal pieces get equal cells, others by length, each at least one."""
    count = len(lengths)
    longest = int(lengths.max())
    if _is_regular(lengths):
        unit = cells // count
        equal: Ints = np.full(count, unit, np.int64)
        tail = int(lengths[-1])
        if tail < longest:
            equal[-1] = max(1, min(unit, round(unit * (tail / longest))))
        return equal
    exact = lengths / lengths.sum(dtype=np.float64) * cells
    wide: Ints = np.maximum(1, np.floor(exact)).astype(np.int64)
    spare = cells - int(wide.sum())
    if spare > 0:
        wide[np.argsort(np.floor(exact) - exact, kind="stable")[:spare]] += 1
    while spare < 0:  # the ones that got more than their part give it back, longest first
        give = np.argsort(-wide, kind="stable")[: min(-spare, int((wide > 1).sum()))]
        wide[give] -= 1
        spare += len(give)
    return wide


def wrap_cuts(dim: int, cuts: Ints, width: int, height: int) -> tuple[DrawnAxis, int]:
    """A line that wraps: the axis along all of it, and the cells of one row."""
    pieces = len(cuts) - 1
    rows = min(height, max(1, -(-pieces * LABEL_CELLS // width)))
    if pieces > width * rows:
        axis = place_cuts(dim, cuts, width * rows, width * rows)
        return axis, width
    lengths = np.diff(cuts)
    if _is_regular(lengths):
        # Rows of whole pieces, so that none is broken over a row's end.
        per_row = -(-pieces // rows)
        unit = width // per_row
        if unit:
            return place_cuts(dim, cuts, unit * pieces, unit * pieces), unit * per_row
    return place_cuts(dim, cuts, width * rows, width * rows), width


Cells: TypeAlias = npt.NDArray[np.int32]

GAP = -1
"""Owner of a cell inside the tensor that no chunk covers."""
OUTSIDE = -2
"""Owner of a cell that is not part of the tensor (the end of a band's last row)."""

_PIECE_ROWS = 2
"""Rows a piece of a plane would like: a line and its label, or simply to be seen."""
_MAX_PAINTED = 50_000
"""Chunks painted one by one; boxes beyond it only count."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A box to point at: `kind` is `gap`, `overlap` or another word of a finding."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    kind: str = "gap"


@dataclass(frozen=True, slots=True, eq=False)
class ChunkGrid:
    """The drawing.

    Attributes:
        kind: `plane`, `band`, or `empty` for a tensor without elements.
        rows, cols: The axes; of a band, `cols` is the whole unwrapped line, `rows` one cell.
        wrap: Cells of one row of a band; 0 for a plane.
        folded: Dims that are not drawn.
        folded_cut: Those of them that are cut: a cell stands for several chunks then.
        owner: Chunk of each cell (the first, if it holds several), GAP or OUTSIDE.
        other: The last chunk of each cell; differs from `owner` where a cell holds several.
        count: Chunks that touch each cell.
        boxes: First row, first column, end row, end column of each chunk in cells, shape
            (n, 4); of a band, columns of the unwrapped line. Zero-size chunks have all -1.
        empty: Indices of zero-size chunks.
        outside: Indices of chunks that reach outside the tensor.
        marks: Cells of each mark, as in `boxes`.
    """

    kind: Literal["plane", "band", "empty"]
    rows: DrawnAxis
    cols: DrawnAxis
    wrap: int
    folded: tuple[int, ...]
    folded_cut: tuple[int, ...]
    owner: Cells
    other: Cells
    count: Cells
    boxes: Ints
    empty: Ints
    outside: Ints
    marks: Ints

    @property
    def per_cell(self) -> int:
        """Most chunks that one cell stands for."""
        return int(self.count.max()) if self.count.size else 0

    def cells_of(self, box: Ints) -> list[tuple[int, int, int, int]]:
        """A box of `boxes` or `marks` as rectangles of the wrapped grid."""
        top, left, bottom, right = (int(v) for v in box)
        if top < 0:
            return []
        if not self.wrap:
            return [(top, left, bottom, right)]
        rows = range(left // self.wrap, (right - 1) // self.wrap + 1)
        return [
            (r, max(0, left - r * self.wrap), r + 1, min(self.wrap, right - r * self.wrap))
            for r in rows
        ]


def layout(
    shape: Sequence[int],
    offsets: Ints,
    sizes: Ints,
    width: int,
    height: int,
    *,
    marks: Sequence[Mark] = (),
) -> ChunkGrid:
    """Lay the chunks of one tensor out on at most `width` x `height` cells.

    Args:
        shape: Global shape.
        offsets: Lower corners, shape (n, ndim).
        sizes: Extents, shape (n, ndim). Boxes may overlap, leave gaps or reach outside.
        width: Columns, at least 1.
        height: Rows, at least 1.
        marks: Boxes to find cells for; their edges count as cuts.
    """
    width, height = max(1, width), max(1, height)
    ndim = len(shape)
    extent = np.asarray(shape, dtype=np.int64)
    offsets, sizes = _matrix(offsets, ndim), _matrix(sizes, ndim)
    num_chunks = len(offsets)
    empty = np.flatnonzero((sizes <= 0).any(axis=1))
    low, high = clipped(extent, offsets, sizes)
    outside = np.flatnonzero(((offsets != low) | (sizes > extent - low)).any(axis=1))
    mark_low, mark_high = clipped(
        extent, _matrix([m.offsets for m in marks], ndim), _matrix([m.sizes for m in marks], ndim)
    )
    alive: npt.NDArray[np.bool_] = np.asarray((low < high).all(axis=1))
    if (extent <= 0).any():
        return _nothing(num_chunks, empty, outside, len(marks))

    cuts = box_cuts(extent, low[alive], high[alive], mark_low, mark_high)
    pieces = [len(c) - 1 for c in cuts]
    wrap = 0
    if ndim >= 2:
        row_dim, col_dim = _drawn_dims(shape, pieces)
        one_way = min(pieces[row_dim], pieces[col_dim]) == 1
        if one_way and (pieces[row_dim] > height or pieces[col_dim] > width):
            along = row_dim if pieces[row_dim] > 1 else col_dim
            rows, (cols, wrap) = POINT, wrap_cuts(along, cuts[along], width, height)
        else:
            wide, high_cells = _plane_size(shape[row_dim], shape[col_dim], width, height)
            rows = place_cuts(
                row_dim,
                cuts[row_dim],
                max(high_cells, min(height, pieces[row_dim] * _PIECE_ROWS)),
                height,
            )
            cols = place_cuts(
                col_dim, cuts[col_dim], max(wide, min(width, pieces[col_dim] * LABEL_CELLS)), width
            )
    elif ndim == 1:
        rows, (cols, wrap) = POINT, wrap_cuts(0, cuts[0], width, height)
    else:
        rows, cols = POINT, DrawnAxis(-1, UNIT, np.array([0, min(width, 2 * LABEL_CELLS)]), 1)

    drawn = {rows.dim, cols.dim}
    folded = tuple(d for d in range(ndim) if d not in drawn)
    boxes = _boxes(rows, cols, low, high, alive, num_chunks)
    owner, other, count = _paint(boxes, rows.num_cells, cols.num_cells)
    if wrap:
        owner, other = _wrapped(owner, wrap, OUTSIDE), _wrapped(other, wrap, OUTSIDE)
        count = _wrapped(count, wrap, 0)
    return ChunkGrid(
        kind="band" if wrap else "plane",
        rows=rows,
        cols=cols,
        wrap=wrap,
        folded=folded,
        folded_cut=tuple(d for d in folded if pieces[d] > 1),
        owner=owner,
        other=other,
        count=count,
        boxes=boxes,
        empty=empty,
        outside=outside,
        marks=_boxes(rows, cols, mark_low, mark_high, np.ones(len(marks), np.bool_), len(marks)),
    )


def _matrix(boxes: Ints | Sequence[tuple[int, ...]], ndim: int) -> Ints:
    """One row per box; a plain reshape cannot tell how many boxes of a scalar there are."""
    return np.asarray(boxes, dtype=np.int64).reshape(len(boxes), ndim)


def _nothing(num_chunks: int, empty: Ints, outside: Ints, num_marks: int) -> ChunkGrid:
    none = np.empty((0, 0), np.int32)
    no_axis = DrawnAxis(-1, UNIT, np.zeros(2, np.int64), 1)
    return ChunkGrid(
        "empty", no_axis, no_axis, 0, (), (), none, none, none,
        np.full((num_chunks, 4), -1, np.int64), empty, outside,
        np.full((num_marks, 4), -1, np.int64),
    )  # fmt: skip


def _drawn_dims(shape: Sequence[int], pieces: list[int]) -> tuple[int, int]:
    """The two dims cut most; among equals those longer than 1, then the first."""
    order = sorted(range(len(shape)), key=lambda d: (-pieces[d], shape[d] == 1, d))
    row, col = sorted(order[:2])
    return row, col


def _plane_size(rows: int, cols: int, width: int, height: int) -> tuple[int, int]:
    """Columns and rows for a plane: the tensor's aspect, held to what uses the pane well.

    A cell is twice as high as wide. A tall tensor still gets 60 % of the width, a wide one
    60 % of the height: an embedding table is not drawn as a thread.
    """
    wide = min(width, max(round(0.6 * width), round(2 * height * cols / rows)))
    high = min(height, max(round(0.6 * height), round(wide * rows / cols / 2)))
    return max(1, wide), max(1, high)


def _boxes(
    rows: DrawnAxis, cols: DrawnAxis, low: Ints, high: Ints, alive: npt.NDArray[np.bool_], num: int
) -> Ints:
    """Each box in cells: top, left, bottom, right; -1 throughout for boxes of no size."""
    boxes = np.zeros((num, 4), np.int64)
    for column, axis in ((0, rows), (1, cols)):
        if axis.dim < 0:
            boxes[:, column], boxes[:, column + 2] = 0, axis.num_cells
        else:
            start, stop = axis.span(low[:, axis.dim], high[:, axis.dim])
            boxes[:, column], boxes[:, column + 2] = start, stop
    boxes[~alive] = -1
    return boxes


def _paint(boxes: Ints, num_rows: int, num_cols: int) -> tuple[Cells, Cells, Cells]:
    """First and last chunk of each cell, and how many touch it."""
    owner = np.full((num_rows, num_cols), GAP, np.int32)
    other = np.full((num_rows, num_cols), GAP, np.int32)
    index = np.flatnonzero(boxes[:, 0] >= 0)
    top, left, bottom, right = boxes[index].T
    count = num_touching(top, left, bottom, right, num_rows, num_cols).astype(np.int32)
    single = (bottom - top == 1) & (right - left == 1)
    large = np.flatnonzero(~single)[:_MAX_PAINTED]
    for i in large[::-1].tolist():
        owner[top[i] : bottom[i], left[i] : right[i]] = index[i]
    for i in large.tolist():
        other[top[i] : bottom[i], left[i] : right[i]] = index[i]
    small = np.flatnonzero(single)
    cells = (top[small], left[small])
    last = np.full((num_rows, num_cols), GAP, np.int32)
    np.maximum.at(last, cells, index[small].astype(np.int32))
    none = np.iinfo(np.int32).max
    first = np.where(owner == GAP, none, owner).astype(np.int32)
    np.minimum.at(first, cells, index[small].astype(np.int32))
    return np.where(first == none, GAP, first).astype(np.int32), np.maximum(other, last), count


def _wrapped(cells: Cells, wrap: int, fill: int) -> Cells:
    line = cells.reshape(-1)
    rows = -(-len(line) // wrap)
    padded = np.full(rows * wrap, fill, np.int32)
    padded[: len(line)] = line
    return padded.reshape(rows, wrap)
