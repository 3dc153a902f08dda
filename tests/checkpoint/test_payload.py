"""Payloads as torch.save writes them, read without torch: header, records, elements."""

from __future__ import annotations

import io
import itertools
import zipfile
import zlib

import numpy as np
import pytest
import torch

from inspector.checkpoint.payload.array import numpy_dtype, payload_array
from inspector.checkpoint.payload.payload import Payload, open_payload, record_blocks, unpacked
from inspector.checkpoint.payload.source import BLOCK_BYTES, PayloadError, RangeSource, rechunk
from tests.diff.making import DTYPES, saved


class Memory:
    """A data file in memory."""

    block_bytes = BLOCK_BYTES

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.num_read = 0

    def readinto(self, offset: int, buffer: memoryview) -> int:
        found = self.data[offset : offset + len(buffer)]
        buffer[: len(found)] = found
        self.num_read += len(found)
        return len(found)

    def close(self) -> None:
        pass


def opened(data: bytes, *, is_tensor: bool = True, before: int = 45) -> tuple[RangeSource, Payload]:
    # At an offset that no alignment divides, as in a data file.
    source = RangeSource(Memory(bytes(before) + data), before, len(data))
    source.prefetch()
    return source, open_payload(source, is_tensor=is_tensor)


def rezipped(data: bytes, change: dict[str, bytes | None], method: int = 0) -> bytes:
    """The archive again, with some records changed (None: left out)."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for info in old.infolist():
            short = info.filename.partition("/")[2]
            content = change.get(short, old.read(info))
            if content is not None:
                new.writestr(info.filename, content)
    return out.getvalue()


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def torch_bits(tensor: torch.Tensor) -> bytes:
    flat = tensor.resolve_conj().resolve_neg().contiguous()
    return bytes(flat.reshape(-1).view(torch.uint8).numpy()) if flat.numel() else b""


def sample(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = torch.arange(count, dtype=torch.int64).mul(37).remainder(251).to(torch.uint8)
    if dtype == torch.bool:
        return (raw % 2).bool().reshape(shape)
    return raw.view(dtype).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(6, 4), (), (0, 5), (3,)], ids=str)
def test_every_dtype_reads_as_torch_has_it(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = sample(dtype, shape)
    source, payload = opened(saved(tensor))
    assert payload.tensor is not None
    assert payload.tensor.dtype == str(dtype).removeprefix("torch.")
    assert payload.tensor.shape == shape
    array = payload_array(source, payload)
    assert array.shape == shape
    assert bits(array) == torch_bits(tensor)
    assert not payload.unsafe
    assert not payload.unknown


BASE = torch.arange(24.0).reshape(4, 6)
COMPLEX = torch.complex(BASE, -BASE)


@pytest.mark.parametrize(
    "tensor",
    [
        BASE.t(),
        BASE[1:3, ::2],
        BASE[:, 2:5],
        BASE[2:3].expand(5, 6),
        torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.nn.Parameter(BASE),
        COMPLEX.conj(),
        COMPLEX.t().conj(),
        COMPLEX.conj().imag,
        torch.as_strided(BASE, (3, 3), (1, 1)),
        torch.tensor(3.0, dtype=torch.complex128),
    ],
    ids=[
        "transposed", "stepped", "columns", "expanded", "channels_last", "parameter", "conj",
        "conj-t", "neg", "overlapping", "0-d",
    ],
)  # fmt: skip
def test_strides_offsets_and_lazy_flags(tensor: torch.Tensor) -> None:
    source, payload = opened(saved(tensor))
    assert bits(payload_array(source, payload)) == torch_bits(tensor.detach())
    if tensor.ndim == 2:
        box = (slice(1, 3), slice(0, 2))
        assert bits(payload_array(source, payload, box)) == torch_bits(tensor.detach()[box])


def test_a_box_reads_only_its_rows() -> None:
    tensor = torch.arange(1 << 20, dtype=torch.int32).reshape(1024, 1024)
    data = saved(tensor)
    memory = Memory(data)
    source = RangeSource(memory, 0, len(data))
    source.prefetch()
    payload = open_payload(source, is_tensor=True)
    array = payload_array(source, payload, (slice(500, 502), slice(3, 5)))
    assert (array == tensor[500:502, 3:5].numpy()).all()
    assert memory.num_read < 64 << 10


def test_complex32_comes_as_complex64() -> None:
    tensor = torch.complex(torch.tensor([1.0, 2.0]).half(), torch.tensor([-1.5, 0.25]).half())
    source, payload = opened(saved(tensor))
    assert payload_array(source, payload).tolist() == [1 - 1.5j, 2 + 0.25j]
    assert numpy_dtype("complex32") == np.complex64


def test_packed_types_are_refused_by_name() -> None:
    tensor = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    source, payload = opened(saved(tensor))
    assert payload.tensor is not None
    assert payload.tensor.dtype == "float4_e2m1fn_x2"
    with pytest.raises(PayloadError, match="float4_e2m1fn_x2"):
        payload_array(source, payload)


def test_big_endian_bytes_are_swapped() -> None:
    data = saved(torch.tensor([1.0, -2.5]))
    swapped = np.array([1.0, -2.5], ">f4").tobytes()
    source, payload = opened(rezipped(data, {"byteorder": b"big", "data/0": swapped}))
    assert payload.byteorder == "big"
    assert payload_array(source, payload).tolist() == [1.0, -2.5]


def test_legacy_format() -> None:
    tensor = torch.arange(12.0).reshape(3, 4).t()
    data = saved(tensor, _use_new_zipfile_serialization=False)
    source, payload = opened(data)
    assert payload.container == "legacy"
    assert bits(payload_array(source, payload)) == torch_bits(tensor)
    _, payload = opened(saved({"a": 1}, _use_new_zipfile_serialization=False), is_tensor=False)
    assert payload.tensor is None


def test_deflated_records_unpack() -> None:
    tensor = torch.arange(100_000.0)
    source, payload = opened(rezipped(saved(tensor), {}, zipfile.ZIP_DEFLATED))
    assert payload.data is not None
    assert payload.data.deflated
    assert bits(payload_array(source, payload)) == torch_bits(tensor)
    assert payload_array(source, payload, (slice(70_000, 70_002),)).tolist() == [70_000, 70_001]


@pytest.mark.parametrize("count", [10, 6_000_000], ids=["kept", "unpacked twice"])
def test_zstd(count: int) -> None:
    zstandard = pytest.importorskip("zstandard")
    tensor = torch.randn(count)
    data = zstandard.ZstdCompressor().compress(saved(tensor))
    inner = unpacked(RangeSource(Memory(data), 0, len(data)), ("stream.zstd/1",), 1 << 30)
    payload = open_payload(inner, is_tensor=True)
    assert bits(payload_array(inner, payload)) == torch_bits(tensor)


def test_zstd_bomb_and_damage() -> None:
    zstandard = pytest.importorskip("zstandard")
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    with pytest.raises(PayloadError, match="unpacks to more"):
        unpacked(RangeSource(Memory(bomb), 0, len(bomb)), ("stream.zstd/1",), 1 << 20)
    good = zstandard.ZstdCompressor().compress(saved(torch.randn(1000)))
    for broken in (good[: len(good) // 2], b"nonsense" + good, good[:50] + b"\xff" * 9 + good[59:]):
        source = RangeSource(Memory(broken), 0, len(broken))
        with pytest.raises(PayloadError):
            inner = unpacked(source, ("stream.zstd/1",), 1 << 20)
            payload = open_payload(inner, is_tensor=True)
            for record in payload.records:
                assert zlib.crc32(b"".join(record_blocks(inner, record))) == record.crc32 or True
            raise PayloadError("read after all: the CRC would tell")


def test_deflate_bomb_is_stopped() -> None:
    data = saved(torch.zeros(4))
    bomb = rezipped(data, {"data.pkl": bytes(1 << 27)}, zipfile.ZIP_DEFLATED)
    assert "far more" in opened(bomb)[1].problem
    lying = bytearray(rezipped(data, {"data/0": bytes(1 << 22)}, zipfile.ZIP_DEFLATED))
    at = lying.rfind(b"archive/data/0") - 46
    lying[at + 24 : at + 28] = (16).to_bytes(4, "little")
    source, payload = opened(bytes(lying))
    assert payload.data is not None
    with pytest.raises(PayloadError, match="more than its size"):
        list(record_blocks(source, payload.data))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (bytes(2000), "only zeros"),
        (b"", "empty"),
        (saved(torch.zeros(400))[704 + 100 :], "inside of another payload"),
        (bytes(7) + saved(torch.zeros(4)), "starts 7 bytes later"),
        (b"Q" + saved(torch.zeros(4))[1:], "first bytes are damaged"),
        (saved(torch.zeros(400))[:-30], "no end"),
        (b"Once upon a time " * 50, "no payload starts there"),
        (b"<html>" * 100, "an HTML or XML page"),
        ((20).to_bytes(8, "little") + b'{"a": {}}' + bytes(50), "safetensors"),
        (b"\x28\xb5\x2f\xfd" + bytes(90), "zstd"),
    ],
)
def test_what_is_there_instead(data: bytes, says: str) -> None:
    with pytest.raises(PayloadError, match=says):
        opened(data)


def test_every_flip_and_every_cut_ends_in_a_verdict() -> None:
    """Whatever bit of a payload flips, wherever it ends: an answer, or one error of ours."""
    data = saved(torch.arange(40.0).reshape(5, 8).t())
    variants = [data[:end] for end in range(0, len(data), 7)]
    for at, bit in itertools.product(range(len(data)), (0, 3, 7)):
        variants.append(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
    num_read = 0
    for variant in variants:
        try:
            source, payload = opened(variant)
            for record in payload.records:
                for _ in record_blocks(source, record):
                    pass
            if payload.tensor is not None:
                payload_array(source, payload)
            num_read += 1
        except PayloadError:
            pass
    assert num_read > 500


def test_rechunk_keeps_bytes_and_block_sizes() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.bytes(n) for n in (1, 5, BLOCK_BYTES, 0, 3 * BLOCK_BYTES + 7, 11)]
    blocks = [bytes(b) for b in rechunk(parts)]
    assert b"".join(blocks) == b"".join(parts)
    assert all(len(b) == BLOCK_BYTES for b in blocks[:-1])
