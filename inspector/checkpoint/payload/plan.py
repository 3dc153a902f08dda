"""Which payloads a checkpoint has, in the order of their bytes: what to read, once and in order.

Entries that name the same bytes share one place, so that no byte is read twice; columns, since
a checkpoint may have a million payloads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.model import Checkpoint, Ints

__all__ = ["PayloadPlan", "Task", "chunk_problems", "plan_payloads"]

_TASK_BYTES = 64 << 20
_TASK_PAYLOADS = 2048
_PAST = "they reach past the end of the file"


@dataclass(frozen=True, slots=True)
class Task:
    """Places `first` to `last` (exclusive) of the plan, all in one file: a worker's portion."""

    file: int
    first: int
    last: int


@dataclass(frozen=True, eq=False)
class PayloadPlan:
    """The places, by file and offset.

    Attributes:
        file, offset, length: Where each place lies, shape (num_places,).
        owner: Entries by place: chunk `k` of `TensorColumns`, or `num_chunks + i` for bytes
            entry `i`. Place `p` has `owner[owner_start[p]:owner_start[p + 1]]`.
        owner_start: As said, shape (num_places + 1,).
        overlaps: True where a place begins before the one before it ended.
        left_out: Number of payloads by (file path, reason) that need not be tried.
    """

    file: Ints
    offset: Ints
    length: Ints
    owner: Ints
    owner_start: Ints
    overlaps: npt.NDArray[np.bool_]
    left_out: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def num_places(self) -> int:
        return len(self.file)

    def tasks(self, places: range | None = None) -> Iterator[Task]:
        """The places (default: all of them) in portions, a file after the other."""
        first, last = (places.start, places.stop) if places is not None else (0, self.num_places)
        start, size, file = first, 0, -1
        files, lengths = self.file[first:last].tolist(), self.length[first:last].tolist()
        for i, (its_file, length) in enumerate(zip(files, lengths, strict=True), first):
            is_full = size >= _TASK_BYTES or i - start >= _TASK_PAYLOADS
            if i > start and (its_file != file or is_full):
                yield Task(file, start, i)
                start, size = i, 0
            file = its_file
            size += length
        if start < last:
            yield Task(file, start, last)


def plan_payloads(
    checkpoint: Checkpoint, *, chunks: npt.NDArray[np.bool_] | None = None
) -> PayloadPlan:
    """The payloads of all chunks and bytes entries that lie wholly in a file that is there.

    Payloads that the metadata stores nowhere are the structure checks' business and not in it.

    Args:
        checkpoint: The checkpoint.
        chunks: Only these chunks, and no bytes entry; shape (num_chunks,).
    """
    columns, entries = checkpoint.columns, checkpoint.bytes_entries
    extra = np.array([(e.file, e.byte_offset, e.byte_length) for e in entries], np.int64)
    extra = extra.reshape(-1, 3)
    file = np.concatenate([columns.file.astype(np.int64), extra[:, 0]])
    offset = np.concatenate([columns.byte_offset, extra[:, 1]])
    length = np.concatenate([columns.byte_length, extra[:, 2]])
    wanted = file >= 0
    if chunks is not None:
        wanted[: len(chunks)] &= chunks
        wanted[len(chunks) :] = False
    owner = np.flatnonzero(wanted)
    reasons = [_why_not(checkpoint, i) for i in range(len(checkpoint.files))]
    left_out: dict[tuple[str, str], int] = {}
    bad = np.array([bool(r) for r in reasons] or [False])
    counts = np.bincount(file[owner], minlength=len(reasons))
    for i in np.flatnonzero(bad).tolist():
        if counts[i]:
            left_out[checkpoint.files[i].path, reasons[i]] = int(counts[i])
    owner = owner[~bad[file[owner]]]
    ends = np.array([f.num_bytes or 0 for f in checkpoint.files] or [0], np.int64)
    # Offset and length fit in 64 bits each, their sum may not.
    past = length[owner] > ends[file[owner]] - offset[owner]
    for i, count in enumerate(np.bincount(file[owner[past]], minlength=0).tolist()):
        if count:
            left_out[checkpoint.files[i].path, _PAST] = count
    owner = owner[~past]
    owner = owner[np.lexsort((owner, length[owner], offset[owner], file[owner]))]
    where = np.stack([file[owner], offset[owner], length[owner]])
    is_first = np.ones(len(owner), np.bool_)
    is_first[1:] = (where[:, 1:] != where[:, :-1]).any(axis=0)
    starts = np.flatnonzero(is_first)
    file, offset, length = where[:, starts]
    overlaps = np.zeros(len(starts), np.bool_)
    if len(starts):
        same = file[1:] == file[:-1]
        overlaps[1:] = same & (offset[1:] < offset[:-1] + length[:-1])
    return PayloadPlan(
        file, offset, length, owner, np.append(starts, len(owner)), overlaps, left_out
    )


def chunk_problems(checkpoint: Checkpoint) -> tuple[npt.NDArray[np.int16], list[str]]:
    """Why chunks cannot be read: a number for each, shape (num_chunks,), and what it means.

    0 is an empty reason: it can be read.
    """
    columns = checkpoint.columns
    meanings = ["", "the metadata stores it nowhere", "it reaches past the end of its file"]
    number = np.zeros(columns.num_chunks, np.int16)
    of_file = [0] * len(checkpoint.files)
    for i in range(len(checkpoint.files)):
        if reason := _why_not(checkpoint, i):
            if reason not in meanings:
                meanings.append(reason)
            of_file[i] = meanings.index(reason)
    stored = columns.file >= 0
    ends = np.array([f.num_bytes or 0 for f in checkpoint.files] or [0], np.int64)
    number[columns.byte_length > ends[columns.file] - columns.byte_offset] = 2
    bad = np.array(of_file or [0], np.int16)[columns.file]
    number[bad > 0] = bad[bad > 0]
    number[~stored] = 1
    return number, meanings


def _why_not(checkpoint: Checkpoint, index: int) -> str:
    file = checkpoint.files[index]
    if is_escape(file.path):
        return "the file lies outside the checkpoint folder, and was not opened"
    if file.num_bytes is None:
        return "the file is not there, or is no regular file"
    return ""
