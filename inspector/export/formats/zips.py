"""Zip archives whose records are stored as they are: places first, checksums at the end.

Format: PKWARE's APPNOTE 6.3. A record of 4 GiB and more, or one that begins that far in, has the
zip64 fields. No data descriptors: the local headers are written when the CRC32 are known.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from inspector.checkpoint.payload.crc import crc32, crc32_combine
from inspector.export.formats.files import ExportItem, Frame, ItemRegion, PlannedFile

__all__ = ["ZipRecord", "zip_file"]

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_FULL = 0xFFFFFFFF
_UTF8 = 0x800
# 1980-01-01, the first day that the format knows.
_DATE = 0x21


@dataclass(frozen=True, slots=True)
class ZipRecord:
    """One record.

    Attributes:
        name: Its name.
        head: Its first bytes; all of them if no tensor is in it.
        item: The tensor that follows, or None.
        align: Its first byte stands at a multiple of this.
    """

    name: str
    head: bytes
    item: ExportItem | None = None
    align: int = 1

    @property
    def num_bytes(self) -> int:
        return len(self.head) + (self.item.num_bytes if self.item is not None else 0)


@dataclass(frozen=True, slots=True)
class _Placed:
    record: ZipRecord
    offset: int
    padding: int

    @property
    def data_offset(self) -> int:
        return self.offset + len(self.local_header(0))

    def _name(self) -> tuple[bytes, int]:
        name = self.record.name.encode("utf-8")
        return name, 0 if name.isascii() else _UTF8

    def local_header(self, crc: int) -> bytes:
        name, flags = self._name()
        size = self.record.num_bytes
        extra = b""
        if size >= _FULL:
            extra = struct.pack("<HHQQ", 1, 16, size, size)
            size = _FULL
        if self.padding:
            # What torch itself pads with: a field that nobody reads.
            extra += struct.pack("<2sH", b"FB", self.padding - 4) + b"Z" * (self.padding - 4)
        version = 45 if size == _FULL else 20
        head = _LOCAL.pack(
            b"PK\x03\x04", version, flags, 0, 0, _DATE, crc, size, size, len(name), len(extra)
        )
        return head + name + extra

    def entry(self, crc: int) -> bytes:
        name, flags = self._name()
        size, offset = self.record.num_bytes, self.offset
        wide = b""
        if size >= _FULL:
            wide += struct.pack("<QQ", size, size)
            size = _FULL
        if offset >= _FULL:
            wide += struct.pack("<Q", offset)
            offset = _FULL
        extra = struct.pack("<HH", 1, len(wide)) + wide if wide else b""
        version = 45 if wide else 20
        head = _ENTRY.pack(
            b"PK\x01\x02", version, version, flags, 0, 0, _DATE, crc, size, size,
            len(name), len(extra), 0, 0, 0, 0, offset,
        )  # fmt: skip
        return head + name + extra


def zip_file(name: str, records: Sequence[ZipRecord]) -> PlannedFile:
    """The archive of these records, in this order."""
    placed: list[_Placed] = []
    regions: list[ItemRegion] = []
    at = 0
    for record in records:
        here = _Placed(record, at, 0)
        lacking = -here.data_offset % record.align
        if lacking:
            # An extra field has four bytes at least.
            lacking += record.align if lacking < 4 else 0
            here = _Placed(record, at, lacking)
        placed.append(here)
        if record.item is not None:
            regions.append(ItemRegion(record.item, here.data_offset + len(record.head)))
        at = here.data_offset + record.num_bytes

    def frame(crcs: Sequence[int]) -> Frame:
        rest = iter(crcs)
        directory = bytearray()
        for here in placed:
            record = here.record
            crc = crc32(record.head)
            if record.item is not None:
                crc = crc32_combine(crc, next(rest), record.item.num_bytes)
            yield here.offset, here.local_header(crc) + record.head
            directory += here.entry(crc)
        yield at, bytes(directory) + _end(len(placed), at, len(directory))

    entries = sum(len(here.entry(0)) for here in placed)
    end = len(_end(len(placed), at, entries))
    return PlannedFile(name, tuple(regions), at + entries + end, frame)


def _end(count: int, start: int, size: int) -> bytes:
    """The records at the archive's end, with those of zip64 where it takes them."""
    more = b""
    if count >= 0xFFFF or start >= _FULL or size >= _FULL:
        more = _END64.pack(b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
        more += _LOCATOR.pack(b"PK\x06\x07", 0, start + size, 1)
    few = min(count, 0xFFFF)
    return more + _END.pack(b"PK\x05\x06", 0, 0, few, few, min(size, _FULL), min(start, _FULL), 0)
