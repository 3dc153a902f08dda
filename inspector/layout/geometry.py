"""Boxes of a tensor as columns, and torch's rule for cutting one dim.

The rule this module keeps: pure functions of integer arrays. Boxes are `offsets` and `sizes` of
shape (num_boxes, ndim), int64; an empty box is one with a size of 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Ints",
    "box_cuts",
    "clipped",
    "distinct",
    "grid_cuts",
    "intersect",
    "maxima",
    "nested_chunk_bounds",
    "num_pieces",
    "num_touching",
    "shares",
    "sums",
    "torch_chunk_bounds",
    "unique",
    "volumes",
]

Ints = npt.NDArray[np.int64]

# From so many elements on numpy's own way is the faster one.
_MANY = 1 << 16


def unique(values: npt.NDArray[Any], axis: int | None = None) -> npt.NDArray[Any]:
    """`np.unique`; of few elements without `numpy.ma`, whose import takes 14 ms.

    numpy looks whether they are masked, unless it is asked for counts as well (2.3 to 2.4). Many
    integers of a small range, as ranks are, are counted, in a fifth of the time.
    """
    if values.size >= _MANY:
        low = values.min()
        if axis is None and values.dtype == np.int64 and values.max() - low < values.size:
            found: npt.NDArray[Any] = np.flatnonzero(np.bincount(values.ravel() - low)) + low
            return found
        return np.unique(values, axis=axis)
    return np.unique(values, axis=axis, return_counts=True)[0]


def volumes(sizes: Ints) -> Ints:
    """Elements of each box, shape (num_boxes,); a 0-d box holds 1.

    The product wraps past 64 bits: bound the tensor's own `math.prod(shape)` first.
    """
    result: Ints = np.prod(sizes, axis=1, dtype=np.int64)
    return result


def intersect(
    offsets_a: Ints, sizes_a: Ints, offsets_b: Ints, sizes_b: Ints
) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    """The common part of boxes, with numpy broadcasting over all but the last axis.

    Args:
        offsets_a: Lower corners of the one, shape (..., ndim).
        sizes_a: Their extents, likewise.
        offsets_b: Lower corners of the other.
        sizes_b: Their extents.

    Returns:
        Offsets and sizes of the common boxes, and whether each holds an element. Sizes are 0
        where there is nothing in common.
    """
    lower = np.maximum(offsets_a, offsets_b)
    upper = np.minimum(offsets_a + sizes_a, offsets_b + sizes_b)
    sizes = np.maximum(upper - lower, 0)
    return lower, sizes, (sizes > 0).all(axis=-1)


def clipped(extent: Ints, offsets: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    """Lower and upper corners of boxes, cut to a tensor of shape `extent`; no sum overflows."""
    low = np.clip(offsets, 0, extent)
    return low, low + np.clip(sizes, 0, extent - low)


def box_cuts(extent: Ints, *corners: Ints) -> list[Ints]:
    """By dim, the sorted indices at which a corner lies, those of the tensor itself included."""
    ends = np.stack([np.zeros_like(extent), extent])
    at = np.concatenate([*corners, ends])
    return [np.unique(at[:, dim]) for dim in range(len(extent))]


def num_touching(
    top: Ints, left: Ints, bottom: Ints, right: Ints, num_rows: int, num_cols: int
) -> Ints:
    """How many boxes touch each cell: +1 and -1 at a box's corners, then sums along both axes."""
    steps = np.zeros((num_rows + 1, num_cols + 1), np.int64)
    for ys, xs, sign in ((top, left, 1), (top, right, -1), (bottom, left, -1), (bottom, right, 1)):
        np.add.at(steps, (ys, xs), sign)
    count: Ints = steps.cumsum(axis=0).cumsum(axis=1)[:num_rows, :num_cols]
    return count


def torch_chunk_bounds(size: int, num_shards: int) -> tuple[Ints, Ints]:
    """Where `Shard(dim)` cuts a dim of `size` elements over `num_shards` ranks.

    Every shard has ceil(size / num_shards) elements while they last; the shards past the end
    are empty and start at `size`. Source: `Shard.local_shard_size_and_offset`,
    torch/distributed/tensor/placement_types.py, which is `torch.chunk`'s rule.

    Returns:
        Starts and lengths, each of shape (num_shards,).
    """
    return nested_chunk_bounds(size, (num_shards,))


