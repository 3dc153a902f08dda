"""A header that was parsed before is known again; one that differs in any byte is not."""

from __future__ import annotations

import zlib

import torch

from inspector.checkpoint.payload.molds import Mold, mold_of
from inspector.checkpoint.payload.payload import open_payload
from inspector.checkpoint.payload.source import BytesSource
from sample_ckpts.maker.editing import saved


def parts(data: bytes) -> tuple[bytes, bytes, int]:
    """What stands before and after the elements, and their CRC32."""
    payload = open_payload(BytesSource(memoryview(data)), is_tensor=True)
    record = payload.data
    assert record is not None
    end = record.data_offset + record.num_bytes
    return data[: record.data_offset], data[end:], record.crc32


def mold(data: bytes) -> Mold:
    payload = open_payload(BytesSource(memoryview(data)), is_tensor=True)
    assert payload.data is not None
    head, tail, _ = parts(data)
    found = mold_of(payload, payload.data, head, tail)
    assert found is not None
    return found


def test_another_payload_of_the_same_kind_is_known_by_its_header() -> None:
    one, two = (saved(torch.randn(40, 3)) for _ in range(2))
    made = mold(one)
    assert made.length == len(two)
    for data in (one, two):
        head, tail, crc = parts(data)
        assert made.crc_in(head, tail) == crc


def test_a_header_with_any_other_byte_is_not() -> None:
    made = mold(saved(torch.randn(40, 3)))
    head, tail, crc = parts(saved(torch.randn(40, 3)))
    for at in range(len(head)):
        other = bytearray(head)
        other[at] ^= 1
        assert made.crc_in(bytes(other), tail) is None
    for at in range(len(tail)):
        other = bytearray(tail)
        other[at] ^= 1
        assert made.crc_in(head, bytes(other)) is None, at
    assert made.crc_in(head, tail) == crc


def test_other_shapes_and_types_have_other_headers() -> None:
    made = mold(saved(torch.zeros(8, 3)))
    for other in (
        torch.zeros(3, 8),
        torch.zeros(24),
        torch.zeros(8, 3).int(),
        torch.zeros(3, 8).t(),
    ):
        head, tail, _ = parts(saved(other))
        assert made.crc_in(head, tail) is None


def test_an_identity_that_is_no_text_is_to_be_parsed_though_its_checksum_fits() -> None:
    """Torch decodes it; see `payload._small_records`."""
    data = saved(torch.randn(40, 3))
    made = mold(data)
    head, tail, _ = parts(data)
    start, count = made.id_at
    other = bytearray(tail)
    other[start : start + count] = b"\xff" * count
    for at in made.id_crcs:
        other[at : at + 4] = zlib.crc32(b"\xff" * count).to_bytes(4, "little")
    assert made.crc_in(head, bytes(other)) is None
