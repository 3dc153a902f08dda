"""`Ahead`: what a comparison is about to read of a remote storage, fetched together and before.

The rule this module keeps: what is fetched is what is read, but for small gaps, and once. Portions
of tensors are taken in batches of so many bytes. Of a batch, the ranges that lie near each other in
a file come in one request (`segments_of` says which) and stay until the batch was compared;
meanwhile the next batch is on its way. What is not fetched so is read when it is needed.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.source import BLOCK_BYTES, DataHandle, open_file
from inspector.checkpoint.storage.ahead import Segment, segments_of
from inspector.checkpoint.storage.remote.storage import RemoteStorage
from inspector.diff.model import Side
from inspector.diff.structure import Pair, Structure
from inspector.errors import StorageError

__all__ = ["Ahead", "Item"]

#: Bytes of both sides that are fetched at a time; with what lies between them, or where a portion
#: alone is larger, at most twice as many. Two batches are in memory, or one for each thread.
_BATCH_BYTES = 64 << 20
_MAX_HELD = 2
#: Of a payload that a portion takes a part of, these are read for its header.
_HEAD_BYTES = 4 << 10
#: A payload up to this size is read whole for its header.
_SMALL_BYTES = 256 << 10

Range = tuple[str, int, int]


class Item(NamedTuple):
    """Something to compare: some blocks of a tensor, or (`first < 0`) a bytes entry.

    Attributes:
        pair: Of what.
        first, last: The blocks, `last` exclusive.
        rows: What they take of the first dim, from and to; None if they are all of the tensor.
    """

    pair: Pair
    first: int
    last: int
    rows: tuple[int, int] | None = None


class Ahead:
    """The batches of a comparison, of which one or two are in memory.

    Threads take the items in turn, one batch after the other; the storages are asked for a batch
    when it is entered, or before. Every method may be called from any thread.
    """

    def __init__(self, structure: Structure) -> None:
        self._sides = [
            _Side(number, side.checkpoint, storage)
            for number, side in enumerate((structure.a, structure.b))
            if (storage := _remote(side)) is not None
        ]
        #: What each batch is of.
        self.batches: list[list[Item]] = []
        self._lock = threading.Lock()
        self._users: dict[int, int] = {}
        self._entered = -1

    @property
    def is_useful(self) -> bool:
        """Whether a side is remote."""
        return bool(self._sides)

    def plan(self, items: Iterable[Item]) -> int:
        """Put items into batches, in the order in which the first remote side stores them.

        Returns:
            How many batches there are.
        """
        if self.is_useful:
            self.batches = list(self._cut(sorted(items, key=self._sides[0].place_of)))
        else:
            self.batches = [list(items)]
        return len(self.batches)

    def opener(self, side: int) -> Callable[[str], DataHandle] | None:
        """What opens the files of a side (0 or 1); None if that is local."""
        return next((found.open for found in self._sides if found.number == side), None)

    def enter(self, batch: int) -> None:
        """Use a batch: it is fetched, if it is not already, and stays until all have left."""
        with self._lock:
            self._users[batch] = self._users.get(batch, 0) + 1
            self._entered = max(self._entered, batch)
            self._fetch(batch)
            self._fetch_next()

    def leave(self, batch: int) -> None:
        """Use it no more."""
        with self._lock:
            self._users[batch] -= 1
            if not self._users[batch]:
                for side in self._sides:
                    side.forget(batch)
                self._fetch_next()

    def close(self) -> None:
        """Cancel what is on its way, and let go of everything."""
        with self._lock:
            self._entered = len(self.batches)
            for side in self._sides:
                side.close()

    def _fetch_next(self) -> None:
        following = self._entered + 1
        held = {batch for side in self._sides for batch in side.held}
        if following < len(self.batches) and len(held) < _MAX_HELD:
            self._fetch(following)

    def _fetch(self, batch: int) -> None:
        items = self.batches[batch]
        for side in self._sides:
            if batch not in side.held:
                fits = len(items) > 1 or self._size_of(items[0]) <= 2 * _BATCH_BYTES
                side.fetch(batch, items if fits else [])

    def _size_of(self, item: Item) -> int:
        return sum(length for side in self._sides for _, _, length in side.ranges(item))

    def _cut(self, items: list[Item]) -> Iterator[list[Item]]:
        batch: list[Item] = []
        total = 0
        for item in items:
            size = self._size_of(item)
            if batch and total + size > _BATCH_BYTES:
                yield from self._halved(batch)
                batch, total = [], 0
            batch.append(item)
            total += size
        if batch:
            yield from self._halved(batch)

    def _halved(self, batch: list[Item]) -> Iterator[list[Item]]:
        """A batch, in parts if much lies between its payloads."""
        # One alone may claim to be of any size; several are no larger than a batch.
        sides = self._sides if len(batch) > 1 else []
        segments = [segment for side in sides for segment in side.segments(batch)]
        if sum(s.end - s.start for s in segments) > 2 * _BATCH_BYTES:
            half = len(batch) // 2
            yield from self._halved(batch[:half])
            yield from self._halved(batch[half:])
        else:
            yield batch


def _remote(side: Side) -> RemoteStorage | None:
    """A side's storage, if it can do something else while it is asked."""
    storage = getattr(side.storage, "whole", side.storage)
    return storage if isinstance(storage, RemoteStorage) and storage.calls.is_concurrent else None