def nested_chunk_bounds(size: int, shards: Sequence[int]) -> tuple[Ints, Ints]:
    """Cuts a dim over `shards[0]` ranks, every piece again over `shards[1]`, and so on.

    Two mesh axes that shard one tensor dim cut it so: the outer axis first. For
    `[Shard(d), Shard(d)]` the outer axis is the first, for `[_StridedShard(d, sf), Shard(d)]`
    the last (`_StridedShard`, torch/distributed/tensor/placement_types.py). An empty piece
    starts at `size`, as `compute_local_shape_and_global_offset` records it
    (torch/distributed/tensor/_utils.py).

    Returns:
        Starts and lengths, each of shape (prod(shards),), in row-major order of the axes.
    """
    starts = np.zeros(1, dtype=np.int64)
    lengths = np.full(1, size, dtype=np.int64)
    for num in shards:
        step = np.arange(num, dtype=np.int64)
        full = (-(-lengths // num))[:, None]
        lower = np.minimum(full * step, lengths[:, None])
        upper = np.minimum(full * (step + 1), lengths[:, None])
        starts = (starts[:, None] + lower).ravel()
        lengths = (upper - lower).ravel()
    starts[lengths == 0] = size
    return starts, lengths


def num_pieces(size: int, shards: Sequence[int]) -> int:
    """How many non-empty pieces `nested_chunk_bounds` makes, without making them."""
    if size == 0 or not shards:
        return int(size > 0)
    full = -(-size // shards[0])
    pieces = (size // full) * num_pieces(full, shards[1:])
    return pieces + num_pieces(size % full, shards[1:])


def grid_cuts(offsets: Ints, sizes: Ints, shape: Sequence[int]) -> tuple[Ints, ...] | None:
    """The cut points per dim, if the non-empty boxes are exactly a full grid over `shape`.

    Empty boxes are passed over. A 0-d tensor is a grid if it has one box. A dim of size 0 has
    one piece, of size 0.

    Returns:
        For each dim the borders `[0, ..., shape[dim]]` in rising order (one more than there
        are pieces), or None if a box is missing, doubled, out of bounds or out of line.
    """
    full = ((sizes > 0) | (np.asarray(shape, dtype=np.int64) == 0)).all(axis=1)
    if not full.all():
        offsets, sizes = offsets[full], sizes[full]
    cuts: list[Ints] = []
    cell = np.zeros(len(offsets), dtype=np.int64)
    num_cells = 1
    for dim, size in enumerate(shape):
        starts, where = np.unique(offsets[:, dim], return_inverse=True)
        if not len(starts) or starts[0] != 0 or starts[-1] >= max(size, 1):
            return None
        borders = np.append(starts, np.int64(size))
        if not np.array_equal(np.diff(borders)[where], sizes[:, dim]):
            return None
        cuts.append(borders)
        num_cells *= len(starts)
        if num_cells > len(offsets):
            return None
        cell = cell * len(starts) + where
    if num_cells != len(offsets) or len(unique(cell)) != math.prod(len(c) - 1 for c in cuts):
        return None
    return tuple(cuts)


def sums(first: Ints, last: Ints, value: Ints | int, num_shards: int) -> Ints:
    """For each shard the sum of `value` over the items whose run holds it.

    Args:
        first: First shard of each run, shape (num_items,).
        last: Last shard of each run; `first - 1` for a run of none (in `sums` alone).
        value: What each item adds; the total must fit in 64 bits.
        num_shards: How many shards there are.

    Returns:
        Shape (num_shards,), int64.
    """
    steps = np.zeros(num_shards + 1, dtype=np.int64)
    if np.ndim(value):
        np.add.at(steps, first, value)
        np.subtract.at(steps, last + 1, value)
    else:
        steps += np.bincount(first, minlength=num_shards + 1) * value
        steps -= np.bincount(last + 1, minlength=num_shards + 1) * value
    return np.cumsum(steps[:-1])


def shares(start: Ints, stop: Ints, full: Ints, row_bytes: Ints, num_shards: int) -> Ints:
    """For each shard the bytes of the rows that it shares with the items.

    Args:
        start: First row of each item, shape (num_items,).
        stop: The row after its last, more than `start`.
        full: Rows of a whole shard of its tensor.
        row_bytes: Bytes of one row.
        num_shards: How many shards there are.
    """
    first, last = start // full, (stop - 1) // full
    head = np.minimum(stop, (first + 1) * full) - start
    tail = np.where(last > first, stop - last * full, 0)
    result = sums(first, first, head * row_bytes, num_shards)
    result += sums(last, last, tail * row_bytes, num_shards)
    # Those between are shared whole.
    return result + sums(first + 1, np.maximum(last - 1, first), full * row_bytes, num_shards)


def maxima(first: Ints, last: Ints, value: Ints, num_shards: int) -> Ints:
    """For each shard the largest `value` over the items whose run holds it; 0 where none does.

    A run is the union of two runs of one power of two (the sparse table for range minima of Bender
    and Farach-Colton, "The LCA problem revisited", 2000); these are pushed down, level by level.
    """
    best = np.zeros(num_shards, dtype=np.int64)
    if not len(first):
        return best
    length = last - first + 1
    level = np.frexp(length.astype(np.float64))[1] - 1
    by_level = [best.copy() for _ in range(int(level.max()) + 1)]
    for k in unique(level).tolist():
        rows = np.flatnonzero(level == k)
        np.maximum.at(by_level[k], first[rows], value[rows])
        if k:
            np.maximum.at(by_level[k], last[rows] + 1 - (1 << k), value[rows])
    for k in range(len(by_level) - 1, 0, -1):
        half, here, below = 1 << (k - 1), by_level[k], by_level[k - 1]
        np.maximum(below, here, out=below)
        # A run of this level begins where it ends within the shards.
        np.maximum(below[half:], here[: num_shards - half], out=below[half:])
    result: Ints = by_level[0]
    return result


def distinct(first: Ints, last: Ints, label: Ints, num_shards: int) -> Ints:
    """For each shard how many different labels the items have whose run holds it.

    The runs of each label are made disjoint (sorted, each begins where those before it ended),
    and then counted.

    Args:
        first: As in `sums`.
        last: As in `sums`.
        label: At least 0 and less than 2 ** 31, shape (num_items,).
        num_shards: At most 2 ** 16.
    """
    if not len(first):
        return np.zeros(num_shards, dtype=np.int64)
    # One sortable number for each run; equal runs of one label count once.
    width = np.int64(num_shards)
    key = (label.astype(np.int64) * width + first) * width + last
    key.sort()
    key = key[np.append(True, key[1:] != key[:-1])]
    begin, end = key // width, key // (width * width) * width + key % width + 1
    covered = np.maximum.accumulate(end)
    begin[1:] = np.maximum(begin[1:], covered[:-1])
    rows = begin < end
    begin, end = begin[rows], end[rows]
    base = (end - 1) // width * width
    return sums(begin - base, end - 1 - base, 1, num_shards)
