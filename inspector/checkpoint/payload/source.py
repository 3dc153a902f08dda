"""Bytes of data files for whoever reads payloads: ranges and blocks.

A local file is read with plain reads into a reused buffer, not mapped: a file cut short while it
is read would end the process with SIGBUS, and a mapping reads far ahead of a small header. A
remote file is fetched in windows, ahead of its reader where it says what it will read. Memory
stays a few MiB whatever a payload's length.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from inspector.checkpoint.storage.base import Storage, why
from inspector.checkpoint.storage.pace import Pace, current_pace
from inspector.checkpoint.text import printable
from inspector.errors import Cancelled, InspectError, StorageError

if TYPE_CHECKING:
    from inspector.checkpoint.storage.ahead import ReadAhead

__all__ = [
    "BLOCK_BYTES",
    "BytesSource",
    "DataHandle",
    "MissingPackageError",
    "PackedPayloadError",
    "PayloadError",
    "RangeSource",
    "Source",
    "num_readers",
    "open_file",
    "rechunk",
]

#: Bytes read at a time: a block stays in the processor's cache between the read and the CRC.
BLOCK_BYTES = 1 << 20
_WINDOW_BYTES = 8 << 20
_SMALL_BYTES = 256 << 10
# A request to a remote file takes as long as a MiB or more.
_SMALL_REMOTE_BYTES = 1 << 20
#: Threads that read a remote storage; each has three segments in memory or on their way.
_REMOTE_READERS = 6
_HEAD_BYTES = 4 << 10


class PayloadError(InspectError):
    """A payload that cannot be read as one; the message says what is there instead.

    `code` is the finding code of the contract, `fate` what `dcp.load` does about it if that is
    not what the code's usual text says. `is_foreign`: it is intact as far as is known, but holds
    a tensor whose elements its bits alone do not tell: of a class of its own, quantised, or of a
    dtype that is not known here.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: str = "payload-unreadable",
        fate: str = "",
        is_foreign: bool = False,
    ) -> None:
        super().__init__(message, hint)
        self.code = code
        self.fate = fate
        self.is_foreign = is_foreign


class PackedPayloadError(PayloadError):
    """A payload that holds a tensor of a class of its own: whole, but its values are its class's.

    `kind` is that class.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message, code="packed-tensor")
        self.kind = kind


class MissingPackageError(InspectError):
    """A payload that could be read if an optional package were installed."""


class DataHandle(Protocol):
    """An open data file."""

    block_bytes: int

    def announce(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Say which ranges (offset, length) will be read next, in this order.

        Of no use for a local file, where `ranges` is not even looked at.
        """
        ...

    def readinto(self, offset: int, buffer: memoryview) -> int:
        """Fill a buffer from an offset; fewer bytes only where the file ends."""
        ...

    def close(self) -> None: ...


class _LocalFile:
    """A file of the local file system; one for each thread."""

    block_bytes = BLOCK_BYTES

    def __init__(self, path: str, shown: str) -> None:
        self._shown = shown
        self._at = 0
        try:
            self._file = io.FileIO(path, opener=_open)
        except (OSError, ValueError) as error:  # A lone surrogate, or NUL, is in no path.
            raise StorageError(f"cannot read {shown}: {why(error)}") from error

    def announce(self, ranges: Iterable[tuple[int, int]]) -> None:
        pass

    def readinto(self, offset: int, buffer: memoryview) -> int:
        done = 0
        try:
            if offset != self._at:
                self._file.seek(offset)
            while done < len(buffer):
                count = self._file.readinto(buffer[done:])
                if not count:
                    break
                done += count
        except (OSError, OverflowError) as error:
            self._at = -1
            reason = why(error) if isinstance(error, OSError) else "it is no valid offset"
            raise StorageError(f"cannot read {self._shown}: {reason}") from error
        self._at = offset + done
        return done

    def close(self) -> None:
        self._file.close()


def _open(path: str, flags: int) -> int:
    # Without O_NONBLOCK a FIFO of this name would hold us here for ever.
    fd = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(0, "it is not a regular file")
    return fd


class _RemoteFile:
    """A file behind a URL.

    What was announced comes in large segments, ahead of its reader. Else a window is fetched,
    no larger than what is asked for, and twice as large each time the reader reads on: looking
    at a header costs a header, and reading all of a payload few requests.
    """

    block_bytes = _WINDOW_BYTES

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._start = 0
        self._window = b""
        self._ahead: ReadAhead | None = None

    def announce(self, ranges: Iterable[tuple[int, int]]) -> None:
        from inspector.checkpoint.storage.ahead import read_ahead  # lazy: only a URL takes it

        self.close()
        named = ((self._path, offset, length) for offset, length in ranges)
        self._ahead = read_ahead(self._storage, named, num_ahead=1)

    def readinto(self, offset: int, buffer: memoryview) -> int:
        want = len(buffer)
        if self._ahead is not None:
            data = self._ahead.read(self._path, offset, want)
            buffer[: len(data)] = data
            return len(data)
        at = offset - self._start
        if not 0 <= at <= at + want <= len(self._window):
            reads_on = 0 < at <= len(self._window) + _HEAD_BYTES
            twice = 2 * len(self._window) if reads_on else 0
            self._window = self._storage.read(
                self._path, offset, max(want, min(twice, _WINDOW_BYTES))
            )
            self._start, at = offset, 0
        found = self._window[at : at + want]
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._window = b""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None


