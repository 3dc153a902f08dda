"""NaN and infinities, counted as torch counts them, the first by its index."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from inspector.checkpoint.payload.tensor import StoredTensor
from inspector.values.nonfinite import NonFinite, ValueScan, has_non_finite, scan_of

FLOATS = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64,
    torch.complex128, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
]  # fmt: skip


def stored(tensor: torch.Tensor) -> tuple[StoredTensor, bytes]:
    name = str(tensor.dtype).removeprefix("torch.")
    raw = bytes(torch.tensor([], dtype=torch.uint8).set_(tensor.untyped_storage()).numpy())
    shape, strides = tuple(tensor.shape), tuple(tensor.stride())
    return StoredTensor(name, shape, strides, tensor.storage_offset(), "0", len(raw)), raw


def scanned(tensor: torch.Tensor, block: int = 64) -> NonFinite:
    described, raw = stored(tensor)
    scan = scan_of(described)
    assert scan is not None
    for at in range(0, len(raw), block):
        scan.feed(memoryview(raw)[at : at + block])
    return scan.found


def expected(tensor: torch.Tensor) -> NonFinite:
    wide = tensor if tensor.is_complex() else tensor.to(torch.float64)
    parts = torch.view_as_real(wide) if wide.is_complex() else wide.unsqueeze(-1)
    nan, inf = parts.isnan().any(-1), parts.isinf().any(-1)

    def first(mask: torch.Tensor) -> tuple[int, ...] | None:
        found = mask.nonzero()
        return tuple(found[0].tolist()) if len(found) else None

    return NonFinite(int(nan.sum()), int(inf.sum()), first(nan), first(inf))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_counts_are_torchs(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(20):
        raw = torch.randint(0, 256, (12 * 10 * dtype.itemsize,), generator=generator)
        tensor = raw.to(torch.uint8).view(dtype).reshape(12, 10)
        assert scanned(tensor) == expected(tensor)
        assert scanned(tensor.t()) == expected(tensor.t())


@pytest.mark.parametrize("dtype", [d for d in FLOATS if d.itemsize == 1], ids=str)
def test_every_byte_of_the_small_types(dtype: torch.dtype) -> None:
    tensor = torch.arange(256, dtype=torch.int64).to(torch.uint8).view(dtype)
    for i in range(256):
        assert scanned(tensor[i].clone()) == expected(tensor[i].clone()), i


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_pattern_of_the_half_types(dtype: torch.dtype) -> None:
    tensor = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(dtype)
    assert scanned(tensor, 1 << 12) == expected(tensor)


def test_the_edges_of_the_wide_types() -> None:
    for dtype, bits, nan in (
        (torch.float32, torch.int32, 0x7F800001),
        (torch.float64, torch.int64, 0x7FF0000000000001),
    ):
        for pattern in (nan, nan - 1, nan - 2, nan - 1 - (1 << (dtype.itemsize * 8 - 1)), -1):
            tensor = torch.tensor([pattern], dtype=bits).view(dtype)
            assert scanned(tensor) == expected(tensor), hex(pattern)


BASE = torch.arange(360.0).reshape(3, 4, 5, 6)


@pytest.mark.parametrize("permuted", itertools.permutations(range(4)), ids=str)
def test_the_first_in_c_order_however_it_is_stored(permuted: tuple[int, ...]) -> None:
    flat = BASE.clone().reshape(-1)
    flat[torch.tensor([7, 130, 131, 350])] = float("nan")
    flat[torch.tensor([9, 200])] = float("-inf")
    tensor = flat.reshape(3, 4, 5, 6).permute(permuted)
    assert scanned(tensor, 128) == expected(tensor)
    narrowed = tensor[1:, :3, ::2]
    assert scanned(narrowed, 128) == expected(narrowed)


def test_repeats_overlaps_scalars_and_nothing() -> None:
    column = torch.tensor([[1.0], [float("nan")], [2.0]]).expand(3, 4)
    assert scanned(column) == expected(column)
    assert scan_of(stored(torch.as_strided(BASE, (3, 3), (1, 1)))[0]) is None
    assert scanned(torch.tensor(float("inf"))) == NonFinite(0, 1, None, ())
    assert scanned(torch.zeros(0, 3)) == NonFinite()
    assert not has_non_finite("int64")
    assert not has_non_finite("float4_e2m1fn_x2")


def test_big_endian() -> None:
    raw = np.array([1.0, np.nan, np.inf], ">f4").tobytes()
    scan = scan_of(StoredTensor("float32", (3,), (1,), 0, "0", 12), "big")
    assert isinstance(scan, ValueScan)
    scan.feed(memoryview(raw))
    assert scan.found == NonFinite(1, 1, (1,), (2,))


def test_the_first_across_chunks() -> None:
    a = NonFinite(1, 0, (0, 5), None).moved((8, 0))
    b = NonFinite(2, 1, (3, 1), (2, 2)).moved((4, 4))
    assert a + b == b + a == NonFinite(3, 1, (7, 5), (6, 6))
