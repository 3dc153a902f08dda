"""The meshes that the screen offers: the next larger one, the next smaller, those that are even.

The rule this module keeps: pure; a mesh in, a mesh out, and always one that a job can run under.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inspector.checkpoint.model import Checkpoint
from inspector.layout.mesh import MAX_WORLD_SIZE, Mesh, kind_of
from inspector.layout.reads.items import TensorRows
from inspector.layout.target.placement import why_not
from inspector.layout.writer.written_by import WrittenBy

__all__ = [
    "EvenSizes",
    "even_sizes",
    "first_mesh",
    "other_kind",
    "presets",
    "with_step",
    "writer_mesh",
]

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


def writer_mesh(written_by: WrittenBy | None) -> Mesh | None:
    """The mesh that wrote it as one asks for it, if a load can be planned under it.

    Axes beyond replicas and shards have their names: `dp_shard:4,tp:2`, not `fsdp_tp:4x2`.
    """
    mesh = None if written_by is None else written_by.mesh
    if written_by is None or mesh is None:
        return None
    if not mesh.is_plain and written_by.layout is not None and written_by.layout.named_axes:
        mesh = Mesh.parse(written_by.layout.named_axes)
    return None if why_not(mesh) else mesh


def first_mesh(checkpoint: Checkpoint, written_by: WrittenBy | None) -> Mesh:
    """The mesh to begin with: the writer's, or as many shards as ranks wrote it."""
    written = writer_mesh(written_by)
    if written is not None:
        return written
    ranks = checkpoint.world_size or _DEFAULT_SHARDS
    return Mesh("fsdp", (ranks if 1 < ranks <= MAX_WORLD_SIZE else _DEFAULT_SHARDS,))


def _mesh(num_replicas: int, num_shards: int, *, hsdp: bool) -> Mesh:
    if hsdp or num_replicas > 1:
        return Mesh("hsdp", (num_replicas, num_shards))
    return Mesh("fsdp", (num_shards,))


def with_step(mesh: Mesh, axis: str, steps: int, even: Sequence[int] = ()) -> Mesh:
    """The mesh with the next larger (or smaller) size of an axis; the same, if there is none.

    Args:
        mesh: The mesh.
        axis: A name of its axes, or `replicate` or `shard` for the first axis of that kind. It
            goes by powers of two, one that FSDP shards over by `even` sizes and beyond the last of
            them by powers of two.
        steps: 1 or -1.
        even: Sizes that divide evenly, in rising order.
    """
    by = even if kind_of(axis) == "shard" and len(even) > 1 else ()
    if not mesh.is_plain:
        found = _with_named_step(mesh, axis, steps, by)
    elif axis == "shard":
        size = _next(mesh.num_shards, steps, by)
        found = _mesh(mesh.num_replicas, size, hsdp=mesh.family == "hsdp")
    else:
        # One replica less than two is FSDP.
        found = _mesh(_next(mesh.num_replicas, steps, ()), mesh.num_shards, hsdp=False)
    return found if found.world_size <= MAX_WORLD_SIZE and not why_not(found) else mesh


def _with_named_step(mesh: Mesh, axis: str, steps: int, even: Sequence[int]) -> Mesh:
    """`with_step` of axes by name; the experts' mesh goes along, on its axis of the same kind."""
    names = mesh.axes
    at = names.index(axis) if axis in names else _first_of_kind(mesh, axis)
    if at is None:
        return mesh
    before = mesh.sizes[at]
    after = _next(before, steps, even)
    experts = mesh.experts
    if experts is not None:
        theirs = _first_of_kind(experts, names[at])
        if theirs is None or experts.sizes[theirs] * after % before:
            return mesh
        experts = _resized(experts, theirs, experts.sizes[theirs] * after // before)
    found = _resized(mesh, at, after)
    return Mesh(found.family, found.sizes, found.names, experts)


def _first_of_kind(mesh: Mesh, name: str) -> int | None:
    kind = kind_of(name)
    return mesh.kinds.index(kind) if kind is not None and kind in mesh.kinds else None


def _resized(mesh: Mesh, axis: int, size: int) -> Mesh:
    sizes = (*mesh.sizes[:axis], size, *mesh.sizes[axis + 1 :])
    return Mesh(mesh.family, sizes, mesh.names)


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
    """The same ranks as FSDP instead of any other mesh, or as two replicas instead of FSDP."""
    size = mesh.world_size
    if mesh.family != "fsdp" or not mesh.is_plain:
        return Mesh("fsdp", (size,))
    return Mesh("hsdp", (2, size // 2)) if size % 2 == 0 else Mesh("hsdp", (1, size))


def presets(mesh: Mesh, even: Sequence[int], written: Mesh | None, room: int) -> list[str]:
    """Meshes to choose from, as many as `room` characters hold: the writer's, and even ones.

    The even ones are `mesh` with other numbers of shards around its own. With axes by name FSDP
    over the same ranks stands before them.
    """
    own = [] if written is None else [written]
    if not mesh.is_plain:
        own.append(Mesh("fsdp", (mesh.world_size,)))
    own_names = list(dict.fromkeys(map(str, own)))
    at = _first_of_kind(mesh, "shard")
    if mesh.is_plain:
        hsdp = mesh.family == "hsdp"
        others = [_mesh(mesh.num_replicas, n, hsdp=hsdp) for n in even]
    elif at is None or mesh.experts is not None:
        others = [mesh]
    else:
        others = [_resized(mesh, at, n) for n in even]
    now = mesh.num_shards if mesh.is_plain else mesh.sizes[at or 0]
    names = [str(m) for m in others if m.world_size <= MAX_WORLD_SIZE]
    names = [name for name in names if name not in own_names]
    room -= sum(len(name) + 2 for name in own_names)
    place = min(bisect_left(even, now), max(len(names) - 1, 0))
    first = last = place
    used = len(names[place]) + 2 if names else 0
    grown = True
    while grown:
        grown = False
        for index in (last + 1, first - 1):
            if 0 <= index < len(names) and used + len(names[index]) + 2 <= room:
                used += len(names[index]) + 2
                first, last, grown = min(first, index), max(last, index), True
    return [*own_names, *names[first : last + 1]]