class _PacedFile:
    """A file that is read no faster than a pace allows."""

    def __init__(self, file: DataHandle, pace: Pace) -> None:
        self.block_bytes = file.block_bytes
        self._file = file
        self._pace = pace

    def announce(self, ranges: Iterable[tuple[int, int]]) -> None:
        pass  # What is fetched ahead would be ahead of the pace.

    def readinto(self, offset: int, buffer: memoryview) -> int:
        self._pace.take(len(buffer))
        return self._file.readinto(offset, buffer)

    def close(self) -> None:
        self._file.close()


def num_readers(storage: Storage, local: int) -> int:
    """How many threads read a storage: `local`, or more if a read waits for the network."""
    return local if storage.local_path("") is not None else max(local, _REMOTE_READERS)


def open_file(storage: Storage, path: str) -> DataHandle:
    """A data file, opened for one thread to read.

    Raises:
        StorageError: It cannot be opened.
    """
    local = storage.local_path(path)
    file: DataHandle
    file = _RemoteFile(storage, path) if local is None else _LocalFile(local, printable(path))
    pace = current_pace()
    return file if pace is None else _PacedFile(file, pace)


class Source(Protocol):
    """Bytes at known places: a stretch of a file, or what it unpacks to."""

    length: int

    def read(self, offset: int, num_bytes: int) -> bytes:
        """A small range; shorter only past the end.

        Raises:
            StorageError: The file ends before, or cannot be read.
        """
        ...

    def blocks(self, offset: int, num_bytes: int) -> Iterator[memoryview]:
        """A range in blocks, each valid until the next is asked for.

        Every block but the last is a multiple of 16 bytes long.
        """
        ...


class BytesSource:
    """Bytes in memory as a source."""

    def __init__(self, data: memoryview) -> None:
        self.length = len(data)
        self._data = data

    def read(self, offset: int, num_bytes: int) -> bytes:
        return bytes(self._data[offset : offset + num_bytes])

    def blocks(self, offset: int, num_bytes: int) -> Iterator[memoryview]:
        yield self._data[offset : offset + num_bytes]


class RangeSource:
    """A stretch of an open file.

    Args:
        file: The open file.
        offset, length: The stretch, in bytes.
        buffer: Memory for blocks, shared by all sources of a thread.
        tick: Told the bytes of every block; returns True to stop.
    """

    def __init__(
        self,
        file: DataHandle,
        offset: int,
        length: int,
        buffer: bytearray | None = None,
        tick: Callable[[int], bool] | None = None,
    ) -> None:
        self.length = length
        self._file = file
        self._offset = offset
        self._buffer = buffer
        self._tick = tick
        self._known: list[tuple[int, bytes]] = []

    def prefetch(self) -> None:
        """Read head and tail (all, if it is small) so that the header costs two reads."""
        if self.length <= (_SMALL_REMOTE_BYTES if self._remote else _SMALL_BYTES):
            self._known = [(0, self._fetch(0, self.length))]
        else:
            tail = self.length - _HEAD_BYTES
            # The tail first: it is the head's neighbourhood that is read on from.
            self._known = [(tail, self._fetch(tail, _HEAD_BYTES)), (0, self._fetch(0, _HEAD_BYTES))]

    @property
    def _remote(self) -> bool:
        return self._file.block_bytes > BLOCK_BYTES

    def peek(self, num_bytes: int) -> bytes:
        """The bytes from the stretch's start on, even past its end; fewer where the file ends."""
        data = bytearray(num_bytes)
        return bytes(data[: self._file.readinto(self._offset, memoryview(data))])

    def read(self, offset: int, num_bytes: int) -> bytes:
        num_bytes = max(min(num_bytes, self.length - offset), 0)
        for start, data in self._known:
            if start <= offset and offset + num_bytes <= start + len(data):
                return data[offset - start : offset - start + num_bytes]
        return self._fetch(offset, num_bytes)

    def _fetch(self, offset: int, num_bytes: int) -> bytes:
        data = bytearray(num_bytes)
        if self._file.readinto(self._offset + offset, memoryview(data)) < num_bytes:
            raise StorageError("the file ends before the payload does: it was cut short meanwhile")
        return bytes(data)

    def blocks(self, offset: int, num_bytes: int) -> Iterator[memoryview]:
        num_bytes = max(min(num_bytes, self.length - offset), 0)
        for start, data in self._known:
            if start <= offset and offset + num_bytes <= start + len(data):
                yield memoryview(data)[offset - start : offset - start + num_bytes]
                self._told(num_bytes)
                return
        if self._buffer is None:
            self._buffer = bytearray(self._file.block_bytes)
        view = memoryview(self._buffer)
        while num_bytes > 0:
            block = view[: min(len(view), num_bytes)]
            if self._file.readinto(self._offset + offset, block) < len(block):
                raise StorageError(
                    "the file ends before the payload does: it was cut short meanwhile"
                )
            yield block
            self._told(len(block))
            offset += len(block)
            num_bytes -= len(block)

    def _told(self, num_bytes: int) -> None:
        if self._tick is not None and self._tick(num_bytes):
            raise Cancelled("reading the payloads was cancelled")


def rechunk(parts: Iterable[memoryview | bytes]) -> Iterator[memoryview]:
    """The same bytes in blocks of `BLOCK_BYTES`, so that no element is cut in two."""
    buffer = bytearray(BLOCK_BYTES)
    fill = 0
    for part in parts:
        at = 0
        while at < len(part):
            count = min(BLOCK_BYTES - fill, len(part) - at)
            buffer[fill : fill + count] = part[at : at + count]
            fill += count
            at += count
            if fill == BLOCK_BYTES:
                yield memoryview(buffer)
                fill = 0
    if fill:
        yield memoryview(buffer)[:fill]