class _Side:
    """One remote side: where its payloads are, and those that are here or on their way.

    Attributes:
        number: 0 for A, 1 for B.
        held: By batch, what was asked for, by file and in the order of offsets.
    """

    def __init__(self, number: int, checkpoint: Checkpoint, storage: RemoteStorage) -> None:
        self.number = number
        self.held: dict[int, dict[str, list[_Fetched]]] = {}
        self._checkpoint, self._storage = checkpoint, storage

    def _index(self, item: Item) -> int:
        return item.pair.index_b if self.number else item.pair.index_a

    def place_of(self, item: Item) -> tuple[int, int, int]:
        """File and offset of its first payload; then its first block."""
        index = self._index(item)
        if item.first < 0:
            entry = self._checkpoint.bytes_entries[index]
            return entry.file, entry.byte_offset, 0
        columns = self._checkpoint.columns
        first, last = columns.chunk_start[index : index + 2].tolist()
        if first == last:
            return -1, -1, item.first
        return int(columns.file[first]), int(columns.byte_offset[first]), item.first

    def ranges(self, item: Item) -> list[Range]:
        """File, offset and length of everything that is read for an item, mostly."""
        files, index = self._checkpoint.files, self._index(item)
        if item.first < 0:
            entry = self._checkpoint.bytes_entries[index]
            found = [(entry.file, entry.byte_offset, entry.byte_length)]
        elif item.rows is None:
            tensor = self._checkpoint.columns.tensor(index)
            columns = (tensor.file, tensor.byte_offset, tensor.byte_length)
            found = list(zip(*(column.tolist() for column in columns), strict=True))
        else:
            found = self._parts(index, *item.rows)
        return [
            (files[file].path, offset, length)
            for file, offset, length in found
            if file >= 0 and offset >= 0 and length > 0 and not is_escape(files[file].path)
        ]

    def _parts(self, index: int, low: int, high: int) -> list[tuple[int, int, int]]:
        """What some rows take of the payloads: where it is in one follows from its size.

        The elements lie somewhere in the payload, in row-major order (where they do not, they are
        read when they are needed): what else is in it is added at the end.
        """
        tensor = self._checkpoint.columns.tensor(index)
        origin, extent = tensor.offsets[:, 0], tensor.sizes[:, 0]
        hit = np.flatnonzero((origin < high) & (origin + extent > low) & (tensor.file >= 0))
        per_row = tensor.sizes[hit, 1:].prod(axis=1) * (itemsize(tensor.dtype) or 1)
        begin = np.maximum(low - origin[hit], 0) * per_row
        end = np.minimum(high - origin[hit], extent[hit]) * per_row
        slack = tensor.byte_length[hit] - extent[hit] * per_row
        columns = (tensor.file[hit], tensor.byte_offset[hit], tensor.byte_length[hit])
        found: list[tuple[int, int, int]] = []
        for file, offset, length, a, b, more in zip(
            *(column.tolist() for column in (*columns, begin, end, slack)), strict=True
        ):
            if more < 0:
                continue  # It is packed.
            if length <= _SMALL_BYTES:
                found.append((file, offset, length))
                continue
            found.append((file, offset, _HEAD_BYTES))
            found.append((file, offset + a, b - a + more))
            found.append((file, offset + length - _HEAD_BYTES, _HEAD_BYTES))
        # Where chunks are small, or have much beside their elements, each portion would fetch more
        # of its neighbours than of its own.
        segments = segments_of(sorted((str(file), offset, n) for file, offset, n in found))
        needed = int((end - begin).sum()) + 2 * _HEAD_BYTES * len(hit)
        return found if sum(s.end - s.start for s in segments) <= 2 * needed else []

    def segments(self, items: Iterable[Item]) -> list[Segment]:
        """What to ask for, for some items."""
        return segments_of(sorted(found for item in items for found in self.ranges(item)))

    def fetch(self, batch: int, items: Iterable[Item]) -> None:
        """Begin to fetch what a batch needs."""
        held: dict[str, list[_Fetched]] = {}
        for segment in self.segments(items):
            held.setdefault(segment.path, []).append(_Fetched(self._storage, segment))
        self.held = {**self.held, batch: held}

    def forget(self, batch: int) -> None:
        """Let go of it; what is still on its way comes in vain, or for who waits for it."""
        self.held = {number: held for number, held in self.held.items() if number != batch}

    def close(self) -> None:
        """Cancel what is on its way, and let go of everything."""
        for held in self.held.values():
            for segments in held.values():
                for segment in segments:
                    segment.future.cancel()
        self.held = {}

    def open(self, path: str) -> DataHandle:
        """A file, for one thread to read."""
        return _File(self, path, open_file(self._storage, path))

    def find(self, path: str, offset: int, length: int) -> bytes | None:
        """A range, shorter where the file ends; None if no batch in use has it.

        Raises:
            StorageError, Cancelled: As `_Fetched.data`.
        """
        end = offset + length
        for held in self.held.values():
            segments = held.get(path, [])
            at = bisect.bisect_right(segments, offset, key=lambda s: s.start) - 1
            begin, parts = offset, []
            while 0 <= at < len(segments) and segments[at].start <= begin < segments[at].end:
                parts.append(segments[at])
                begin, at = segments[at].end, at + 1
                if begin >= end:
                    return b"".join(
                        s.data()[max(offset - s.start, 0) : end - s.start] for s in parts
                    )
        return None


