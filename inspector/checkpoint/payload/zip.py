"""The zip archive that torch.save writes: its directory, and where each record's bytes lie.

Format: PKWARE's APPNOTE 6.3; what torch writes, torch/csrc (caffe2/serialize/inline_container.cc,
miniz 3): records are stored, never deflated; a local header has neither sizes nor CRC, a data
descriptor after the bytes has both; data starts at a multiple of 64 of the archive (an extra field
`FB` pads); directory, zip64 end record, its locator and the end record close it.

Nothing read here is believed: every place is checked against the archive's length, and records
may not share bytes, so that reading all of them reads no byte twice.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from inspector.checkpoint.payload.source import BLOCK_BYTES, PayloadError, Source, rechunk
from inspector.checkpoint.text import printable

__all__ = ["Record", "has_directory", "read_directory", "record_blocks", "small_record"]

_LOCAL = struct.Struct("<4s5H3I2H")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_DESCRIPTOR = struct.Struct("<4s3I")
_DESCRIPTOR64 = struct.Struct("<4sI2Q")

# Flags with which torch's reader (miniz) refuses a record: encryption, and patches.
_ENCRYPTED = 0x01 | 0x20 | 0x40 | 0x2000
# The attribute with which it takes a record for a folder: it reads nothing, and says all is well.
_IS_FOLDER = 0x10
_LEFT_OUT = "loads silently whatever was in memory before, or raises an error"
_BY_DIRECTORY = "goes by the zip directory's name: raises an error, or loads it and rightly"

# The end record is looked for in as many bytes as a comment can take, as torch's reader does.
_TAIL_BYTES = (1 << 16) + _END.size
_FIRST_TAIL_BYTES = 4 << 10
_MAX_DIRECTORY_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the archive.

    Attributes:
        name: As stored, with the archive's own folder (`archive/data/0`).
        data_offset: Where its bytes begin, from the archive's start.
        num_bytes: Its size, unpacked.
        stored_bytes: The bytes it takes in the file.
        crc32: As the directory gives it; 0 on a record with bytes means that none was computed.
        deflated: True if it is compressed, which torch never writes but reads.
        confirmed_crc32: The CRC in the data descriptor behind the bytes, or None if there is none.
    """

    name: str
    data_offset: int
    num_bytes: int
    stored_bytes: int
    crc32: int
    deflated: bool
    confirmed_crc32: int | None = None

    @property
    def short_name(self) -> str:
        """The name without the archive's folder: `data/0`, `data.pkl`."""
        return self.name.partition("/")[2] or self.name


def read_directory(source: Source) -> tuple[Record, ...]:
    """The records of the zip archive that `source` holds, in the order of their bytes.

    Raises:
        PayloadError: It is no such archive, or a damaged one.
        StorageError: It cannot be read.
    """
    start, size, count, _ = _find_directory(source)
    data = source.read(start, size)
    records: list[Record] = []
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > len(data):
            raise PayloadError("the zip directory lists more records than it holds")
        record, at = _read_entry(source, data, at, start)
        records.append(record)
    folder = records[0].name.partition("/")[0] if records else ""
    if any(record.name.partition("/")[0] != folder or "/" not in record.name for record in records):
        # torch takes the first record's folder for that of all, other readers do not.
        raise PayloadError("the zip directory is damaged: its records do not lie in one folder")
    records.sort(key=lambda r: r.data_offset)
    end = 0
    for record in records:
        if record.data_offset < end:
            raise PayloadError("the zip directory is damaged: two records share bytes")
        end = record.data_offset + record.stored_bytes
    # torch's reader finds a record by its name without regard to case.
    if len({r.name.lower() for r in records}) < len(records):
        raise PayloadError("the zip directory is damaged: it names a record twice")
    return tuple(records)


def has_directory(source: Source) -> bool:
    """Whether a zip archive that begins where `source` does ends in it.

    Its directory tells how far from the archive's first byte it lies.
    """
    try:
        start, size, count, end = _find_directory(source)
    except PayloadError:
        return False
    return count > 0 and start + size == end and source.read(start, 4) == b"PK\x01\x02"


def _find_directory(source: Source) -> tuple[int, int, int, int]:
    """Where the directory starts, its size in bytes, its number of records, where it may end."""
    tail_bytes = min(_FIRST_TAIL_BYTES, source.length)
    tail = source.read(source.length - tail_bytes, tail_bytes)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 and tail_bytes < source.length:
        tail_bytes = min(_TAIL_BYTES, source.length)
        tail = source.read(source.length - tail_bytes, tail_bytes)
        found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        raise PayloadError("the zip archive has no end: its directory is not there")
    _, disk, disk_start, here, count, size, start, _ = _END.unpack_from(tail, found)
    limit = source.length - tail_bytes + found
    at64 = found - _LOCATOR.size
    if at64 >= 0 and tail[at64 : at64 + 4] == b"PK\x06\x07":
        _, _, where, disks = _LOCATOR.unpack_from(tail, at64)
        end64 = source.read(where, _END64.size) if where <= limit else b""
        if len(end64) < _END64.size or end64[:4] != b"PK\x06\x06" or disks > 1:
            raise PayloadError("the zip directory is damaged (its zip64 end record)")
        _, own_bytes, _, _, disk, disk_start, here, count, size, start = _END64.unpack(end64)
        # Of itself without its first twelve bytes; torch's reader looks at it.
        if own_bytes < _END64.size - 12:
            raise PayloadError("the zip directory is damaged (its zip64 end record)")
        limit = where
    if disk or disk_start or here != count:
        raise PayloadError("the zip directory is damaged (it claims several disks)")
    if start + size > limit or count * _ENTRY.size > size:
        raise PayloadError("the zip directory does not lie where the archive says")
    if size > _MAX_DIRECTORY_BYTES:
        raise PayloadError("the zip directory is larger than any checkpoint's should be")
    return start, size, count, limit


