"""How many bytes a job will read, from the metadata alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inspector.checkpoint.model import Checkpoint
from inspector.layout.mesh import Mesh

__all__ = ["Reads", "loading", "reloading"]


@dataclass(frozen=True, slots=True)
class Reads:
    """What all ranks of a mesh read together to load.

    Attributes:
        mesh: The mesh.
        needed_bytes: Sum of the ranks' shards.
        read_bytes: What torch's reader fetches for them: of every payload that a rank needs a
            part of, all.
    """

    mesh: str
    needed_bytes: int
    read_bytes: int


def loading(checkpoint: Checkpoint, tensors: Sequence[int], mesh: Mesh) -> Reads:
    """The load of some tensors under a mesh, each cut by `Shard(0)` (a 0-d one: replicated)."""
    columns = checkpoint.columns
    chosen = np.zeros(columns.num_tensors, dtype=bool)
    chosen[np.asarray(tensors, dtype=np.int64)] = True
    num_dims = np.diff(columns.dim_start)
    owner = np.repeat(np.arange(columns.num_tensors), columns.num_chunks_of)
    is_read = chosen[owner] & (columns.file >= 0)
    times = np.full(len(owner), mesh.num_shards, dtype=np.int64)
    cut = is_read & (num_dims[owner] > 0)
    rows = np.flatnonzero(cut)
    of = owner[rows]
    first = columns.box_start[of] + (rows - columns.chunk_start[of]) * num_dims[of]
    start, length = columns.offsets[first], columns.sizes[first]
    height = columns.shapes[columns.dim_start[of]]
    step = np.maximum(-(-height // mesh.num_shards), 1)
    last = np.minimum(start + length, height) - 1
    times[rows] = np.where(last >= start, last // step - start // step + 1, 0)
    read = float(np.sum(columns.byte_length[is_read].astype(np.float64) * times[is_read]))
    sizes = columns.num_bytes
    needed = sum(
        sizes[i] * (1 if num_dims[i] else mesh.num_shards) for i in np.flatnonzero(chosen).tolist()
    )
    return Reads(str(mesh), needed * mesh.num_replicas, int(read) * mesh.num_replicas)


def reloading(num_bytes: int, saved_under: Mesh, mesh: Mesh) -> Reads:
    """The load of what was saved under another mesh: evenly cut over S, read by T ranks.

    A rank's shard then overlaps with so many payloads that in all S + T - gcd(S, T) pairs of a
    shard and a payload share elements.
    """
    old, new = saved_under.num_shards, mesh.num_shards
    pairs = old + new - math.gcd(old, new)
    needed = num_bytes * mesh.num_replicas
    return Reads(str(mesh), needed, needed * pairs // old)