class _Fetched:
    """A segment on its way, or here; several threads may wait for it."""

    def __init__(self, storage: RemoteStorage, segment: Segment) -> None:
        self.start, self.end = segment.start, segment.end
        self._storage, self._path = storage, segment.path
        self._lock = threading.Lock()
        self._data: bytes | None = None
        self._error: StorageError | None = None
        self.future: Future[bytes] = storage.start_read(
            segment.path, segment.start, segment.end - segment.start
        )

    def data(self) -> bytes:
        """Its bytes, fewer where the file ends.

        Raises:
            StorageError: It cannot be read; it was tried several times, and is not tried again.
            Cancelled: The thread was told to stop.
        """
        with self._lock:
            if self._error is not None:
                raise self._error
            if self._data is None:
                try:
                    self._data = self._storage.result(self._path, self.future)
                except StorageError as error:
                    self._error = error
                    raise
            return self._data


class _File:
    """A file of which some ranges are here already."""

    def __init__(self, side: _Side, path: str, file: DataHandle) -> None:
        # As of a local file: a payload's header alone is looked at, not all of a MiB.
        self.block_bytes = BLOCK_BYTES
        self.announce, self.close = file.announce, file.close
        self._side, self._path, self._file = side, path, file

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer; as `DataHandle`."""
        found = self._side.find(self._path, offset, len(buffer))
        if found is None:
            return self._file.readinto(offset, buffer)
        buffer[: len(found)] = found
        return len(found)
