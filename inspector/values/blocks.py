"""`BlockPlan`: a tensor cut into blocks of elements that follow one another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inspector.checkpoint.payload_source import BLOCK_BYTES

__all__ = ["BlockPlan"]


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """How a tensor is cut into blocks of whole runs.

    Attributes:
        shape: The tensor's.
        itemsize: Bytes of an element.
        dim: The dim that is cut into ranges; the dims before it stand at one index.
        ranges: How many ranges it is cut into.
        num_blocks: All of them; 0 if there are no elements.
    """

    shape: tuple[int, ...]
    itemsize: int
    dim: int
    ranges: int
    num_blocks: int

    @classmethod
    def of(cls, shape: tuple[int, ...], itemsize: int, block_bytes: int = BLOCK_BYTES) -> BlockPlan:
        """The plan for blocks of at most `block_bytes` (or of one element, if that is more)."""
        if 0 in shape:
            return cls(shape, itemsize, 0, 0, 0)
        dim, inner = 0, math.prod(shape[1:]) * itemsize
        while inner > block_bytes and dim < len(shape) - 1:
            dim += 1
            inner //= shape[dim]
        if not shape:
            return cls(shape, itemsize, 0, 1, 1)
        ranges = -(-shape[dim] // max(block_bytes // inner, 1))
        # As long as they can be evenly, so that the last is no splinter.
        ranges = -(-shape[dim] // -(-shape[dim] // ranges))
        return cls(shape, itemsize, dim, ranges, math.prod(shape[:dim]) * ranges)

    def box(self, number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Offsets and sizes of a block."""
        if not self.shape:
            return (), ()
        outer, part = divmod(number, self.ranges)
        step = -(-self.shape[self.dim] // self.ranges)
        first = part * step
        index = []
        for size in reversed(self.shape[: self.dim]):
            outer, i = divmod(outer, size)
            index.append(i)
        after = self.shape[self.dim + 1 :]
        offsets = (*reversed(index), first, *(0 for _ in after))
        return offsets, (*(1 for _ in index), min(step, self.shape[self.dim] - first), *after)

    def start(self, number: int) -> int:
        """Position of a block's first element in row-major order."""
        position = 0
        for i, size in zip(self.box(number)[0], self.shape, strict=True):
            position = position * size + i
        return position
