"""Which elements of each chunk count, so that every element of a tensor counts once.

Replicas, boxes listed twice, and boxes that overlap hold an element several times: the first
chunk that can be read has it. What lies outside of the tensor is no element of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.model import Tensor
from inspector.layout.geometry import Ints, grid_cuts, intersect
from inspector.values.places import Hole

__all__ = ["Shares", "shares_of"]

# Pairs of chunks that are looked at for overlap, for one tensor.
_MAX_PAIRS = 1 << 22
_MAX_HOLES = 64
_TOO_MANY = "its chunks overlap in too many ways to count each element once"


@dataclass(frozen=True, slots=True)
class Shares:
    """What is counted of one tensor.

    Attributes:
        chunks: The chunks to read, rising.
        holes: Boxes of a chunk that do not count, in its own indices, by chunk.
        problem: Why it cannot be told what to count, or an empty string.
    """

    chunks: list[int]
    holes: dict[int, tuple[Hole, ...]] = field(default_factory=dict)
    problem: str = ""


def shares_of(tensor: Tensor, readable: npt.NDArray[np.bool_]) -> Shares:
    """The chunks of a tensor to read, and what of them.

    Args:
        tensor: The tensor.
        readable: Which of its chunks can be read, shape (num_chunks,).
    """
    chunks = np.flatnonzero(readable & (tensor.sizes > 0).all(axis=1))
    if not len(chunks):
        return Shares([])
    offsets, sizes = tensor.offsets[chunks], tensor.sizes[chunks]
    if len(chunks) == 1 and tuple(sizes[0].tolist()) == tensor.shape and not offsets.any():
        return Shares(chunks.tolist())
    if grid_cuts(offsets, sizes, tensor.shape) is not None:
        return Shares(chunks.tolist())
    if not tensor.shape:
        return Shares(chunks.tolist()[:1])
    _, first = np.unique(np.concatenate([offsets, sizes], axis=1), axis=0, return_index=True)
    chunks = chunks[np.sort(first)]
    offsets, sizes = tensor.offsets[chunks], tensor.sizes[chunks]
    pairs = _overlapping(offsets, sizes)
    if pairs is None:
        return Shares([], problem=_TOO_MANY)
    holes: dict[int, list[Hole]] = {}
    for a, b in pairs:
        low = np.maximum(offsets[a], offsets[b]) - offsets[b]
        high = np.minimum(offsets[a] + sizes[a], offsets[b] + sizes[b]) - offsets[b]
        hole = (tuple(low.tolist()), tuple(high.tolist()))
        holes.setdefault(int(chunks[b]), []).append(hole)
    shape = np.array(tensor.shape, np.int64)
    for i in np.flatnonzero((offsets > shape - sizes).any(axis=1)).tolist():
        for dim, end in enumerate((shape - offsets[i]).tolist()):
            size = sizes[i].tolist()
            if end < size[dim]:
                low = [0] * len(size)
                low[dim] = max(end, 0)
                holes.setdefault(int(chunks[i]), []).append((tuple(low), tuple(size)))
    if max(map(len, holes.values()), default=0) > _MAX_HOLES:
        return Shares([], problem=_TOO_MANY)
    return Shares(chunks.tolist(), {chunk: tuple(found) for chunk, found in holes.items()})


def _overlapping(offsets: Ints, sizes: Ints) -> list[tuple[int, int]] | None:
    """Pairs (a, b), a < b, of boxes with an element in common; None if there are too many to try.

    Along the dim with most distinct starts, only boxes that begin before another ends can meet it.
    """
    if not offsets.shape[1]:
        return []
    dim = int(np.argmax([len(np.unique(offsets[:, d])) for d in range(offsets.shape[1])]))
    order = np.argsort(offsets[:, dim], kind="stable")
    starts = offsets[order, dim]
    ends = np.searchsorted(starts, starts + sizes[order, dim], side="left")
    here = np.arange(len(order))
    if int((ends - here - 1).clip(0).sum()) > _MAX_PAIRS:
        return None
    found = []
    for i, end in zip(here.tolist(), ends.tolist(), strict=True):
        rivals = order[i + 1 : end]
        if not len(rivals):
            continue
        mine = order[i]
        _, _, meet = intersect(offsets[mine], sizes[mine], offsets[rivals], sizes[rivals])
        found += [(min(int(mine), r), max(int(mine), r)) for r in rivals[meet].tolist()]
    return sorted(found)
