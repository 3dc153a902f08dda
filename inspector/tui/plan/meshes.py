"""The meshes that the load plan offers: the next larger one, the next smaller, those that are even.

The rule this module keeps: pure; a mesh in, a mesh out, and always one that a job can run under.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inspector.checkpoint.model import Checkpoint
from inspector.layout.mesh import MAX_WORLD_SIZE, Mesh
from inspector.layout.reads.items import TensorRows
from inspector.layout.writer.written_by import WrittenBy

__all__ = ["EvenSizes", "even_sizes", "first_mesh", "other_kind", "presets", "with_step"]

_LIMIT = 4096
_LARGE_SHARE = 0.99
_DEFAULT_SHARDS = 8
_POWERS = tuple(1 << n for n in range(13))


@dataclass(frozen=True, slots=True)
class EvenSizes:
    """Numbers of shards that leave no rank short.

    Attributes:
        sizes: In rising order; 1 at least.
        of_all: Whether they divide every tensor, and not only those that hold 99 % of the bytes.
    """

    sizes: tuple[int, ...]
    of_all: bool

    @property
    def label(self) -> str:
        """What the sizes that are offered are; the star: of nearly all bytes."""
        if len(self.sizes) == 1:
            return "sizes"
        return "even" if self.of_all else "even*"

    @property
    def offered(self) -> tuple[int, ...]:
        """The sizes; where only 1 is even, powers of two."""
        return self.sizes if len(self.sizes) > 1 else _POWERS


def even_sizes(rows: TensorRows) -> EvenSizes:
    """The numbers of shards that divide the first dim of every tensor, up to 4,096.

    If only 1 does (one odd bias is enough), those that divide the largest tensors, which together
    hold 99 % of the bytes.
    """
    is_cut = rows.is_cut & rows.has_elements
    heights = rows.height[is_cut]
    found = _divisors(heights)
    if len(found) > 1 or not len(heights):
        return EvenSizes(found, True)
    sizes = heights.astype(np.float64) * rows.row_bytes[is_cut]
    order = np.argsort(-sizes, kind="stable")
    held = np.cumsum(sizes[order])
    count = int(np.searchsorted(held, held[-1] * _LARGE_SHARE)) + 1
    return EvenSizes(_divisors(heights[order[:count]]), False)


def _divisors(heights: np.ndarray[tuple[int], np.dtype[np.int64]]) -> tuple[int, ...]:
    common = int(np.gcd.reduce(heights)) if len(heights) else 1
    return tuple(n for n in range(1, _LIMIT + 1) if common % n == 0)


def first_mesh(checkpoint: Checkpoint, written_by: WrittenBy | None) -> Mesh:
    """The mesh to begin with: the writer's, or as many shards as ranks wrote it."""
    if written_by is not None and written_by.mesh is not None and written_by.mesh.can_launch:
        return written_by.mesh
    ranks = checkpoint.world_size or _DEFAULT_SHARDS
    return Mesh("fsdp", (ranks if 1 < ranks <= MAX_WORLD_SIZE else _DEFAULT_SHARDS,))


def _mesh(num_replicas: int, num_shards: int, *, hsdp: bool) -> Mesh:
    if hsdp or num_replicas > 1:
        return Mesh("hsdp", (num_replicas, num_shards))
    return Mesh("fsdp", (num_shards,))


def with_step(mesh: Mesh, axis: str, steps: int, even: Sequence[int] = ()) -> Mesh:
    """The mesh with the next larger (or smaller) size of an axis; the same, if there is none.

    Args:
        mesh: `fsdp:S` or `hsdp:RxS`.
        axis: `replicate`, which goes by powers of two, or `shard`, which goes by `even` sizes and
            beyond the last of them by powers of two.
        steps: 1 or -1.
        even: Sizes that divide evenly, in rising order.
    """
    shards, replicas = mesh.num_shards, mesh.num_replicas
    hsdp = mesh.family == "hsdp"
    if axis == "shard":
        size = _next(shards, steps, even if len(even) > 1 else ())
        found = _mesh(replicas, size, hsdp=hsdp)
    else:
        # One replica less than two is FSDP.
        found = _mesh(_next(replicas, steps, ()), shards, hsdp=False)
    return found if found.world_size <= MAX_WORLD_SIZE else mesh


def _next(size: int, steps: int, even: Sequence[int]) -> int:
    """The neighbour of a size among `even` sizes, or powers of two past their end."""
    if steps > 0:
        place = bisect_right(even, size)
        return even[place] if place < len(even) else 1 << size.bit_length()
    place = bisect_left(even, size)
    below = 1 << max((size - 1).bit_length() - 1, 0)
    if not place:
        return below
    # Past the largest even size, powers of two lead back to it.
    return max(below, even[-1]) if size > even[-1] else even[place - 1]


def other_kind(mesh: Mesh) -> Mesh:
    """The same ranks as FSDP instead of HSDP, or as two replicas instead of FSDP."""
    size = mesh.world_size
    if mesh.family == "hsdp":
        return Mesh("fsdp", (size,))
    return Mesh("hsdp", (2, size // 2)) if size % 2 == 0 else Mesh("hsdp", (1, size))


def presets(mesh: Mesh, even: Sequence[int], written: Mesh | None, room: int) -> list[str]:
    """Meshes to choose from, as many as `room` characters hold: the writer's, and even ones.

    The even ones have as many replicas as `mesh`, and numbers of shards around its own.
    """
    own = [str(written)] if written is not None and written.can_launch else []
    hsdp = mesh.family == "hsdp"
    names = [str(_mesh(mesh.num_replicas, n, hsdp=hsdp)) for n in even]
    names = [name for name, n in zip(names, even, strict=True) if _fits(mesh, n)]
    names = [name for name in names if name not in own]
    room -= sum(len(name) + 2 for name in own)
    place = min(bisect_left(even, mesh.num_shards), max(len(names) - 1, 0))
    first = last = place
    used = len(names[place]) + 2 if names else 0
    grown = True
    while grown:
        grown = False
        for index in (last + 1, first - 1):
            if 0 <= index < len(names) and used + len(names[index]) + 2 <= room:
                used += len(names[index]) + 2
                first, last, grown = min(first, index), max(last, index), True
    return [*own, *names[first : last + 1]]


def _fits(mesh: Mesh, num_shards: int) -> bool:
    return mesh.num_replicas * num_shards <= MAX_WORLD_SIZE