def _read_entry(source: Source, data: bytes, at: int, directory: int) -> tuple[Record, int]:
    (
        signature, _, _, flags, method, _, _, crc, stored, size,
        name_bytes, extra_bytes, comment_bytes, disk, _, attributes, where,
    ) = _ENTRY.unpack_from(data, at)  # fmt: skip
    at += _ENTRY.size
    end = at + name_bytes + extra_bytes + comment_bytes
    if signature != b"PK\x01\x02" or end > len(data):
        raise PayloadError("the zip directory is damaged")
    raw = data[at : at + name_bytes]
    extra = data[at + name_bytes : at + name_bytes + extra_bytes]
    name = raw.decode("utf-8", "surrogateescape")
    shown = printable(name, 60)
    if not name.isprintable() and name.encode("utf-8", "replace") != raw:
        # torch asks for the names of all records.
        raise PayloadError(f"its record {shown} has a name that is no UTF-8")
    size, stored, where = _zip64(extra, size, stored, where)
    if flags & _ENCRYPTED:
        raise PayloadError(f"its record {shown} is encrypted")
    if disk > 1:
        raise PayloadError("the zip directory is damaged (it claims several disks)")
    if attributes & _IS_FOLDER:
        raise PayloadError(f"its record {shown} is marked as a folder", fate=_LEFT_OUT)
    if method not in (0, 8) or (method == 0 and size != stored):
        raise PayloadError(f"the zip directory is damaged (the entry of {shown})")
    header = source.read(where, _LOCAL.size) if where < directory else b""
    if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
        raise PayloadError(f"its record {shown} does not lie where the zip directory says")
    *_, local_name_bytes, local_extra_bytes = _LOCAL.unpack(header)
    begin = where + _LOCAL.size + local_name_bytes + local_extra_bytes
    if source.read(where + _LOCAL.size, local_name_bytes) != raw:
        # Which of the two is damaged is not known; torch looks at the directory's alone.
        what = f"its record {shown} has another name than the zip directory says"
        raise PayloadError(what, fate=_BY_DIRECTORY)
    if begin + stored > directory:
        raise PayloadError(f"its record {shown} reaches past the zip archive's data")
    confirmed = _descriptor(source, begin + stored, stored, size) if flags & 8 else None
    return Record(name, begin, size, stored, crc, method == 8, confirmed), end


def _zip64(extra: bytes, size: int, stored: int, where: int) -> tuple[int, int, int]:
    """Sizes and place, from the zip64 extra field where the entry has no room for them."""
    if 0xFFFFFFFF not in (size, stored, where):
        return size, stored, where
    at = 0
    while at + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if tag == 1 and at + length <= len(extra):
            numbers = [n for (n,) in struct.iter_unpack("<Q", extra[at : at + length // 8 * 8])]
            values = []
            for value in (size, stored, where):
                if value == 0xFFFFFFFF and numbers:
                    value = numbers.pop(0)
                values.append(value)
            return values[0], values[1], values[2]
        at += length
    return size, stored, where


def _descriptor(source: Source, at: int, stored: int, size: int) -> int | None:
    """The CRC in the data descriptor behind a record, or None if none with its sizes is there."""
    data = source.read(at, _DESCRIPTOR64.size)
    for layout in (_DESCRIPTOR, _DESCRIPTOR64):
        if len(data) >= layout.size:
            signature, crc, first, second = layout.unpack_from(data)
            if signature == b"PK\x07\x08" and (first, second) == (stored, size):
                return int(crc)
    return None


def small_record(source: Source, record: Record, limit: int) -> bytes:
    """All bytes of a small record."""
    if record.num_bytes > limit:
        raise PayloadError(f"its record {record.short_name[:60]!r} is larger than it can be")
    if not record.deflated:
        return source.read(record.data_offset, record.num_bytes)
    return b"".join(map(bytes, record_blocks(source, record)))


def record_blocks(source: Source, record: Record) -> Iterator[memoryview]:
    """A record's bytes, unpacked, in blocks that are each valid until the next is asked for.

    Raises:
        PayloadError: Deflated bytes that do not unpack to the size the directory gives.
        StorageError: They cannot be read.
    """
    blocks = source.blocks(record.data_offset, record.stored_bytes)
    return rechunk(_inflated(blocks, record)) if record.deflated else blocks


def _inflated(blocks: Iterator[memoryview], record: Record) -> Iterator[bytes]:
    inflate = zlib.decompressobj(-15)
    done = 0
    try:
        for block in blocks:
            rest: bytes = bytes(block)
            while rest and not inflate.eof:
                # In steps of a size that we choose: deflate packs 1,000 to 1.
                data = inflate.decompress(rest, BLOCK_BYTES)
                rest = inflate.unconsumed_tail
                done += len(data)
                if done > record.num_bytes:
                    raise PayloadError("a deflated record unpacks to more than its size")
                yield data
    except zlib.error as error:
        what = f"a deflated record is damaged ({error})"
        raise PayloadError(what, code="payload-corrupt") from error
    if done != record.num_bytes:
        what = "a deflated record unpacks to less than its size"
        raise PayloadError(what, code="payload-corrupt")
