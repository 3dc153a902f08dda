"""Copies of one chunk that are all stored, compared bit by bit.

DCP stores one copy of what ranks hold alike. With metadata of every rank's own (`__R.metadata`,
`use_collectives=False`) nothing is deduplicated: every rank stores its copy, and loads it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.payload.array import read_chunk
from inspector.checkpoint.storage.base import Storage
from inspector.errors import InspectError
from inspector.values.nonfinite import boxes_in_order

__all__ = ["ReplicaDifference", "copies_of", "replica_differences"]

_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class ReplicaDifference:
    """A tensor whose copies differ.

    Attributes:
        index: Position in `Checkpoint.tensors`.
        fqn: Raw name.
        num_elements: Elements of which there are copies.
        num_different: Those of them of which some copy differs from the first one.
        first_index: Least index in C order of such an element; `()` in a 0-d tensor.
        files: Raw paths of the file of the first copy, and of the first one that differs there.
        ranks: Their writers, None where it is not known.
        values: What the two hold at `first_index`.
    """

    index: int
    fqn: str
    num_elements: int
    num_different: int
    first_index: tuple[int, ...]
    files: tuple[str, str]
    ranks: tuple[int | None, int | None]
    values: tuple[object, object]


def copies_of(tensor: Tensor) -> list[list[int]]:
    """Chunks with one and the same box, where there are several; by the first of them."""
    boxes: dict[bytes, list[int]] = {}
    both = np.concatenate([tensor.offsets, tensor.sizes], axis=1)
    for chunk, box in enumerate(both):
        if tensor.file[chunk] >= 0:
            boxes.setdefault(box.tobytes(), []).append(chunk)
    return [chunks for chunks in boxes.values() if len(chunks) > 1]


def replica_differences(
    checkpoint: Checkpoint,
    storage: Storage,
    tensors: Iterable[int],
    *,
    may_differ: Callable[[Tensor, Sequence[int]], bool] = lambda tensor, chunks: True,
) -> Iterator[ReplicaDifference]:
    """Compare the copies of each tensor, if every rank stored its own.

    What cannot be read is passed over: whoever reads the payloads tells of it.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
        tensors: Which, by index.
        may_differ: Told the copies of a chunk; False if they are known to be alike.
    """
    if not checkpoint.per_rank_metadata:
        return
    for index in tensors:
        if checkpoint.columns.num_chunks_of[index] < 2:
            continue
        tensor = checkpoint.columns.tensor(index)
        found = _tensor(checkpoint, storage, tensor, may_differ)
        if found is not None:
            yield found


def _tensor(
    checkpoint: Checkpoint,
    storage: Storage,
    tensor: Tensor,
    may_differ: Callable[[Tensor, Sequence[int]], bool],
) -> ReplicaDifference | None:
    groups = copies_of(tensor)
    num_elements = sum(int(tensor.sizes[chunks[0]].prod()) for chunks in groups)
    num_different = 0
    first: tuple[tuple[int, ...], int, int, object, object] | None = None
    for chunks in groups:
        if not may_differ(tensor, chunks):
            continue
        for rows, origin in _blocks(tensor, chunks[0]):
            differs: npt.NDArray[np.bool_] | None = None
            one = _read(checkpoint, storage, tensor, chunks[0], rows)
            for chunk in chunks[1:] if one is not None else ():
                other = _read(checkpoint, storage, tensor, chunk, rows)
                if one is None or other is None or one.dtype != other.dtype:
                    continue
                here = _differing(one, other)
                differs = here if differs is None else differs | here
                at = np.flatnonzero(here)[:1]
                if len(at):
                    place = np.unravel_index(int(at[0]), one.shape)
                    where = tuple(int(i) + o for i, o in zip(place, origin, strict=True))
                    if first is None or where < first[0]:
                        first = where, chunks[0], chunk, one[place].item(), other[place].item()
            num_different += int(np.count_nonzero(differs)) if differs is not None else 0
    if first is None:
        return None
    where, *pair, mine, its = first
    numbers = [int(tensor.file[chunk]) for chunk in pair]
    files = [checkpoint.files[number] for number in numbers]
    return ReplicaDifference(
        index=tensor.index,
        fqn=tensor.fqn,
        num_elements=num_elements,
        num_different=num_different,
        first_index=where,
        files=(files[0].path, files[1].path),
        ranks=(files[0].rank, files[1].rank),
        values=(mine, its),
    )


def _blocks(tensor: Tensor, chunk: int) -> Iterator[tuple[tuple[slice, ...], tuple[int, ...]]]:
    """Boxes of a chunk, a few MiB each, and where each begins in the tensor."""
    origin = tensor.offsets[chunk].tolist()
    most = _BLOCK_BYTES // (itemsize(tensor.dtype) or 8)
    for low, sizes in boxes_in_order(tensor.sizes[chunk].tolist(), most):
        box = tuple(slice(a, a + n) for a, n in zip(low, sizes, strict=True))
        yield box, tuple(a + o for a, o in zip(low, origin, strict=True))


def _read(
    checkpoint: Checkpoint, storage: Storage, tensor: Tensor, chunk: int, box: tuple[slice, ...]
) -> npt.NDArray[np.generic] | None:
    try:
        return read_chunk(checkpoint, storage, tensor, chunk, box)
    except InspectError:
        return None


def _differing(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Which elements differ in some bit, flat; NaN of one kind are alike."""
    one = np.ascontiguousarray(a).reshape(-1).view(np.uint8).reshape(a.size, a.itemsize)
    other = np.ascontiguousarray(b).reshape(-1).view(np.uint8).reshape(b.size, b.itemsize)
    result: npt.NDArray[np.bool_] = (one != other).any(axis=1)
    return result
