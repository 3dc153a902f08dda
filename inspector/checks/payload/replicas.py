"""Copies of one tensor, all stored, that differ; and shards of one that are copies of each other.

The former is a judgement of `values.replicas`. The latter is what a model has that was initialised
after sharding on a mesh without a random number tracker (CPU): each rank fills its shard from its
own generator, and with one seed all shards get the same numbers (run with torch 2.13).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload.array import read_box
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding, Severity
from inspector.checks.metadata.local_state import local_pieces
from inspector.checks.metadata.optimizer import is_optimizer_state, split_state
from inspector.checks.plan.roles import role_of
from inspector.errors import InspectError
from inspector.layout.geometry import unique
from inspector.values.replicas import ReplicaDifference, replica_differences

__all__ = ["check_repeats", "check_replicas"]

# Elements of a tensor that are looked at to see whether they are all alike.
_MAX_LOOKS = 1 << 20
_MAX_TENSORS = 2000
_MIN_TENSORS = 2


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
        severity=severity,
    )


def check_repeats(
    checkpoint: Checkpoint,
    storage: Storage,
    crc32: npt.NDArray[np.uint32],
    is_known: npt.NDArray[np.bool_],
) -> list[Finding]:
    """A finding about tensors whose shards are all bit for bit the same, and not of one value.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder; one shard of each such tensor is looked at.
        crc32: Of the elements of each chunk of `TensorColumns`.
        is_known: Of which chunks it is known.
    """
    columns = checkpoint.columns
    repeated: list[int] = []
    num_others = 0
    for index in np.flatnonzero(columns.num_chunks_of > 1).tolist():
        chunks = slice(int(columns.chunk_start[index]), int(columns.chunk_start[index + 1]))
        if not is_known[chunks].all() or not columns.dtype(index).startswith(("float", "bfloat")):
            continue
        # A loss can be alike in every row, and so are its moments then.
        if is_optimizer_state(columns.fqns[index]):
            continue
        if (crc32[chunks] != crc32[chunks.start]).any():
            num_others += 1
            continue
        tensor = columns.tensor(index)
        # The same box twice is another fault.
        is_cut = len(unique(tensor.offsets, axis=0)) == tensor.num_chunks
        is_cut &= bool((tensor.sizes == tensor.sizes[0]).all())
        if is_cut and len(repeated) < _MAX_TENSORS and _has_values(checkpoint, storage, tensor):
            repeated.append(index)
    if not repeated:
        return []
    return [_repeats(checkpoint, repeated, num_others)]


def _has_values(checkpoint: Checkpoint, storage: Storage, tensor: Tensor) -> bool:
    """Whether the first chunk holds more than one value, as far as is looked."""
    sizes = tensor.sizes[0].tolist()
    rows = max(1, min(sizes[0], _MAX_LOOKS // max(int(np.prod(sizes[1:])), 1)))
    first = tensor.offsets[0].tolist()
    box = tuple(
        slice(o, o + (rows if dim == 0 else n))
        for dim, (o, n) in enumerate(zip(first, sizes, strict=True))
    )
    try:
        values, _ = read_box(checkpoint, storage, tensor, box)
    except InspectError:
        return False
    # As bytes, for NaN is not equal to itself.
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    raw = flat.reshape(values.size, values.itemsize)
    return bool(len(raw) and (raw != raw[0]).any())


def _repeats(checkpoint: Checkpoint, repeated: list[int], num_others: int) -> Finding:
    first = checkpoint.columns.tensor(repeated[0])
    is_all = len(repeated) >= _MIN_TENSORS and len(repeated) > num_others
    of = len(repeated) + num_others
    return Finding(
        "local-state",
        f"{len(repeated):,} of {plural(of, 'tensor')} that {'is' if of == 1 else 'are'} sharded, "
        "and not of one value alone, hold the same numbers bit for bit in every shard: "
        f"{printable(first.fqn, 120)} is one shard {first.num_chunks:,} times",
        "loads it as it is stored",
        "a model initialised after sharding on a CPU mesh has the same random numbers in every "
        "shard (each rank draws from its own generator, all with one seed): initialise it before "
        "sharding, or on the GPU; no fault where it was made so (experts copied from one)",
        fqn=first.fqn if len(repeated) == 1 else None,
        severity="warning" if is_all else "note",
    )
