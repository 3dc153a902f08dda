"""Where a tensor's elements stand in its storage: index by position, and which positions count.

torch.save keeps a tensor as it lies in memory: a storage and strides. A transposed tensor stands
in it in another order, a slice of a larger one leaves some of it unused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import Ints, Tensor
from inspector.checkpoint.payload.tensor import StoredTensor
from inspector.layout.geometry import grid_cuts, intersect, unique

__all__ = ["Hole", "Places", "Shares", "places_of", "shares_of"]

Mask = npt.NDArray[np.bool_]

#: A box in a chunk's own indices: lower corner, upper corner (exclusive).
Hole: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Places:
    """The elements of a stored tensor, by their position in the storage.

    Attributes:
        tensor: The tensor.
        dims: Its dims of more than one index, from the widest stride to the narrowest.
        repeats: How many elements of the tensor share each position (strides of 0).
        holes: Boxes whose elements do not count.
    """

    tensor: StoredTensor
    dims: tuple[int, ...]
    repeats: int = 1
    holes: tuple[Hole, ...] = ()

    @property
    def is_dense(self) -> bool:
        """True if the elements that count fill one stretch of the storage."""
        expected = 1
        for d in reversed(self.dims):
            if self.tensor.strides[d] != expected:
                return False
            expected *= self.tensor.shape[d]
        return not self.holes and 0 not in self.tensor.shape

    def select(self, at: int, count: int) -> slice | Mask:
        """Which of the positions `at` to `at + count` hold elements that count."""
        if self.is_dense:
            first = self.tensor.first
            last = first + math.prod(self.tensor.shape[d] for d in self.dims)
            return slice(min(max(first - at, 0), count), min(max(last - at, 0), count))
        _, inside = self.index(np.arange(at, at + count, dtype=np.int64))
        return inside

    def index(self, positions: Ints) -> tuple[Ints, Mask]:
        """The index of the element at each position.

        Args:
            positions: Positions in the storage, in elements, shape (n,).

        Returns:
            Indices, shape (ndim, n); the least where elements share a position. And whether an
            element that counts is there.
        """
        shape = self.tensor.shape
        rest = positions - self.tensor.first
        index = np.zeros((len(shape), len(rest)), np.int64)
        inside = rest >= 0
        for d in self.dims:
            index[d], rest = np.divmod(rest, self.tensor.strides[d])
            inside &= index[d] < shape[d]
        inside &= rest == 0
        if 0 in shape:
            inside[:] = False
        for low, high in self.holes:
            in_hole = inside.copy()
            for d, (a, b) in enumerate(zip(low, high, strict=True)):
                in_hole &= (index[d] >= a) & (index[d] < b)
            inside &= ~in_hole
        return index, inside


def places_of(tensor: StoredTensor, holes: Sequence[Hole] = ()) -> Places | None:
    """The places of a stored tensor, or None if its strides give elements no place of their own.

    Elements may share a place only by a stride of 0, and then a hole may not cut them apart.
    """
    shape, strides = tensor.shape, tensor.strides
    dims = [d for d, n in enumerate(shape) if n > 1]
    shared = [d for d in dims if strides[d] == 0]
    if shared and holes:
        return None
    dims = sorted((d for d in dims if strides[d]), key=lambda d: -strides[d])
    reach = 0
    for d in reversed(dims):
        # Each dim must step over all that the finer ones reach, or elements would share places.
        if strides[d] <= reach:
            return None
        reach += (shape[d] - 1) * strides[d]
    return Places(tensor, tuple(dims), math.prod(shape[d] for d in shared), tuple(holes))


# Pairs of chunks that are looked at for overlap, for one tensor.
_MAX_PAIRS = 1 << 22
_MAX_HOLES = 64
_TOO_MANY = "its chunks overlap in too many ways to count each element once"


@dataclass(frozen=True, slots=True)
class Shares:
    """What is counted of one tensor.

    Attributes:
        chunks: The chunks to read, rising.
        holes: Boxes of a chunk that do not count, in its own indices, by chunk.
        problem: Why it cannot be told what to count, or an empty string.
    """

    chunks: list[int]
    holes: dict[int, tuple[Hole, ...]] = field(default_factory=dict)
    problem: str = ""


def shares_of(tensor: Tensor, readable: npt.NDArray[np.bool_]) -> Shares:
    """The chunks of a tensor to read, and what of them.

    Args:
        tensor: The tensor.
        readable: Which of its chunks can be read, shape (num_chunks,).
    """
    chunks = np.flatnonzero(readable & (tensor.sizes > 0).all(axis=1))
    if not len(chunks):
        return Shares([])
    offsets, sizes = tensor.offsets[chunks], tensor.sizes[chunks]
    if len(chunks) == 1 and tuple(sizes[0].tolist()) == tensor.shape and not offsets.any():
        return Shares(chunks.tolist())
    if grid_cuts(offsets, sizes, tensor.shape) is not None:
        return Shares(chunks.tolist())
    if not tensor.shape:
        return Shares(chunks.tolist()[:1])
    _, first = np.unique(np.concatenate([offsets, sizes], axis=1), axis=0, return_index=True)
    chunks = chunks[np.sort(first)]
    offsets, sizes = tensor.offsets[chunks], tensor.sizes[chunks]
    pairs = _overlapping(offsets, sizes)
    if pairs is None:
        return Shares([], problem=_TOO_MANY)
    holes: dict[int, list[Hole]] = {}
    for a, b in pairs:
        low = np.maximum(offsets[a], offsets[b]) - offsets[b]
        high = np.minimum(offsets[a] + sizes[a], offsets[b] + sizes[b]) - offsets[b]
        hole = (tuple(low.tolist()), tuple(high.tolist()))
        holes.setdefault(int(chunks[b]), []).append(hole)
    shape = np.array(tensor.shape, np.int64)
    for i in np.flatnonzero((offsets > shape - sizes).any(axis=1)).tolist():
        for dim, end in enumerate((shape - offsets[i]).tolist()):
            size = sizes[i].tolist()
            if end < size[dim]:
                low = [0] * len(size)
                low[dim] = max(end, 0)
                holes.setdefault(int(chunks[i]), []).append((tuple(low), tuple(size)))
    if max(map(len, holes.values()), default=0) > _MAX_HOLES:
        return Shares([], problem=_TOO_MANY)
    return Shares(chunks.tolist(), {chunk: tuple(found) for chunk, found in holes.items()})


def _overlapping(offsets: Ints, sizes: Ints) -> list[tuple[int, int]] | None:
    """Pairs (a, b), a < b, of boxes with an element in common; None if there are too many to try.

    Along the dim with most distinct starts, only boxes that begin before another ends can meet it.
    """
    if not offsets.shape[1]:
        return []
    dim = int(np.argmax([len(unique(offsets[:, d])) for d in range(offsets.shape[1])]))
    order = np.argsort(offsets[:, dim], kind="stable")
    starts = offsets[order, dim]
    ends = np.searchsorted(starts, starts + sizes[order, dim], side="left")
    here = np.arange(len(order))
    if int((ends - here - 1).clip(0).sum()) > _MAX_PAIRS:
        return None
    found = []
    for i, end in zip(here.tolist(), ends.tolist(), strict=True):
        rivals = order[i + 1 : end]
        if not len(rivals):
            continue
        mine = order[i]
        _, _, meet = intersect(offsets[mine], sizes[mine], offsets[rivals], sizes[rivals])
        found += [(min(int(mine), r), max(int(mine), r)) for r in rivals[meet].tolist()]
    return sorted(found)
