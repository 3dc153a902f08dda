"""What lies in data files, by the zip archives in them: nothing here asks the metadata.

torch's writer puts one archive behind the other, without a gap, and an archive's end tells where
it begins. So a file is read from its end to its beginning, a few kB for each payload. Where the
chain breaks (bytes that were overwritten, a cut), the next end before is looked for; an archive
found so may lie inside the bytes of a tensor, and counts only where something ends right before it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from inspector.checkpoint.payload.crc import crc32
from inspector.checkpoint.payload.payload import Payload, open_payload, record_blocks
from inspector.checkpoint.payload.source import (
    BLOCK_BYTES,
    DataHandle,
    PayloadError,
    RangeSource,
    open_file,
)
from inspector.checkpoint.payload.zip import Record
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import format_shape
from inspector.errors import StorageError

__all__ = ["FoundPayload", "Inventory", "PayloadForm", "payload_at", "take_inventory"]

PayloadForm: TypeAlias = Literal["tensor", "bytes", "damaged", "sealed"]

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_END_BYTES = _END.size + _LOCATOR.size + _END64.size
_LOCAL = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class FoundPayload:
    """One payload of a data file.

    Attributes:
        file: The file, relative to the folder, raw.
        offset, length: Where it lies, in bytes.
        form: `tensor` for a plain one; `bytes` for any other object, tensors of a class of
            their own among them; `damaged` where its extent is known, and its header cannot be
            read; `sealed` for a compressed one, which is not looked into.
        dtype: Of a tensor.
        shape: Of a tensor: that of its chunk.
    """

    file: str
    offset: int
    length: int
    form: PayloadForm
    dtype: str = ""
    shape: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Where it ends, in bytes."""
        return self.offset + self.length

    @property
    def what(self) -> tuple[str, str, tuple[int, ...]]:
        """All that tells it from others, but where it lies."""
        return self.form, self.dtype, self.shape

    @property
    def words(self) -> str:
        """What it is, for people."""
        if self.form == "tensor":
            return f"{self.dtype} {format_shape(self.shape)}"
        return {"bytes": "a pickled object", "sealed": "compressed"}.get(self.form, "damaged")


class Inventory:
    """The payloads of all data files of a folder."""

    def __init__(self, storage: Storage, files: dict[str, tuple[FoundPayload, ...]]) -> None:
        self.storage = storage
        self.files = files
        self._at = {(p.file, p.offset): p for found in files.values() for p in found}
        self._ends = {(p.file, p.end): p for found in files.values() for p in found}

    def of(self, file: str) -> tuple[FoundPayload, ...]:
        """The payloads of a file; none if it is not there, or holds none."""
        return self.files.get(file, ())

    def beginning(self, file: str, offset: int) -> FoundPayload | None:
        return self._at.get((file, offset))

    def ending(self, file: str, end: int) -> FoundPayload | None:
        return self._ends.get((file, end))

    def is_whole(self, payload: FoundPayload) -> bool:
        """Whether its bytes are those that were written, by the CRC32 of each record."""
        try:
            handle = open_file(self.storage, payload.file)
        except StorageError:
            return False
        try:
            source = RangeSource(handle, payload.offset, payload.length)
            opened = open_payload(source, is_tensor=payload.form == "tensor")
            return not opened.unsafe and all(_is_whole(source, r) for r in opened.records)
        except (PayloadError, StorageError):
            return False
        finally:
            handle.close()


def _is_whole(source: RangeSource, record: Record) -> bool:
    if not record.num_bytes:
        return True
    crc = 0
    for block in record_blocks(source, record):
        crc = crc32(block, crc)
    return crc == record.crc32


def take_inventory(storage: Storage, files: Iterable[str]) -> Inventory:
    """Read the payloads' headers of these files; one that cannot be read holds none.

    Args:
        storage: The folder.
        files: Paths relative to it, none of which leads out of it.
    """
    found = {}
    for path in files:
        entry = storage.stat(path)
        if entry is None or entry.kind != "file":
            continue
        try:
            handle = open_file(storage, path)
        except StorageError:
            continue
        try:
            found[path] = tuple(reversed(_chain(handle, path, entry.num_bytes or 0)))
        except StorageError:
            found[path] = ()
        finally:
            handle.close()
    return Inventory(storage, found)


