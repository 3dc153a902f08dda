"""Where a tensor's elements stand in its storage: index by position, and which positions count.

torch.save keeps a tensor as it lies in memory: a storage and strides. A transposed tensor stands
in it in another order, a slice of a larger one leaves some of it unused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.payload_tensor import StoredTensor

__all__ = ["Hole", "Places", "places_of"]

Ints = npt.NDArray[np.int64]
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
