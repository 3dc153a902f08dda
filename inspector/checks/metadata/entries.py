"""Everything a checkpoint stores, as one table: a row for each chunk and each bytes entry.

The rule this module keeps: arithmetic on columns, nothing judged. What the checks of structure
and of files ask of byte ranges (which overlap, which bytes of a file have an owner) is answered
here, by one sort.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint.dtypes import ITEMSIZE
from inspector.checkpoint.model import Checkpoint, Ints
from inspector.checks.metadata.tiling import chunk_volumes

__all__ = ["Entries", "RangeSweep", "entries_of", "total"]

Bools = npt.NDArray[np.bool_]

_SAFE = 1 << 62


def total(values: npt.NDArray[Any]) -> int:
    """The sum of a column of non-negative integers, however large."""
    if not len(values) or float(values.max()) * len(values) < _SAFE:
        return int(values.sum())
    return sum(values.tolist())


@dataclass(frozen=True, eq=False)
class RangeSweep:
    """What a walk over the byte ranges of all files finds.

    Attributes:
        overlapping: Rows whose range begins inside that of an earlier row of the same file.
        partner: For each of those, a row whose range it begins in.
        owned: Bytes of each file that lie in some range, shape (num_files,).
        end: Where the last range of each file ends, shape (num_files,).
    """

    overlapping: Ints
    partner: Ints
    owned: Ints
    end: Ints


@dataclass(frozen=True, eq=False)
class Entries:
    """The stored entries of a checkpoint, chunks first.

    Attributes:
        checkpoint: Whose.
        entry: Tensor of a chunk; `num_tensors + i` for bytes entry `i`.
        file: Index into `Checkpoint.files`; -1 if stored nowhere.
        start: Byte offset in the file.
        length: Bytes in the file.
        volume: Elements of a chunk; 0 for a bytes entry.
    """

    checkpoint: Checkpoint
    entry: Ints
    file: Ints
    start: Ints
    length: Ints
    volume: Ints

    @property
    def or_packed(self) -> str:
        """What torch may do besides, where payloads are zstd frames: those say where they end."""
        if not self.checkpoint.columns.transforms:
            return ""
        return ", or loads a compressed payload as it was, if its length alone is wrong"

    @property
    def num_chunks(self) -> int:
        return self.checkpoint.num_chunks

    def fqn(self, row: int) -> str:
        """Raw name of the entry of a row."""
        entry, num = int(self.entry[row]), self.checkpoint.num_tensors
        if entry < num:
            return self.checkpoint.columns.fqns[entry]
        return self.checkpoint.bytes_entries[entry - num].fqn

    def box(self, row: int) -> tuple[tuple[int, ...], tuple[int, ...]] | tuple[None, None]:
        """Offsets and sizes of a chunk; None, None for a bytes entry."""
        if row >= self.num_chunks:
            return None, None
        index = int(self.entry[row])
        tensor = self.checkpoint.columns.tensor(index)
        chunk = row - int(self.checkpoint.columns.chunk_start[index])
        return tensor.box(chunk)

    def by_entry(self, rows: Ints) -> Iterable[tuple[int, Ints]]:
        """The rows, together by entry, in the order of the entries."""
        return grouped(self.entry, rows)

    def by_file(self, rows: Ints) -> Iterable[tuple[int, Ints]]:
        """The rows, together by file."""
        return grouped(self.file, rows)

    @cached_property
    def needed(self) -> Ints:
        """Bytes that the elements of each row take; -1 where that cannot be told.

        It cannot for a bytes entry, an unknown or quantized dtype (whose elements may be packed),
        a sparse layout, and a payload that a stream transform (zstd) made shorter.
        """
        columns = self.checkpoint.columns
        known = [
            -1 if dtype.startswith("q") or layout != "strided" else ITEMSIZE.get(dtype, -1)
            for dtype, layout, *_ in columns.properties
        ]
        sizes = np.asarray([*known, -1], dtype=np.int64)
        of_tensor = sizes[columns.property_id] if known else np.zeros(0, dtype=np.int64)
        of_tensor[list(columns.transforms)] = -1
        item = np.append(of_tensor, -1)[np.minimum(self.entry, columns.num_tensors)]
        rough = self.volume.astype(np.float64) * item
        return np.where(item < 0, -1, np.where(rough < _SAFE, self.volume * item, _SAFE))

    @cached_property
    def sweep(self) -> RangeSweep:
        """The walk over all byte ranges, in the order of their starts."""
        num_files = len(self.checkpoint.files)
        is_there = (self.file >= 0) & (self.length > 0)
        rows = np.arange(len(is_there)) if is_there.all() else np.flatnonzero(is_there)
        # Numbers of 16 bits are sorted in a few passes.
        small = np.uint16 if num_files <= 1 << 16 else np.int64
        rows = rows[np.argsort(self.file[rows].astype(small), kind="stable")]
        file, start = self.file[rows], self.start[rows]
        end = start + self.length[rows]
        first = np.flatnonzero(np.diff(file, prepend=-1))
        ends = np.zeros(num_files, dtype=np.int64)
        owned = np.zeros(num_files, dtype=np.int64)
        if len(rows):
            ends[file[first]] = np.maximum.reduceat(end, first)
        if float(ends.sum(dtype=np.float64)) < _SAFE:
            # The files one after the other make one line, which is swept in one go.
            base = np.cumsum(ends) - ends
            start, end = start + base[file], end + base[file]
            if (end[:-1] <= start[1:]).all():
                # So most writers leave it: each range begins where those before it have ended.
                if len(rows):
                    owned[file[first]] = np.add.reduceat(end - start, first)
                return RangeSweep(rows[:0], rows[:0], owned, ends)
            overlapping, partner, new = self._swept(rows, start, end)
            np.add.at(owned, file, new)
            return RangeSweep(overlapping, partner, owned, ends)
        parts = []
        for number, members in grouped(self.file, np.sort(rows)):
            begin = self.start[members]
            *found, new = self._swept(members, begin, begin + self.length[members])
            owned[number] = new.sum()
            parts.append(found)
        return RangeSweep(
            np.concatenate([p[0] for p in parts]),
            np.concatenate([p[1] for p in parts]),
            owned,
            ends,
        )

    def _swept(self, rows: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
        """Rows that overlap, their partners, and the bytes that each row is first to own."""
        if not len(rows):
            return rows, rows, rows
        order = np.argsort(start, kind="stable")
        begin, stop, sorted_rows = start[order], end[order], rows[order]
        reach = np.maximum.accumulate(stop)
        before = np.concatenate([[0], reach[:-1]])
        before[0] = begin[0]
        farthest = np.concatenate([[True], stop[1:] > reach[:-1]])
        holder = np.maximum.accumulate(np.where(farthest, np.arange(len(rows)), 0))
        held = np.concatenate([[0], holder[:-1]])
        # Chunks of one tensor with one offset share their storage entry: that is a duplicate
        # chunk, which is told as such, and no overlap of bytes.
        shared = (
            (begin == begin[held])
            & (stop == stop[held])
            & (self.entry[sorted_rows] == self.entry[sorted_rows[held]])
        )
        bad = np.flatnonzero((begin < before) & ~shared)
        new = np.empty(len(rows), dtype=np.int64)
        new[order] = np.maximum(stop - np.maximum(begin, before), 0)
        return sorted_rows[bad], sorted_rows[held[bad]], new


def grouped(key: Ints, rows: Ints) -> Iterable[tuple[int, Ints]]:
    """Some rows, by their key in rising order."""
    if not len(rows):
        return
    keys = key[rows]
    order = np.argsort(keys, kind="stable")
    borders = np.flatnonzero(np.diff(keys[order])) + 1
    for part in np.split(rows[order], borders):
        yield int(key[part[0]]), part


def entries_of(checkpoint: Checkpoint) -> Entries:
    """The table of a checkpoint's chunks and bytes entries."""
    columns, others = checkpoint.columns, checkpoint.bytes_entries
    num = columns.num_tensors
    tensor_of = np.repeat(np.arange(num, dtype=np.int64), columns.num_chunks_of)

    def joined(first: npt.NDArray[Any], rest: Iterable[int]) -> Ints:
        if not others:
            return first.astype(np.int64, copy=False)
        return np.concatenate([first, np.fromiter(rest, dtype=np.int64)], dtype=np.int64)

    return Entries(
        checkpoint=checkpoint,
        entry=joined(tensor_of, range(num, num + len(others))),
        file=joined(columns.file, (e.file for e in others)),
        start=joined(columns.byte_offset, (e.byte_offset for e in others)),
        length=joined(columns.byte_length, (e.byte_length for e in others)),
        volume=joined(chunk_volumes(columns), (0 for _ in others)),
    )
