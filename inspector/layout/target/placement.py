"""`TargetPlacement`: how one tensor lies on the mesh it is loaded under, dim by axis.

The rule this module keeps: tensor and expert parallelism cut first and FSDP cuts what they left, as
torch composes them, so that every rank holds one box. Where FSDP's axis stands before the other in
the mesh, as it mostly does, that is `_StridedShard` (torch/distributed/tensor/placement_types.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from inspector.errors import UsageError
from inspector.layout.geometry import Ints, nested_chunk_bounds
from inspector.layout.mesh import Mesh

__all__ = ["TargetMeshes", "TargetPlacement", "folded", "why_not", "why_not_fsdp2"]


@dataclass(frozen=True, slots=True)
class TargetPlacement:
    """A dim, or None, for each axis of a mesh.

    Attributes:
        mesh: The mesh, as of `folded`.
        dims: The dim of the tensor that each axis cuts; None where its ranks hold copies.
    """

    mesh: Mesh
    dims: tuple[int | None, ...]

    @property
    def cut_dims(self) -> tuple[int, ...]:
        """The dims that are cut, in rising order."""
        return tuple(sorted({dim for dim in self.dims if dim is not None}))

    def axes_of(self, dim: int) -> tuple[int, ...]:
        """The axes that cut a dim, the one that cuts first in front."""
        axes = [axis for axis, d in enumerate(self.dims) if d == dim]
        kinds = self.mesh.kinds
        return tuple(sorted(axes, key=lambda axis: kinds[axis] == "shard"))

    def axes_words(self, dim: int) -> str:
        """The same in words: `dp_shard:4 and tp:3`."""
        return " and ".join(f"{self.mesh.axes[a]}:{self.mesh.sizes[a]}" for a in self.axes_of(dim))

    def split_factor(self, axis: int) -> int:
        """Into how many pieces axes that come later in the mesh have cut the dim before."""
        dim = self.dims[axis]
        if dim is None:
            return 1
        before = self.axes_of(dim)[: self.axes_of(dim).index(axis)]
        return math.prod(self.mesh.sizes[a] for a in before if a > axis)

    def to_strings(self) -> tuple[str, ...]:
        """`("Replicate()", "_StridedShard(0, sf=2)", "Shard(0)")`: one for each axis."""
        found = []
        for axis, dim in enumerate(self.dims):
            factor = self.split_factor(axis)
            if dim is None:
                found.append("Replicate()")
            elif factor > 1:
                found.append(f"_StridedShard({dim}, sf={factor})")
            else:
                found.append(f"Shard({dim})")
        return tuple(found)

    def shards(self, dim: int) -> tuple[int, ...]:
        """In how many pieces a dim is cut, by one axis after the other."""
        return tuple(self.mesh.sizes[axis] for axis in self.axes_of(dim))

    def bounds(self, dim: int, size: int) -> tuple[Ints, Ints]:
        """Starts and lengths of the pieces of a dim, in the order of `piece_of_rank`.

        They are what torch's planner takes: the first row of a rank and how many it holds, even
        where these rows are not one after the other (`is_torn`).
        """
        return self._bounds(dim, size)[:2]

    def is_torn(self, dim: int, size: int) -> bool:
        """Whether torch lays a dim otherwise than axis after axis cuts it.

        A `_StridedShard` whose sizes do not divide can: then FSDP over tensor parallelism holds
        other rows than its placements say, and DCP takes rows for neighbours that are none.
        """
        return self._bounds(dim, size)[2]

    def _bounds(self, dim: int, size: int) -> tuple[Ints, Ints, bool]:
        axes = self.axes_of(dim)
        sizes = tuple(self.mesh.sizes[axis] for axis in axes)
        factors = tuple(self.split_factor(axis) for axis in axes)
        order = tuple(sorted(range(len(axes)), key=lambda place: axes[place]))
        return _bounds(size, sizes, factors, order)

    def piece_of_rank(self, dim: int) -> Ints:
        """Number of the piece of a dim that each rank holds, shape (world_size,)."""
        return _piece_of_rank(self.mesh.sizes, self.axes_of(dim))

    def box(self, rank: int, shape: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Offsets and sizes of what a rank holds of a tensor; an empty piece starts at the end."""
        offsets, sizes = [0] * len(shape), list(shape)
        for dim in self.cut_dims:
            starts, lengths = self.bounds(dim, shape[dim])
            piece = int(self.piece_of_rank(dim)[rank])
            offsets[dim], sizes[dim] = int(starts[piece]), int(lengths[piece])
        return tuple(offsets), tuple(sizes)

    def largest(self, shape: Sequence[int]) -> int:
        """Elements of the largest part that a rank holds."""
        sizes = list(shape)
        for dim in self.cut_dims:
            for num in self.shards(dim):
                sizes[dim] = -(-sizes[dim] // num)
        return math.prod(sizes)


@lru_cache(maxsize=1024)
def _bounds(
    size: int, sizes: tuple[int, ...], factors: tuple[int, ...], order: tuple[int, ...]
) -> tuple[Ints, Ints, bool]:
    """Starts and lengths as torch has them, and whether they are not those of the nested cut.

    Args:
        size: Size of the dim.
        sizes: Of the axes that cut it, the first to cut in front.
        factors: The split factor of each.
        order: The same axes in the order of the mesh.
    """
    starts, lengths = nested_chunk_bounds(size, sizes)
    if all(factor == 1 for factor in factors) or size % math.prod(sizes) == 0:
        return starts, lengths, False
    first, count = _as_torch(size, [(sizes[at], factors[at]) for at in order])
    back = [order.index(place) for place in range(len(order))]
    shape = [sizes[at] for at in order]
    first = first.reshape(shape).transpose(back).ravel()
    count = count.reshape(shape).transpose(back).ravel()
    if np.array_equal(first, starts) and np.array_equal(count, lengths):
        return starts, lengths, False
    return first, count, True


def _as_torch(size: int, axes: Sequence[tuple[int, int]]) -> tuple[Ints, Ints]:
    """The first row and the number of rows of each rank: axis by axis in mesh order, rows as lists.

    As `compute_local_shape_and_global_offset` has them (torch/distributed/tensor/_utils.py).

    Args:
        size: Size of the dim.
        axes: Size and split factor of each axis.
    """
    holder = np.zeros(size, dtype=np.int64)
    num_holders = 1
    for num, factor in axes:
        # Where each row stands in its holder's list: lists are in rising order.
        by_holder = np.argsort(holder, kind="stable")
        held = np.bincount(holder, minlength=num_holders)
        place = np.empty(size, dtype=np.int64)
        place[by_holder] = np.arange(size) - np.repeat(np.cumsum(held) - held, held)
        length = held[holder]
        part = np.maximum(-(-length // factor), 1)
        inner = np.minimum(part, length - place // part * part)
        piece = place % part // np.maximum(-(-inner // num), 1)
        holder, num_holders = holder * num + piece, num_holders * num
    count = np.bincount(holder, minlength=num_holders)
    first = np.full(num_holders, size, dtype=np.int64)
    np.minimum.at(first, holder, np.arange(size))
    return first, count.astype(np.int64)


@lru_cache(maxsize=256)
def _piece_of_rank(sizes: tuple[int, ...], axes: tuple[int, ...]) -> Ints:
    coordinates = np.unravel_index(np.arange(math.prod(sizes), dtype=np.int64), sizes)
    piece = np.zeros(math.prod(sizes), dtype=np.int64)
    for axis in axes:
        piece = piece * sizes[axis] + coordinates[axis]
    piece.setflags(write=False)
    return piece


def folded(mesh: Mesh, kinds: Sequence[str] = ("shard",)) -> Mesh:
    """A mesh with neighbouring axes of these kinds made one: `dp_shard:4,cp:2` is `dp_shard_cp:8`.

    So torchtitan has FSDP shard over context parallel ranks as well. The other axes stay.
    """
    axes: list[tuple[str, int]] = []
    is_open = False
    for name, kind, size in zip(mesh.axes, mesh.kinds, mesh.sizes, strict=True):
        is_one = kind in kinds
        # One name that tells the kind, whatever is joined.
        name = "fsdp" if is_one and kind != "shard" else name
        if is_one and is_open:
            joined = "dp_shard_cp" if name == "cp" else "fsdp"
            axes[-1] = joined, axes[-1][1] * size
        else:
            axes.append((name, size))
        is_open = is_one
    if [name for name, _ in axes] == list(mesh.axes):
        return Mesh(mesh.family, mesh.sizes, mesh.names)
    return Mesh.named(*axes)


def why_not(mesh: Mesh) -> str:
    """Why no load can be planned or run under a mesh; empty if one can."""
    for part in (mesh, mesh.experts):
        if part is None:
            continue
        if any(k == "stage" and n > 1 for k, n in zip(part.kinds, part.sizes, strict=True)):
            return (
                f"{mesh}: which tensors a pipeline stage holds is not the mesh's to say; leave out "
                "the pp axis, give the mesh of one stage, and --stage 1/2 for what it holds"
            )
        kinds = ("shard", "expert") if part is mesh else ("shard",)
        found = [k in kinds for k in part.kinds]
        if (
            sum(
                is_it and not before
                for is_it, before in zip(found, [False, *found[:-1]], strict=True)
            )
            > 1
        ):
            names = ", ".join(n for n, is_it in zip(part.axes, found, strict=True) if is_it)
            return f"{mesh}: {names} are one axis to FSDP, and have to stand side by side"
    return ""


def why_not_fsdp2(mesh: Mesh) -> str:
    """Why `fully_shard` over tensor parallelism is not made under a mesh; empty if it is."""
    kinds = list(folded(Mesh(mesh.family, mesh.sizes, mesh.names)).kinds)
    if mesh.experts is not None or not set(kinds) <= {"replicate", "shard", "tensor"}:
        return "it is built for axes of dp_replicate, dp_shard and tp"
    if "shard" not in kinds or kinds.count("replicate") > 1:
        return "fully_shard needs a dp_shard axis, and takes one dp_replicate axis beside it"
    if kinds != sorted(kinds, key=str):
        return "fully_shard needs dp_replicate, then dp_shard, then tp in the mesh"
    return ""


class TargetMeshes:
    """The mesh of most tensors and that of the experts, with FSDP's axes folded.

    Raises:
        UsageError: As of `why_not`.
    """

    def __init__(self, mesh: Mesh) -> None:
        why = why_not(mesh)
        if why:
            raise UsageError(why)
        self.mesh = mesh
        self._experts = mesh.experts

    @cached_property
    def dense(self) -> Mesh:
        """FSDP lies flat over all of its axes, expert parallelism's among them."""
        plain = folded(Mesh(self.mesh.family, self.mesh.sizes, self.mesh.names))
        return folded(plain, ("shard", "expert"))

    @cached_property
    def experts(self) -> Mesh | None:
        """Experts are cut by the expert axis, and what it left by FSDP; None without such axis."""
        if self._experts is not None:
            return folded(self._experts)
        if "expert" in self.mesh.kinds:
            return folded(Mesh(self.mesh.family, self.mesh.sizes, self.mesh.names))
        return None