def payload_at(
    storage: Storage, path: str, offset: int, length: int, *, is_tensor: bool
) -> FoundPayload | None:
    """The payload at a place that somebody names; None if none is there.

    It may be of torch's format of before 1.6, which no chain of archives tells.
    """
    try:
        handle = open_file(storage, path)
    except StorageError:
        return None
    try:
        opened = open_payload(RangeSource(handle, offset, length), is_tensor=is_tensor)
    except (PayloadError, StorageError):
        return None
    finally:
        handle.close()
    return _found(path, offset, length, opened)


def _found(path: str, offset: int, length: int, opened: Payload) -> FoundPayload:
    tensor = opened.tensor
    if tensor is not None and not opened.problem and not opened.unsafe:
        return FoundPayload(path, offset, length, "tensor", tensor.dtype, tensor.shape)
    return FoundPayload(path, offset, length, "bytes")


def _chain(handle: DataHandle, path: str, size: int) -> list[FoundPayload]:
    """The payloads of a file, last first."""
    found: list[FoundPayload] = []
    # Of one that was looked for: it counts if another ends right before it, or the file begins.
    loose: FoundPayload | None = None
    end = size
    while end > 0:
        begin = _begin_of(handle, end)
        if begin is not None and loose is not None:
            found.append(loose)
            loose = None
        if begin is None:
            loose = None
            next_end = _end_before(handle, end)
            begin = None if next_end is None else _begin_of(handle, next_end)
            if next_end is None or begin is None:
                break
            loose = _read(handle, path, begin, next_end)
            if not begin:
                found.append(loose)
        else:
            found.append(_read(handle, path, begin, end))
        end = begin
    return found


def _read(handle: DataHandle, path: str, begin: int, end: int) -> FoundPayload:
    source = RangeSource(handle, begin, end - begin)
    source.prefetch()
    try:
        return _found(path, begin, end - begin, open_payload(source, is_tensor=True))
    except PayloadError:
        return FoundPayload(path, begin, end - begin, "damaged")


def _begin_of(handle: DataHandle, end: int) -> int | None:
    """Where the archive begins that ends at a place; None if none ends there."""
    first = max(end - _END_BYTES, 0)
    tail = bytearray(end - first)
    handle.readinto(first, memoryview(tail))
    at = len(tail) - _END.size
    if at < 0 or tail[at : at + 4] != b"PK\x05\x06":
        return None
    *_, size, start, comment = _END.unpack_from(tail, at)
    directory_end = end - _END.size
    at64 = at - _LOCATOR.size
    if at64 >= _END64.size and tail[at64 : at64 + 4] == b"PK\x06\x07":
        _, _, where, _ = _LOCATOR.unpack_from(tail, at64)
        at_end64 = at64 - _END64.size
        if tail[at_end64 : at_end64 + 4] != b"PK\x06\x06":
            return None
        *_, size, start = _END64.unpack_from(tail, at_end64)
        directory_end = end - _END_BYTES
        if where != start + size:
            return None
    begin = directory_end - size - start
    if comment or begin < 0 or begin >= directory_end:
        return None
    head, entry = bytearray(4), bytearray(4)
    handle.readinto(begin, memoryview(head))
    handle.readinto(begin + start, memoryview(entry))
    return begin if head == _LOCAL and entry == b"PK\x01\x02" else None


def _end_before(handle: DataHandle, end: int) -> int | None:
    """Where the last archive before a place ends; None if there is none."""
    # An end record may be cut in two by a block.
    overlap = _END.size - 1
    stop = end - 1
    while stop > 0:
        first = max(stop - BLOCK_BYTES, 0)
        block = bytearray(stop - first)
        handle.readinto(first, memoryview(block))
        at = len(block)
        while (at := block.rfind(b"PK\x05\x06", 0, at)) >= 0:
            place = first + at + _END.size
            if place < end and _begin_of(handle, place) is not None:
                return place
        if not first:
            return None
        stop = first + overlap
    return None
