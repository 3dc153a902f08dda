"""`ReadAhead`: ranges of a remote storage that are about to be read, in order.

Ranges that lie near each other in a file are fetched together in large segments, and the next
segments are on their way while one is worked on. What is read out of order, or was not
announced, is fetched by itself: announcing wrongly costs time, never a wrong byte.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass

from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.storage.remote.storage import RemoteStorage
from inspector.errors import StorageError

__all__ = ["SEGMENT_BYTES", "ReadAhead", "Segment", "read_ahead", "segments_of"]

#: The most that one request fetches.
SEGMENT_BYTES = 8 << 20
#: Ranges with no more than this between them are fetched together, the gap with them.
_GAP_BYTES = 128 << 10
#: A read this small may be a payload's tail, looked at before its head.
_SMALL_BYTES = 64 << 10

Range = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a file that one request fetches: bytes `start` to `end` (exclusive)."""

    path: str
    start: int
    end: int


def segments_of(ranges: Iterable[Range]) -> list[Segment]:
    """The fewest segments that hold some ranges.

    Args:
        ranges: File, offset and length of each, in the order in which they will be read.

    Returns:
        Segments in that order, none larger than `SEGMENT_BYTES`. A range that does not follow
        the one before it begins a new segment.
    """
    stretches: list[tuple[str, int, int]] = []
    for path, offset, length in ranges:
        if length <= 0:
            continue
        end = offset + length
        if stretches and stretches[-1][0] == path:
            _, first, last = stretches[-1]
            if first <= offset <= last + _GAP_BYTES:
                stretches[-1] = path, first, max(last, end)
                continue
        stretches.append((path, offset, end))
    found = []
    for path, start, end in stretches:
        count = -(-(end - start) // SEGMENT_BYTES)
        size = -(-(end - start) // count)
        found += [Segment(path, at, min(at + size, end)) for at in range(start, end, size)]
    return found


class ReadAhead:
    """Reads a storage of which some ranges are announced; for one thread.

    Args:
        storage: Where to read.
        ranges: As in `segments_of`.
        num_ahead: Segments that are fetched while one is worked on; so many and two more are
            in memory: that one, and the last one of a payload, whose end is looked at first.
    """

    def __init__(self, storage: RemoteStorage, ranges: Iterable[Range], num_ahead: int) -> None:
        self._storage = storage
        ranges = list(ranges)
        self._segments = segments_of(ranges)
        self._num_ahead = num_ahead
        self._front = -1
        self._pinned: set[int] = set()
        self._held: dict[int, Future[bytes] | bytes] = {}
        self._failed: dict[int, StorageError] = {}
        self._by_path: dict[str, list[tuple[int, int]]] = {}
        for number, segment in enumerate(self._segments):
            self._by_path.setdefault(segment.path, []).append((segment.start, number))
        self._ranges: dict[str, list[tuple[int, int]]] = {}
        for path, offset, length in ranges:
            self._ranges.setdefault(path, []).append((offset, offset + length))
        for listed in (*self._by_path.values(), *self._ranges.values()):
            listed.sort()

    def close(self) -> None:
        """Cancel what is on its way, and let go of what is held."""
        for data in self._held.values():
            if isinstance(data, Future):
                data.cancel()
        self._held.clear()

    def read(self, path: str, offset: int, length: int) -> bytes:
        """A range of a file; shorter than asked if the file ends.

        Raises:
            StorageError: It cannot be read.
            Cancelled: The thread was told to stop.
        """
        end = offset + length
        numbers = self._covering(path, offset, end)
        if not numbers:
            return self._storage.read(path, offset, length)
        if length <= _SMALL_BYTES:
            self._begin_range(path, offset)
            if numbers[0] < self._front and numbers[0] not in self._held:
                return self._storage.read(path, offset, length)  # It was let go.
            for number in numbers:
                # A payload's tail: it is needed once more when all before it was read.
                self._pinned.add(number)
                self._fetch(number)
            return b"".join(self._part(number, offset, end) for number in numbers)
        parts = []
        for number in numbers:
            self._move(number)
            parts.append(self._part(number, offset, end))
        return b"".join(parts)

    def _covering(self, path: str, start: int, end: int) -> list[int]:
        """Numbers of the segments that hold a range; none if they do not hold all of it."""
        listed = self._by_path.get(path, [])
        at = bisect.bisect_right(listed, (start, len(self._segments))) - 1
        numbers: list[int] = []
        while start < end:
            if not 0 <= at < len(listed):
                return []
            segment = self._segments[listed[at][1]]
            if not segment.start <= start < segment.end:
                return []
            numbers.append(listed[at][1])
            start, at = segment.end, at + 1
        return numbers

    def _begin_range(self, path: str, offset: int) -> None:
        """A small read: it moves on only if it is of another range than the last read."""
        ranges = self._ranges[path]
        first, last = ranges[max(bisect.bisect_right(ranges, (offset, 1 << 80)) - 1, 0)]
        numbers = self._covering(path, first, last)
        if numbers and not numbers[0] <= self._front <= numbers[-1]:
            self._pinned.clear()
            self._move(numbers[0])

    def _move(self, front: int) -> None:
        """Let go of what lies outside the window that begins at `front`; fetch what is in it."""
        if front == self._front and front in self._held:
            return
        self._front = front
        window = range(front, min(front + self._num_ahead + 1, len(self._segments)))
        kept = {*window, *(n for n in self._pinned if n > front)}
        for number in [n for n in self._held if n not in kept]:
            data = self._held.pop(number)
            if isinstance(data, Future):
                data.cancel()
        for number in window:
            self._fetch(number)

    def _fetch(self, number: int) -> None:
        if number not in self._held and number not in self._failed:
            segment = self._segments[number]
            self._held[number] = self._storage.start_read(
                segment.path, segment.start, segment.end - segment.start
            )

    def _part(self, number: int, start: int, end: int) -> bytes:
        segment = self._segments[number]
        if number in self._failed:
            # It was tried several times; its other payloads would only wait as long again.
            raise self._failed[number]
        data = self._held[number]
        if isinstance(data, Future):
            try:
                data = self._storage.result(segment.path, data)
            except StorageError as error:
                self._failed[number] = error
                raise
            self._held[number] = data
        return data[max(start - segment.start, 0) : end - segment.start]


def read_ahead(storage: Storage, ranges: Iterable[Range], *, num_ahead: int) -> ReadAhead | None:
    """`ReadAhead` of a storage that can do something else meanwhile; else None.

    Args:
        storage: Any storage.
        ranges: As in `segments_of`; not looked at if it is of no use.
        num_ahead: As in `ReadAhead`.
    """
    # A part of a folder reads as the folder does.
    storage = getattr(storage, "whole", storage)
    if isinstance(storage, RemoteStorage) and storage.calls.is_concurrent:
        return ReadAhead(storage, ranges, num_ahead)
    return None
