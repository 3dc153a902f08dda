"""The gaps and overlaps of one tensor's chunks: exact, for any boxes.

The rule this module keeps: no answer is a guess from volumes, and none costs the square of the
number of chunks.

How: the number of chunks that hold an element is a sum of box indicators, and such a function is
known by its differences along every dim, which are +1 or -1 on the corners of each box and 0
elsewhere (inclusion and exclusion). The signed corners of boxes that tile a tensor cancel out to
the tensor's own (`tiling.py` proves whole checkpoints so). What does not cancel are the corners
of the gaps and overlaps; summing those up again (a prefix sum over the few coordinates that are
left) gives the faults, exactly, at a cost that depends on their number and not on the chunks'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.layout.geometry import Ints, unique

__all__ = ["MAX_WORK", "Box", "Cover", "Overlap", "analyse"]

Bools = npt.NDArray[np.bool_]

_MAX_BOXES = 8
# Sums of integers below this stay in 64 bits.
_SAFE = 1 << 62
# Coordinates of the corners of one tensor's boxes that are held at once. Past it, a tensor cut
# along many dims is taken slab by slab; along a few, there are two to eight corners to a box.
_MAX_CORNERS = 1 << 25
_FEW_DIMS = 3
# Cells of a grid of coordinates that are painted at once (or so many for each corner); past it,
# the region is cut in two.
_MIN_CELLS = 1 << 16
_CELLS_PER_CORNER = 8
# Numbers looked at before the search is given up: about a minute. A million chunks in a grid of
# three dims need 24 million; only boxes made to cross one another by the million come here.
MAX_WORK = 300_000_000


@dataclass(frozen=True, slots=True)
class Box:
    """A box of a tensor: lower corner and extent."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """A box that two chunks hold. `chunks` are their numbers."""

    box: Box
    chunks: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cover:
    """How the chunks of one tensor cover it.

    Attributes:
        num_gap: Elements that no chunk holds.
        gaps: Up to eight boxes of them.
        num_overlap: Elements that two or more chunks hold whose boxes differ.
        overlaps: Up to eight boxes of them.
        duplicates: Numbers of the chunks whose box an earlier chunk (of the same owner) has.
        outside: Numbers of the chunks that reach outside the tensor.
        num_outside: Elements of those that lie outside.
        complete: False if the search was given up; then the numbers are lower bounds.
        work: Numbers that were looked at.
    """

    num_gap: int = 0
    gaps: tuple[Box, ...] = ()
    num_overlap: int = 0
    overlaps: tuple[Overlap, ...] = ()
    duplicates: tuple[int, ...] = ()
    outside: tuple[int, ...] = ()
    num_outside: int = 0
    complete: bool = True
    work: int = 0

    @property
    def exact(self) -> bool:
        """True if every element lies in one chunk and nothing else is wrong."""
        return self.complete and not (
            self.num_gap or self.num_overlap or self.duplicates or self.outside
        )


@dataclass(slots=True)
class _Faults:
    """Gaps and overlaps as they are found."""

    num_gap: int = 0
    num_overlap: int = 0
    gaps: list[Box] = field(default_factory=list)
    overlaps: list[Box] = field(default_factory=list)
    work: int = 0
    max_work: int = MAX_WORK

    def spent(self, work: int) -> bool:
        """True if there is no more time."""
        self.work += work
        return self.work > self.max_work


def analyse(
    offsets: Ints,
    sizes: Ints,
    shape: Sequence[int],
    owner: npt.NDArray[np.integer[Any]] | None = None,
    *,
    max_work: int = MAX_WORK,
) -> Cover:
    """How boxes cover a tensor, exactly.

    Args:
        offsets: Lower corner of each box, shape (num_boxes, ndim); none is negative.
        sizes: Extent of each box, same shape. Empty boxes are passed over.
        shape: The tensor's.
        owner: Who wrote each box (a rank, a file), shape (num_boxes,): the same box of two
            owners is no duplicate. None: of one.
        max_work: Numbers to look at before the search is given up.
    """
    limits = np.asarray(shape, dtype=np.int64).reshape(len(shape))
    index = np.flatnonzero((sizes > 0).all(axis=1))
    low, high = offsets[index], offsets[index] + sizes[index]
    first, duplicates = _duplicates(low, high, None if owner is None else owner[index])
    duplicate_of = tuple(index[duplicates].tolist())
    beyond = (high > limits).any(axis=1)
    outside = index[beyond]
    low_in, high_in = np.minimum(low, limits), np.minimum(high, limits)
    num_outside = sum(
        math.prod(all_) - math.prod(in_)
        for all_, in_ in zip(
            (high - low)[beyond].tolist(), (high_in - low_in)[beyond].tolist(), strict=True
        )
    )
    keep = first & (high_in > low_in).all(axis=1)
    index, low, high = index[keep], low_in[keep], high_in[keep]
    faults = _Faults(max_work=max_work)
    if math.prod(shape):
        _search(low, high, limits, faults)
    return Cover(
        num_gap=faults.num_gap,
        gaps=tuple(faults.gaps),
        num_overlap=faults.num_overlap,
        overlaps=tuple(_named(box, low, high, index) for box in faults.overlaps),
        duplicates=duplicate_of,
        outside=tuple(outside.tolist()),
        num_outside=num_outside,
        complete=faults.work <= max_work,
        work=faults.work,
    )


def _duplicates(
    low: Ints, high: Ints, owner: npt.NDArray[np.integer[Any]] | None
) -> tuple[Bools, Bools]:
    """Which boxes are the first of their kind, and which repeat one of the same owner."""
    num = len(low)
    first, repeated = np.ones(num, dtype=np.bool_), np.zeros(num, dtype=np.bool_)
    if num < 2:
        return first, repeated
    who = np.zeros(num, dtype=np.int64) if owner is None else owner.astype(np.int64)
    rows = np.column_stack([low, high, who])
    # Stable, so that of equal boxes the one that comes first in the metadata stays.
    order = np.lexsort(rows.T[::-1])
    rows = rows[order]
    same_box = (rows[1:, :-1] == rows[:-1, :-1]).all(axis=1)
    first[order[1:][same_box]] = False
    repeated[order[1:][same_box & (rows[1:, -1] == rows[:-1, -1])]] = True
    return first, repeated


def _named(box: Box, low: Ints, high: Ints, index: Ints) -> Overlap:
    """Which two chunks hold an overlap."""
    corner = np.asarray(box.offsets, dtype=np.int64).reshape(low.shape[1])
    holders = index[((low <= corner) & (corner < high)).all(axis=1)]
    return Overlap(box, (int(holders[0]), int(holders[1])))


def _search(low: Ints, high: Ints, limits: Ints, faults: _Faults) -> None:
    """Finds the gaps and overlaps of boxes that lie inside a tensor, none of them empty.

    Boxes may be equal here, though their chunks' are not: they were cut at the tensor's edge or
    to a slab.
    """
    dims = np.flatnonzero((low > 0).any(axis=0) | (high < limits).any(axis=0))
    rest = math.prod(np.delete(limits, dims).tolist())
    found = _Faults(work=faults.work, max_work=faults.max_work)
    if not len(dims):
        if not len(low):
            found.num_gap, found.gaps = 1, [Box((), ())]
        elif len(low) > 1:
            found.num_overlap, found.overlaps = 1, [Box((), ())]
    elif len(dims) <= _FEW_DIMS or len(low) * len(dims) << len(dims) <= _MAX_CORNERS:
        _by_corners(low[:, dims], high[:, dims], limits[dims], found)
    else:
        _by_slabs(low[:, dims], high[:, dims], limits[dims], found)
    faults.work = found.work
    faults.num_gap += found.num_gap * rest
    faults.num_overlap += found.num_overlap * rest
    for boxes, more in ((faults.gaps, found.gaps), (faults.overlaps, found.overlaps)):
        boxes.extend(_widened(box, dims, limits) for box in more[: _MAX_BOXES - len(boxes)])


def _widened(box: Box, dims: Ints, limits: Ints) -> Box:
    offsets, sizes = np.zeros_like(limits), limits.copy()
    offsets[dims], sizes[dims] = box.offsets, box.sizes
    return Box(tuple(offsets.tolist()), tuple(sizes.tolist()))


def _by_slabs(low: Ints, high: Ints, limits: Ints, faults: _Faults) -> None:
    """Cuts a tensor of many dims along the one with the fewest coordinates."""
    ends = [
        unique(np.concatenate([low[:, d], high[:, d], [0, limits[d]]])) for d in range(len(limits))
    ]
    dim = min(range(len(ends)), key=lambda d: len(ends[d]))
    others = [d for d in range(len(limits)) if d != dim]
    borders = ends[dim].tolist()
    for a, b in pairwise(borders):
        active = (low[:, dim] <= a) & (high[:, dim] >= b)
        if faults.spent(len(low) * len(limits)):
            return
        slab = _Faults(work=faults.work, max_work=faults.max_work)
        _search(low[active][:, others], high[active][:, others], limits[others], slab)
        faults.work = slab.work
        faults.num_gap += slab.num_gap * (b - a)
        faults.num_overlap += slab.num_overlap * (b - a)
        for boxes, more in ((faults.gaps, slab.gaps), (faults.overlaps, slab.overlaps)):
            for box in more[: _MAX_BOXES - len(boxes)]:
                offsets, sizes = list(box.offsets), list(box.sizes)
                offsets.insert(dim, a)
                sizes.insert(dim, b - a)
                boxes.append(Box(tuple(offsets), tuple(sizes)))


def _by_corners(low: Ints, high: Ints, limits: Ints, faults: _Faults) -> None:
    """Sums up the corners that do not cancel: they are the corners of the faults."""
    num, ndim = low.shape
    if faults.spent(num * ndim << ndim):
        return
    points = np.empty(((num << ndim) + 1, ndim), dtype=np.int64)
    weights = np.empty(len(points), dtype=np.int64)
    for corner in range(1 << ndim):
        rows = slice(corner * num, (corner + 1) * num)
        for dim in range(ndim):
            points[rows, dim] = (high if corner >> dim & 1 else low)[:, dim]
        weights[rows] = -1 if bin(corner).count("1") % 2 else 1
    # Minus one everywhere: what is left is 0 where an element lies in one chunk. The tensor's
    # other corners lie on its upper edge, where nothing follows.
    points[-1], weights[-1] = 0, -1
    inside = (points < limits).all(axis=1)
    points, weights = _summed(points[inside], weights[inside], limits)
    pending = [(points, weights, limits)]
    while pending:
        points, weights, upper = pending.pop()
        if not len(points):
            continue
        coords = [unique(points[:, dim]) for dim in range(ndim)]
        if math.prod(map(len, coords)) <= max(_MIN_CELLS, _CELLS_PER_CORNER * len(points)):
            _paint(points, weights, coords, upper, faults)
            if faults.spent(math.prod(map(len, coords))):
                return
            continue
        if faults.spent(len(points) * ndim):
            return
        dim = max(range(ndim), key=lambda d: len(coords[d]))
        cut = coords[dim][len(coords[dim]) // 2]
        below = points[:, dim] < cut
        # Above the cut, what begins below it counts from the cut on.
        moved = points.copy()
        moved[below, dim] = cut
        pending.append((*_summed(moved, weights, limits), upper))
        lower_half = upper.copy()
        lower_half[dim] = cut
        pending.append((points[below], weights[below], lower_half))


def _summed(points: Ints, weights: Ints, limits: Ints) -> tuple[Ints, Ints]:
    """Equal points made one, with the sum of their weights; without those of weight 0."""
    if not len(points):
        return points, weights
    if np.prod(limits, dtype=np.float64) < _SAFE:
        key = points[:, 0].copy()
        for dim in range(1, points.shape[1]):
            key *= limits[dim]
            key += points[:, dim]
        order = np.argsort(key, kind="stable")
        key = key[order]
        new = key[1:] != key[:-1]
    else:
        order = np.lexsort(points.T[::-1])
        new = (points[order[1:]] != points[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(np.concatenate([[True], new]))
    sums = np.add.reduceat(weights[order], starts)
    kept = sums != 0
    return points[order[starts[kept]]], sums[kept]


def _paint(points: Ints, weights: Ints, coords: list[Ints], upper: Ints, faults: _Faults) -> None:
    """Counts the elements of a region whose points make a grid of few coordinates."""
    where = tuple(np.searchsorted(axis, points[:, dim]) for dim, axis in enumerate(coords))
    cells = np.zeros(tuple(map(len, coords)), dtype=np.int64)
    cells[where] = weights
    for dim in range(cells.ndim):
        np.cumsum(cells, axis=dim, out=cells)
    borders = [np.append(axis, upper[dim]) for dim, axis in enumerate(coords)]
    faults.num_gap += _measure(cells < 0, borders, faults.gaps)
    faults.num_overlap += _measure(cells > 0, borders, faults.overlaps)


def _measure(mask: Bools, borders: list[Ints], boxes: list[Box]) -> int:
    """Elements in the cells of `mask`; some of them are added to `boxes`."""
    if not mask.any():
        return 0
    extents = [np.diff(axis) for axis in borders]
    total = mask.astype(np.int64)
    for axis in reversed(extents):
        # Exact where a count passes 64 bits, which a tensor of this model cannot.
        total = total @ axis
    while len(boxes) < _MAX_BOXES and mask.any():
        corner = [int(i) for i in np.unravel_index(int(mask.argmax()), mask.shape)]
        region = [slice(i, i + 1) for i in corner]
        for dim in reversed(range(mask.ndim)):
            region[dim] = slice(corner[dim], None)
            others = tuple(d for d in range(mask.ndim) if d != dim)
            run: Bools = np.atleast_1d(mask[tuple(region)].all(axis=others))
            length = len(run) if run.all() else int(run.argmin())
            region[dim] = slice(corner[dim], corner[dim] + length)
        mask[tuple(region)] = False
        low = tuple(int(axis[part.start]) for axis, part in zip(borders, region, strict=True))
        high = (int(axis[part.stop]) for axis, part in zip(borders, region, strict=True))
        boxes.append(Box(low, tuple(b - a for a, b in zip(low, high, strict=True))))
    return int(total)
