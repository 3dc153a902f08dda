"""`Cut`: how the chunks of a tensor cut it up, and the tensors of a checkpoint that are cut alike.

The rule this module keeps: which rank wrote a chunk plays no part here. Tensors with the same
shape and the same set of boxes are one class, found by an order-free 64-bit hash of the boxes,
so that a million chunks are looked at with a few numpy calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import TensorColumns
from inspector.layout.geometry import Ints, grid_cuts, unique, volumes
from inspector.layout.tilings import tilings_of

__all__ = [
    "Cut",
    "CutClass",
    "analyse",
    "blocks_of",
    "cell_ids",
    "cut_classes",
    "is_one_row_seen",
    "joined_rows",
]

# Odd factors after the golden ratio (Knuth, TAOCP 6.4); used in turn.
_FACTORS = np.arange(1, 128, 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
# Numbers of boxes that are looked at together; they stay in the processor's cache.
_BLOCK = 1 << 16
# Past so many classes the tensors are looked at no further.
_MAX_CLASSES = 2_000
_MAX_SIZE = 1 << 61  # keeps ceil(size / shards) * shards within 64 bits


@dataclass(frozen=True, slots=True)
class Cut:
    """The set of boxes of one tensor, as cells of a grid.

    A cell is numbered row-major over the dims with one place more per dim than there are
    pieces: the last place is the empty piece that DTensor records at offset `shape[dim]`.

    Attributes:
        shape: Global shape.
        starts: Where the pieces begin, per dim; None if the boxes are no grid.
        cells: The cells that are stored, in rising order.
        touched: Dims that are cut, or that have an empty piece.
        has_empty: Whether an empty box is stored.
        problem: Why the boxes are no grid, in words; empty otherwise.
    """

    shape: tuple[int, ...]
    starts: tuple[Ints, ...] | None
    cells: Ints
    touched: tuple[int, ...] = ()
    has_empty: bool = False
    problem: str = ""

    @property
    def num_pieces(self) -> int:
        """Cells of the grid that hold elements."""
        return math.prod(len(s) for s in self.starts or ())

    def multipliers(self) -> tuple[int, ...]:
        """What a step along each dim adds to the number of a cell."""
        result, factor = [], 1
        for starts in reversed(self.starts or ()):
            result.append(factor)
            factor *= len(starts) + 1
        return tuple(reversed(result))


@dataclass(frozen=True, slots=True)
class CutClass:
    """The tensors that are cut alike.

    Attributes:
        cut: Their common cut.
        tensors: Tensor indices, shape (num_tensors,).
        chunk_start: First chunk of each tensor in the checkpoint's columns, likewise.
        cells: Cell of each chunk, shape (num_tensors, num_chunks); of tensors that all list their
            chunks in one order it is one row seen many times (`joined_rows`).
    """

    cut: Cut
    tensors: Ints
    chunk_start: Ints
    cells: Ints


def joined_rows(rows: Iterable[Ints], count: int) -> Ints:
    """Rows as one array, shape (count, columns); if all are the same, a view of the first.

    Args:
        rows: Arrays of some rows each, in order.
        count: How many rows there are in all.
    """
    first = np.zeros(0, np.int64)
    whole: Ints | None = None
    done = 0
    for part in rows:
        if not done:
            first = part[0].copy()
        if whole is None and not (part == first).all():
            whole = np.empty((count, len(first)), np.int64)
            whole[:done] = first
        if whole is not None:
            whole[done : done + len(part)] = part
        done += len(part)
    if whole is not None:
        return whole
    return np.broadcast_to(first, (count, len(first)))


def is_one_row_seen(rows: Ints) -> bool:
    """Whether `joined_rows` found all of them to be the same."""
    return rows.strides[0] == 0 or len(rows) == 1


def cell_ids(cut: Cut, offsets: Ints, sizes: Ints) -> Ints:
    """The cell of each box, for boxes that are known to be of this cut."""
    cells = np.zeros(len(offsets), dtype=np.int64)
    if cut.starts is None:
        return cells
    for dim, factor in enumerate(cut.multipliers()):
        starts = cut.starts[dim]
        if dim not in cut.touched:
            continue
        place = np.searchsorted(starts, offsets[:, dim])
        place[sizes[:, dim] == 0] = len(starts)
        cells += place * factor
    return cells


def analyse(offsets: Ints, sizes: Ints, shape: Sequence[int], *, repeated: bool = False) -> Cut:
    """Finds the grid that the boxes of one tensor form.

    Args:
        offsets: Lower corner of each box, shape (num_boxes, ndim).
        sizes: Extent of each box, likewise.
        shape: Global shape.
        repeated: The same box may come several times (metadata of every rank).
    """
    shape = tuple(shape)
    if not len(offsets):
        return _no_grid(shape, "no chunk is stored")
    if any(size > _MAX_SIZE for size in shape):
        return _no_grid(shape, "the shape is absurdly large")
    if repeated and len(offsets) > 1 and shape:
        both = unique(np.hstack([offsets, sizes]), axis=0)
        offsets, sizes = both[:, : len(shape)], both[:, len(shape) :]
    elif repeated:
        offsets, sizes = offsets[:1], sizes[:1]
    borders = grid_cuts(offsets, sizes, shape)
    if borders is None:
        return _no_grid(shape, _problem(offsets, sizes, shape))
    starts = tuple(b[:-1] for b in borders)
    empty = (sizes == 0) & (np.asarray(shape, dtype=np.int64) > 0)
    touched = tuple(d for d in range(len(shape)) if len(starts[d]) > 1 or empty[:, d].any())
    cut = Cut(shape, starts, np.zeros(0, np.int64), touched, bool(empty.any()))
    cells = unique(cell_ids(cut, offsets, sizes))
    if len(cells) != len(offsets):
        return _no_grid(shape, "an empty chunk is stored twice")
    if cut.has_empty and not _empties_in_place(cut, offsets, sizes):
        return _no_grid(shape, "an empty chunk is not where DTensor puts it")
    return Cut(shape, starts, cells, touched, cut.has_empty)


def _no_grid(shape: tuple[int, ...], problem: str) -> Cut:
    return Cut(shape, None, np.zeros(0, np.int64), problem=problem)


def _empties_in_place(cut: Cut, offsets: Ints, sizes: Ints) -> bool:
    """Whether empty boxes start at the end of the dims where they are empty."""
    rows = ((sizes == 0) & (np.asarray(cut.shape, dtype=np.int64) > 0)).any(axis=1)
    for dim, starts in enumerate(cut.starts or ()):
        offset, size = offsets[rows, dim], sizes[rows, dim]
        where = np.minimum(np.searchsorted(starts, offset), len(starts) - 1)
        lengths = np.diff(np.append(starts, np.int64(cut.shape[dim])))
        in_grid = (starts[where] == offset) & (lengths[where] == size)
        if not np.where(size == 0, offset == cut.shape[dim], in_grid).all():
            return False
    return True


def _problem(offsets: Ints, sizes: Ints, shape: tuple[int, ...]) -> str:
    """Why boxes are no full grid: the plainest true statement."""
    if ((offsets < 0) | (offsets + sizes > np.asarray(shape, dtype=np.int64))).any():
        return "a chunk reaches outside the tensor"
    total = math.prod(shape)
    if total < 2**62 and len(offsets) * total < 2**62:
        held = int(volumes(sizes).sum())
        if held < total:
            return f"its chunks hold {held} of {total} elements: a gap"
        if held > total:
            return f"its chunks hold {held} elements, the tensor {total}: an overlap"
    return "its chunks do not form a grid"


def cut_classes(
    columns: TensorColumns, tensors: Ints, *, repeated: bool = False
) -> tuple[list[CutClass], int]:
    """Groups tensors by cut.

    Args:
        columns: The checkpoint's columns.
        tensors: Indices of the tensors to look at, in the order that matters.
        repeated: As in `analyse`.

    Returns:
        The classes, and how many of `tensors` were looked at.
    """
    tilings = tilings_of(columns)
    key = _box_hashes(tilings.columns)[tilings.of[tensors]]
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    if len(first) > _MAX_CLASSES:
        num_seen = int(np.sort(first)[_MAX_CLASSES])
        tensors, inverse = tensors[:num_seen], inverse[:num_seen]
    by_class = np.argsort(inverse, kind="stable")
    borders = np.flatnonzero(np.diff(inverse[by_class])) + 1
    classes = [
        _cut_class(columns, members, repeated)
        for members in np.split(tensors[by_class], borders)
        if len(members)
    ]
    return classes, len(tensors)


def _cut_class(columns: TensorColumns, members: Ints, repeated: bool) -> CutClass:
    tensor = columns.tensor(int(members[0]))
    cut = analyse(tensor.offsets, tensor.sizes, tensor.shape, repeated=repeated)
    num, ndim = tensor.num_chunks, len(tensor.shape)
    starts = columns.chunk_start[members]
    if not cut.touched:
        nothing = np.broadcast_to(np.zeros(num, np.int64), (len(members), num))
        return CutClass(cut, members, starts, nothing)

    def cells_of(some: Ints) -> Ints:
        boxes = columns.box_start[some][:, None] + np.arange(num * ndim)
        offsets, sizes = columns.offsets[boxes], columns.sizes[boxes]
        if (offsets == offsets[0]).all() and (sizes == sizes[0]).all():
            # So do most: their cells are looked for once.
            cells = cell_ids(cut, offsets[0].reshape(-1, ndim), sizes[0].reshape(-1, ndim))
            return np.broadcast_to(cells, (len(some), num))
        cells = cell_ids(cut, offsets.reshape(-1, ndim), sizes.reshape(-1, ndim))
        return cells.reshape(len(some), num)

    cells = joined_rows(map(cells_of, blocks_of(members, num * ndim)), len(members))
    return CutClass(cut, members, starts, cells)


def blocks_of(tensors: Ints, num_each: int) -> Iterator[Ints]:
    """Some tensors at a time, with about as many numbers together as is quick."""
    step = max(_BLOCK // max(num_each, 1), 1)
    for first in range(0, len(tensors), step):
        yield tensors[first : first + step]


def _box_hashes(columns: TensorColumns) -> npt.NDArray[np.uint64]:
    """One number per tensor, alike for tensors with the same shape and the same boxes."""
    counts = columns.num_chunks_of
    ndims = np.diff(columns.dim_start)
    result = np.zeros(columns.num_tensors, dtype=np.uint64)
    for ndim in unique(ndims).tolist():
        members = np.flatnonzero(ndims == ndim)
        dims = columns.dim_start[members]
        total = _mix([columns.shapes[dims + dim] for dim in range(ndim)], len(members), 3)
        total += (counts[members].astype(np.uint64) + np.uint64(7)) * _FACTORS[-1]
        filled = np.flatnonzero(counts[members] > 0)
        for rows in _in_blocks(filled, counts[members]):
            total[rows] += _sums_of_boxes(columns, members[rows], ndim)
        result[members] = total
    return result


def _in_blocks(rows: Ints, counts: Ints) -> Iterator[Ints]:
    """Rows in their order, with about `_BLOCK` chunks at a time."""
    if len(rows):
        number = np.cumsum(counts[rows]) // _BLOCK
        yield from np.split(rows, np.flatnonzero(np.diff(number)) + 1)


def _sums_of_boxes(columns: TensorColumns, tensors: Ints, ndim: int) -> npt.NDArray[np.uint64]:
    """The sum of the hashes of each tensor's boxes; none is without a chunk."""
    num = columns.num_chunks_of[tensors]
    begin = np.cumsum(num) - num
    within = np.arange(int(num.sum())) - np.repeat(begin, num)
    rows = np.repeat(columns.box_start[tensors], num) + within * ndim
    boxes = (
        numbers[rows + dim] for numbers in (columns.offsets, columns.sizes) for dim in range(ndim)
    )
    return np.add.reduceat(_mix(boxes, len(rows), 5), begin)


def _mix(columns: Iterable[Ints], num_rows: int, seed: int) -> npt.NDArray[np.uint64]:
    """A hash of each row, given column by column; wraps in 64 bits (splitmix64's finisher)."""
    value = np.full(num_rows, seed, dtype=np.uint64)
    for number, column in enumerate(columns):
        value += column.view(np.uint64) * _FACTORS[number % len(_FACTORS)]
        value ^= value >> np.uint64(30)
        value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    return value
