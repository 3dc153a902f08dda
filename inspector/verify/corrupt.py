"""A payload whose CRC32 is wrong, in words; and the element, where one flipped bit explains it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inspector.checkpoint.dtypes import itemsize
from inspector.checkpoint.payload import Payload
from inspector.checkpoint.payload_source import Source
from inspector.checkpoint.text import printable
from inspector.checkpoint.torch_zip import Record
from inspector.verify.compare import bits_of
from inspector.verify.flipped_bit import flipped_bit

__all__ = ["Corrupt", "explain"]


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
    inside = np.unravel_index(flat, tensor.shape) if tensor.shape else ()
    index = tuple(int(i) + o for i, o in zip(inside, offsets, strict=True))
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
