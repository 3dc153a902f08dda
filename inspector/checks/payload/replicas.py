"""Copies of one tensor, all stored, that differ: a judgement of `values.replicas`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding, Severity
from inspector.checks.metadata.local_state import local_pieces
from inspector.checks.metadata.optimizer import is_optimizer_state, split_state
from inspector.checks.plan.roles import role_of
from inspector.values.replicas import ReplicaDifference, replica_differences

__all__ = ["check_replicas"]


def check_replicas(
    checkpoint: Checkpoint, storage: Storage, digests: Mapping[int, object]
) -> list[Finding]:
    """All `replicas-differ` findings, one for each tensor.

    Args:
        checkpoint: The checkpoint; only with metadata of every rank's own it stores copies.
        storage: Its folder.
        digests: What was computed of the elements, by chunk of `TensorColumns`; copies of one
            digest are not read again.
    """
    if not checkpoint.per_rank_metadata:
        return []

    def may_differ(tensor: Tensor, chunks: Sequence[int]) -> bool:
        first = int(checkpoint.columns.chunk_start[tensor.index])
        found = [digests.get(first + chunk) for chunk in chunks]
        return None not in found and len(set(found)) > 1

    tensors = range(checkpoint.num_tensors)
    found = list(replica_differences(checkpoint, storage, tensors, may_differ=may_differ))
    own = local_pieces(checkpoint) if found else frozenset()
    return [_finding(checkpoint, item, item.index in own) for item in found]


def _may_be_own(checkpoint: Checkpoint, index: int, fqn: str) -> bool:
    """Whether each rank may have its own value of a tensor, by what it is.

    Generators, counters and positions are integers; losses and scales are single numbers; what an
    unknown optimizer keeps may be of a rank's own piece.
    """
    columns = checkpoint.columns
    if not columns.dtype(index).startswith(("float", "bfloat", "complex")):
        return True
    if role_of(fqn, is_tensor=True) == "extra" or not columns.shape(index):
        return True
    is_unknown = is_optimizer_state(fqn) and split_state(fqn) is None
    return is_unknown or any("rng" in part or "random" in part for part in fqn.lower().split("."))


def _finding(checkpoint: Checkpoint, found: ReplicaDifference, is_piece: bool) -> Finding:
    is_own = is_piece or _may_be_own(checkpoint, found.index, found.fqn)
    severity: Severity = "warning" if is_own else "error"
    ranks = [f"rank {r}" if r is not None else "one" for r in found.ranks]
    hint = (
        "find out which rank is right (ranks that should be alike drifted apart, or were never "
        "made alike), or take another checkpoint"
    )
    if is_own:
        hint = (
            "no fault if every rank has its own (random state, position in the data); else " + hint
        )
    if is_piece:
        hint = "no fault on the same ranks: each is a rank's own piece, under one name"
    return Finding(
        "replicas-differ",
        severity,
        f"{printable(found.fqn, 120)}: {plural(found.num_different, 'element')} of "
        f"{found.num_elements:,} are not alike in the copies of all ranks, the first at "
        f"{list(found.first_index)}: {ranks[0]} stored {found.values[0]}, {ranks[1]} "
        f"{found.values[1]}",
        "every rank loads its own copy silently, so the ranks go on with different values; on more "
        "ranks it raises",
        hint,
        fqn=found.fqn,
        file=found.files[1],
        offsets=found.first_index,
        num_elements=found.num_different,
    )
