"""How many bytes a job will read, from the metadata alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from inspector.checkpoint.model import Checkpoint
from inspector.layout.load_plan import Planner
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
    """The load of some tensors under a mesh, each cut by `Shard(0)` (a 0-d one: replicated).

    The job takes the metadata of every rank, where there is such, as one.
    """
    plan = Planner(replace(checkpoint, per_rank_metadata=False), tensors, ()).plan(mesh)
    return Reads(str(mesh), plan.bytes_needed, plan.bytes_read)


def reloading(num_bytes: int, saved_under: Mesh, mesh: Mesh) -> Reads:
    """The load of what was saved under another mesh: evenly cut over S, read by T ranks.

    A rank's shard then overlaps with so many payloads that in all S + T - gcd(S, T) pairs of a
    shard and a payload share elements.
    """
    old, new = saved_under.num_shards, mesh.num_shards
    pairs = old + new - math.gcd(old, new)
    needed = num_bytes * mesh.num_replicas
    return Reads(str(mesh), needed, needed * pairs // old)
