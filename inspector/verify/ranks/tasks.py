"""Which stored payloads a rank compares with its shard, and whose CRC32 it checks.

The rule this module keeps: boxes meet by our own geometry, not by DCP's planner; and every payload
of a tensor has exactly one rank that checks its CRC32, spread evenly over the ranks that read it
anyway.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import BytesEntry, Checkpoint, Tensor
from inspector.checks.metadata.cover import analyse
from inspector.layout.geometry import Ints, intersect, torch_chunk_bounds, volumes
from inspector.layout.mesh import Mesh
from inspector.layout.rows import RowBlock
from inspector.layout.target.placement import TargetPlacement
from inspector.verify.ranks.bits import POISON, Local, RegionTally

__all__ = ["ChunkTask", "chunk_tasks", "count_uncovered", "entry_of", "is_checker"]

_SPREAD = 2_654_435_761  # Knuth's multiplier: neighbours go far apart.


class ChunkTask(NamedTuple):
    """One payload for one rank: the common box (empty if only the CRC is checked)."""

    file: int
    byte_offset: int
    tensor: int
    chunk: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    is_needed: bool
    is_checker: bool


def chunk_tasks(
    checkpoint: Checkpoint,
    tensor: Tensor,
    mesh: Mesh,
    rank: int,
    box: tuple[tuple[int, ...], tuple[int, ...]],
    *,
    check_crc: bool,
    rows: RowBlock | None = None,
    lies: TargetPlacement | None = None,
) -> list[ChunkTask]:
    """The payloads of a tensor that a rank reads.

    Args:
        checkpoint: Where the tensor is.
        tensor: The tensor.
        mesh: The mesh it is loaded on.
        rank: The rank.
        box: Offsets and sizes of the rank's shard.
        check_crc: Also those whose CRC32 this rank has to check.
        rows: The block of rows that is verified, if not all are.
        lies: How the tensor lies on the mesh; None for `Shard(0)` on a plain one.
    """
    if not tensor.num_chunks:
        return []
    lower, sizes, hit = _common(tensor, box)
    stored = tensor.file >= 0
    needed = hit & stored
    mine = np.zeros_like(needed)
    if check_crc:
        mine = (_checkers(checkpoint, tensor, mesh, lies, rows) == rank) & stored
    if rows is not None:
        mine &= rows.owns(tensor)
    return [
        ChunkTask(
            int(tensor.file[i]),
            int(tensor.byte_offset[i]),
            tensor.index,
            i,
            tuple(lower[i].tolist()),
            tuple(sizes[i].tolist()),
            bool(needed[i]),
            bool(mine[i]),
        )
        for i in np.flatnonzero(needed | mine).tolist()
    ]


def _common(
    tensor: Tensor, box: tuple[tuple[int, ...], tuple[int, ...]]
) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    ndim = len(tensor.shape)
    low = np.array(box[0], np.int64).reshape(1, ndim)
    extent = np.array(box[1], np.int64).reshape(1, ndim)
    return intersect(tensor.offsets, tensor.sizes, low, extent)


def _checkers(
    checkpoint: Checkpoint,
    tensor: Tensor,
    mesh: Mesh,
    lies: TargetPlacement | None,
    rows: RowBlock | None,
) -> Ints:
    """The rank that checks each chunk's payload, shape (num_chunks,): one that holds some of it."""
    first = int(checkpoint.columns.chunk_start[tensor.index])
    number = np.arange(first, first + tensor.num_chunks, dtype=np.int64)
    rest = (number * _SPREAD) >> 8
    world: Ints = rest % mesh.world_size
    if not tensor.num_elements:
        return world
    shape, low = list(tensor.shape), tensor.offsets.copy()
    if rows is not None:
        shape[0] = rows.last - rows.first
        low[:, 0] -= rows.first
    high = low + tensor.sizes - 1
    # Of the pieces of each dim that a chunk reaches into one; and the ranks that hold these.
    cell = np.zeros(tensor.num_chunks, np.int64)
    cell_of_rank = np.zeros(mesh.world_size, np.int64)
    for dim in (0,)[: len(shape)] if lies is None else lies.cut_dims:
        if lies is None:
            starts, lengths = torch_chunk_bounds(shape[0], mesh.num_shards)
            piece_of_rank = np.arange(mesh.world_size) % mesh.num_shards  # The last axis.
        else:
            starts, lengths = lies.bounds(dim, shape[dim])
            piece_of_rank = lies.piece_of_rank(dim)
        pieces = np.flatnonzero(lengths)
        pieces = pieces[np.argsort(starts[pieces])]
        at = starts[pieces]
        begin = np.maximum(np.searchsorted(at, low[:, dim], "right") - 1, 0)
        end = np.maximum(np.searchsorted(at, high[:, dim], "right") - 1, begin)
        count = end - begin + 1
        cell = cell * len(starts) + pieces[begin + rest % count]
        rest //= count
        cell_of_rank = cell_of_rank * len(starts) + piece_of_rank
    ranks = np.argsort(cell_of_rank, kind="stable")
    held = cell_of_rank[ranks]
    begin = np.searchsorted(held, cell)
    count = np.searchsorted(held, cell, "right") - begin
    rank = ranks[begin + rest % count]
    is_empty = (tensor.sizes == 0).any(axis=1)
    return np.where(is_empty, world, rank)


def is_checker(fqn: str, number: int, world_size: int, rank: int) -> bool:
    """Whether a rank checks the CRC32 of the bytes entry `number` of a name."""
    spread = zlib.crc32(fqn.encode("utf-8", "surrogatepass")) + number
    return spread % world_size == rank


def entry_of(entries: list[BytesEntry], rank: int) -> BytesEntry:
    """Of the entries of one name, the one a rank loads.

    Several there are only with per-rank metadata, where each rank wrote its own.
    """
    return next((e for e in entries if e.rank == rank), entries[0])


def count_uncovered(tensor: Tensor, local: Local, tally: RegionTally) -> None:
    """Count the elements of a shard that no stored chunk holds."""
    if not local.num_elements:
        return
    lower, sizes, hit = _common(tensor, (local.offsets, local.sizes))
    hit &= tensor.file >= 0
    low = lower[hit] - np.array(local.offsets, np.int64).reshape(1, -1)
    extent = sizes[hit]
    if _tiles(low, extent, local.sizes):
        return
    cover = analyse(low, extent, local.sizes)
    if not cover.num_gap and cover.complete:
        return
    tally.num_uncovered = max(cover.num_gap, 1)
    for gap in cover.gaps:
        offsets = tuple(a + b for a, b in zip(gap.offsets, local.offsets, strict=True))
        rows = local.part(offsets, gap.sizes).reshape(-1, local.itemsize)
        tally.num_unwritten += int((rows == POISON).all(axis=1).sum())
        tally.differ(offsets, None, "0x" + rows[0].tobytes()[::-1].hex(), None)


def _tiles(low: Ints, sizes: Ints, shape: tuple[int, ...]) -> bool:
    """True if boxes plainly tile a shape: full but for dim 0, and one after the other there."""
    if not shape:
        return len(low) == 1
    if int(volumes(sizes).sum()) != int(np.prod(shape, dtype=np.int64)):
        return False
    if not (sizes[:, 1:] == np.array(shape[1:], np.int64)).all():
        return False
    order = np.argsort(low[:, 0], kind="stable")
    starts, ends = low[order, 0], (low[:, 0] + sizes[:, 0])[order]
    return bool(starts[0] == 0 and (starts[1:] == ends[:-1]).all())
