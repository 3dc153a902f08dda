"""Headers of payloads that are the same but for their checksums, parsed once.

A checkpoint of a thousand ranks holds tens of thousands of payloads of the same shape and dtype.
torch.save writes the same bytes around the elements of each, but for the CRC32 of the elements
and the record `.data/serialization_id`, whose text nobody needs. What is the same, byte for byte,
was parsed before and means the same.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from inspector.checkpoint.payload.crc import crc32
from inspector.checkpoint.payload.payload import Payload
from inspector.checkpoint.payload.zip import Record

__all__ = ["Mold", "mold_of"]

_U32 = struct.Struct("<I")
_MAX_BYTES = 16 << 10
_ENTRY_BYTES = 46
_ID = ".data/serialization_id"


@dataclass(frozen=True, slots=True)
class Mold:
    """What stands around the elements of a payload.

    Attributes:
        head: The bytes before them.
        tail: Those after them, with zeros for what differs.
        blanks: Where that is in the tail: first byte, number of bytes.
        crcs: Where the CRC32 of the elements stands in the tail, each time.
        id_at: Where the record `.data/serialization_id` is in the tail: first byte, its bytes.
        id_crcs: Where its CRC32 stands.
        num_bytes: Of the elements.
    """

    head: bytes
    tail: bytes
    blanks: tuple[tuple[int, int], ...]
    crcs: tuple[int, ...]
    id_at: tuple[int, int]
    id_crcs: tuple[int, ...]
    num_bytes: int

    @property
    def length(self) -> int:
        """Bytes of the whole payload."""
        return len(self.head) + self.num_bytes + len(self.tail)

    def crc_in(self, head: bytes, tail: bytes) -> int | None:
        """The CRC32 of the elements by a payload with such a header.

        Returns:
            None if the header is another one, or damaged: it is to be parsed.
        """
        if head != self.head or len(tail) != len(self.tail):
            return None
        blank = bytearray(tail)
        for start, count in self.blanks:
            blank[start : start + count] = bytes(count)
        if blank != self.tail:
            return None
        start, count = self.id_at
        identity = tail[start : start + count]
        found = crc32(identity)
        # Torch reads it as text.
        if not bytes(identity).isascii() or any(
            _U32.unpack_from(tail, at)[0] != found for at in self.id_crcs
        ):
            return None
        crc = _U32.unpack_from(tail, self.crcs[0])[0]
        if not crc or any(_U32.unpack_from(tail, at)[0] != crc for at in self.crcs[1:]):
            return None
        return int(crc)


def mold_of(payload: Payload, data: Record, head: bytes, tail: bytes) -> Mold | None:
    """What other payloads may have in common with one that was parsed and is intact.

    Returns:
        None if it is not as torch.save writes it.
    """
    if len(head) + len(tail) > _MAX_BYTES or payload.unsafe or payload.problem:
        return None
    begin = len(head) + data.num_bytes
    directory = tail.find(b"PK\x01\x02")
    by_name = {record.name.encode("utf-8", "surrogateescape"): record for record in payload.records}
    blanks: list[tuple[int, int]] = []
    crcs: list[int] = []
    id_crcs: list[int] = []
    id_at = (0, 0)
    for _ in payload.records:
        if directory < 0 or tail[directory : directory + 4] != b"PK\x01\x02":
            return None
        name_bytes, extra_bytes, comment_bytes = struct.unpack_from("<3H", tail, directory + 28)
        name = tail[directory + _ENTRY_BYTES : directory + _ENTRY_BYTES + name_bytes]
        record = by_name.get(name)
        if record is None:
            return None
        if record is data or record.short_name == _ID:
            places = [directory + 16]
            if record.confirmed_crc32 is not None:
                places.append(record.data_offset + record.stored_bytes + 4 - begin)
            if min(places) < 0:
                return None
            blanks += [(place, 4) for place in places]
            if record is data:
                crcs += places
            else:
                id_crcs += places
                id_at = (record.data_offset - begin, record.num_bytes)
                if id_at[0] < 0:
                    return None
                blanks.append(id_at)
        directory += _ENTRY_BYTES + name_bytes + extra_bytes + comment_bytes
    if not crcs:
        return None
    blank = bytearray(tail)
    for start, count in blanks:
        blank[start : start + count] = bytes(count)
    return Mold(
        head, bytes(blank), tuple(blanks), tuple(crcs), id_at, tuple(id_crcs), data.num_bytes
    )
