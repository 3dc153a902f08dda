"""A payload whose CRC32 is wrong, in words; and the element, where one flipped bit explains it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.payload.payload import Payload
from inspector.checkpoint.payload.source import Source
from inspector.checkpoint.payload.zip import Record
from inspector.checkpoint.text import printable
from inspector.verify.ranks.bits import bits_of, index_in

__all__ = ["MAX_BYTES", "Corrupt", "explain", "flipped_bit"]

#: Past this two places may explain the same difference.
MAX_BYTES = (1 << 29) - 1

_POLYNOMIAL = 0xEDB88320
_STEPS = 1 << 16


def flipped_bit(num_bytes: int, expected: int, found: int) -> tuple[int, int] | None:
    """The byte and the bit in it (0 is the lowest) that differ, if it is only one.

    Args:
        num_bytes: Length of the message.
        expected: Its CRC32 as it was written.
        found: Its CRC32 now.
    """
    if not 0 < num_bytes <= MAX_BYTES or expected == found:
        return None
    small, large = _tables()
    state = expected ^ found
    for i in range(num_bytes * 8 // _STEPS + 1):
        j = small.get(state)
        if j is not None:
            steps = i * _STEPS + j
            behind = -(-steps // 8)
            if 0 < steps <= num_bytes * 8:
                return num_bytes - behind, behind * 8 - steps
            return None
        state = _apply(large, state)
    return None


@cache
def _tables() -> tuple[dict[int, int], list[int]]:
    """Powers of x by value, and the inverse of the largest as a matrix over GF(2)."""
    small, state = {}, 1
    for j in range(_STEPS):
        small[state] = j
        state = (state >> 1) ^ (_POLYNOMIAL if state & 1 else 0)
    # One step backwards, doubled sixteen times.
    matrix = [_back(1 << bit) for bit in range(32)]
    for _ in range(16):
        matrix = [_apply(matrix, column) for column in matrix]
    return small, matrix


def _back(state: int) -> int:
    if state >> 31:
        return ((state ^ _POLYNOMIAL) << 1 | 1) & 0xFFFFFFFF
    return state << 1


def _apply(matrix: list[int], state: int) -> int:
    result = bit = 0
    while state:
        if state & 1:
            result ^= matrix[bit]
        state >>= 1
        bit += 1
    return result


@dataclass(frozen=True, slots=True)
class Corrupt:
    """A payload whose bytes are not as they were written.

    Attributes:
        fqn: Raw name of the entry.
        offsets, sizes: The chunk's box (empty for a bytes entry).
        index: Element that one flipped bit would explain, in the whole tensor, or None.
        expected, found: Its bit patterns, as written and as stored now.
        file: Raw path of the data file.
        text: What is wrong, in words.
    """

    fqn: str
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    index: tuple[int, ...] | None
    expected: str | None
    found: str | None
    file: str
    text: str


def explain(
    source: Source,
    payload: Payload,
    record: Record,
    crc: int,
    fqn: str,
    offsets: tuple[int, ...],
    sizes: tuple[int, ...],
    path: str,
) -> Corrupt:
    """A wrong CRC in words, and the one flipped bit that would explain it."""
    name = printable(record.short_name, 60)
    expected = record.crc32 or record.confirmed_crc32 or 0
    what = f"CRC32 {crc:08x}, not {expected:08x}"
    text = f"the stored bytes of {name} are not as they were written ({what})"
    if record.confirmed_crc32 == crc:
        text = f"one of the two stored checksums of {name} is damaged, not the bytes ({what})"
    plain = Corrupt(fqn, offsets, sizes, None, None, None, path, text)
    tensor = payload.tensor
    place = flipped_bit(record.num_bytes, expected, crc)
    if place is None or record is not payload.data or tensor is None or record.deflated:
        return plain
    size = itemsize(tensor.dtype) or 1
    byte, bit = place
    flat = byte // size - tensor.first
    if not tensor.is_contiguous or not 0 <= flat < tensor.num_elements:
        return plain
    stored = source.read(record.data_offset + byte // size * size, size)
    written = bytearray(stored)
    written[byte % size] ^= 1 << bit
    order = payload.byteorder
    index = index_in(flat, tensor.shape, offsets)
    text += f"; one flipped bit explains it: bit {bit} of byte {byte:,} of {name}"
    return Corrupt(
        fqn,
        offsets,
        sizes,
        index,
        bits_of(bytes(written), order),
        bits_of(stored, order),
        path,
        text,
    )
