"""Blocks of elements, compared: counts, places, differences, ulps."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.checkpoint.payload.array import numpy_dtype
from inspector.diff import elements
from inspector.diff.elements import Comparer, Tally, index_of
from inspector.diff.model import Tolerance
from inspector.diff.numbers import float_gaps
from tests.diff.making import DTYPES, flipped, raw_bits, sample

SMALL_FLOATS = [
    "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
    "float8_e8m0fnu",
]  # fmt: skip


def block(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def compare(a: torch.Tensor, b: torch.Tensor, tolerance: Tolerance | None = None) -> Tally:
    comparer = Comparer(name(a.dtype), name(b.dtype), tolerance)
    return comparer.compare(block(raw_bits(a)), block(raw_bits(b)), 0)


@pytest.mark.parametrize("dtype", SMALL_FLOATS)
def test_ulps_are_steps_through_all_numbers_of_the_format(dtype: str) -> None:
    """Counted off in the sorted list of every number that the format has."""
    size = numpy_dtype(dtype).itemsize
    codes = np.arange(1 << (8 * size), dtype=f"<u{size}")
    with np.errstate(invalid="ignore"):
        values = codes.view(numpy_dtype(dtype)).astype(np.float64)
    codes, values = codes[np.isfinite(values)], values[np.isfinite(values)]
    ladder = np.unique(values)
    rng = np.random.default_rng(1)
    pairs = rng.integers(0, len(codes), (400, 2))
    near = rng.integers(0, len(codes) - 1, 200)
    for i, j in [*pairs.tolist(), *((k, k + 1) for k in near.tolist())]:
        if codes[i] == codes[j]:
            continue
        found = Comparer(dtype, dtype).compare(
            block(codes[i : i + 1].tobytes()), block(codes[j : j + 1].tobytes()), 0
        )
        steps = abs(int(np.searchsorted(ladder, values[i]) - np.searchsorted(ladder, values[j])))
        assert (found.num_different, found.max_ulps) == (1, steps)
        assert found.max_abs == abs(values[i] - values[j])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ulps_of_wide_floats_are_steps_of_nextafter(dtype: type) -> None:
    for start in (1.0, -3.5, 0.0, -1e-30, 1e30, np.finfo(dtype).smallest_subnormal):
        x = y = dtype(start)
        for steps in range(1, 40):
            y = np.nextafter(y, dtype(np.inf))
            found = Comparer(dtype.__name__, dtype.__name__).compare(
                block(x.tobytes()), block(y.tobytes()), 0
            )
            assert found.max_ulps == steps
    # From the largest to the smallest number, which is more than a signed integer counts to.
    edge = np.finfo(dtype).max
    found = Comparer(dtype.__name__, dtype.__name__).compare(
        block(edge.tobytes()), block((-edge).tobytes()), 0
    )
    infinity = int(dtype(np.inf).view(np.uint32 if dtype is np.float32 else np.uint64))
    assert found.max_ulps == 2 * (infinity - 1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_flipped_bit_is_found_at_its_place(dtype: torch.dtype) -> None:
    tensor = sample(dtype, (5, 7))
    for position in (0, 17, 34):
        for bit in {0, 8 * dtype.itemsize - 2}:
            found = compare(tensor, flipped(tensor, position, bit))
            assert (found.num_different, found.first, found.num_compared) == (1, position, 35)


def test_signalling_nans_raise_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    bits = np.array([0x7F800001, 0xFF800001], np.uint32)
    for dtype, data in (("float32", bits), ("bfloat16", bits), ("complex64", bits)):
        Comparer(dtype, dtype).compare(block(data.tobytes()), block(data[::-1].tobytes()), 0)
    Comparer("float32", "float64").compare(block(bits.tobytes()), block(bytes(16)), 0)
    assert not recwarn.list


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_bits_are_equal(dtype: torch.dtype) -> None:
    tensor = sample(dtype, (1000,))
    assert compare(tensor, tensor.clone()) == Tally(1000)


def test_zero_of_the_other_sign_differs_and_is_close() -> None:
    found = compare(torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]))
    assert (found.num_different, found.max_abs, found.max_ulps, found.num_not_close) == (1, 0, 0, 0)


def test_the_same_nan_is_equal_and_another_payload_is_close() -> None:
    nan = np.array([0x7FC00000, 0x7FC00001, 0xFFC00000], np.uint32)
    same = Comparer("float32", "float32").compare(block(nan.tobytes()), block(nan.tobytes()), 0)
    assert same == Tally(3)
    other = np.array([0x7FC00000, 0x7FC00002, 0xFFC00000], np.uint32)
    found = Comparer("float32", "float32").compare(block(nan.tobytes()), block(other.tobytes()), 0)
    assert (found.num_different, found.first, found.num_nan_both) == (1, 1, 1)
    assert (found.num_non_finite, found.num_not_close, found.max_abs) == (0, 0, None)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (math.nan, 1.0),
        (1.0, math.nan),
        (math.inf, -math.inf),
        (math.inf, 1.0),
        (math.nan, math.inf),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
def test_nan_and_infinity_on_one_side(a: float, b: float, dtype: torch.dtype) -> None:
    x, y = torch.ones(9, dtype=dtype), torch.ones(9, dtype=dtype)
    x[4], y[4], y[7] = a, b, 3.0
    found = compare(x, y)
    assert (found.num_different, found.num_non_finite, found.first_non_finite) == (2, 1, 4)
    # The largest difference is that of numbers.
    assert (found.max_abs, found.max_abs_at) == (2.0, 7)


def test_a_complex_number_with_one_nan_part_is_told_from_another() -> None:
    x = torch.tensor([complex(math.nan, 1.0)], dtype=torch.complex64)
    y = torch.tensor([complex(math.nan, 2.0)], dtype=torch.complex64)
    assert compare(x, y).num_non_finite == 1


@pytest.mark.parametrize(
    ("dtype", "a", "b", "expected"),
    [
        (torch.int64, -(2**63), 2**63 - 1, 2**64 - 1),
        (torch.int64, 2**62 + 1, 2**62, 1),
        (torch.uint64, 2**64 - 1, 0, 2**64 - 1),
        (torch.int8, -128, 127, 255),
        (torch.uint8, 3, 250, 247),
        (torch.bool, True, False, 1),
    ],
)
def test_differences_of_integers_are_exact(
    dtype: torch.dtype, a: int, b: int, expected: int
) -> None:
    found = compare(torch.tensor([a], dtype=dtype), torch.tensor([b], dtype=dtype))
    assert type(found.max_abs) is int
    assert (found.max_abs, found.max_ulps, found.num_not_close) == (expected, None, 1)


def test_an_overflowing_difference_is_infinite() -> None:
    found = compare(
        torch.tensor([1.7e308], dtype=torch.float64), torch.tensor([-1.7e308], dtype=torch.float64)
    )
    assert (found.max_abs, found.num_non_finite) == (math.inf, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_close_is_what_torch_testing_calls_close(dtype: torch.dtype) -> None:
    """With torch's `rtol`, without its `atol`; the relation is to the larger of the two."""
    rtol = Tolerance().rtol_of(name(dtype))
    x = sample(dtype, (400,)).abs() + 1
    for factor in (1 - rtol / 3, 1 - 2 * rtol, 1 - 4 * rtol):
        y = (x.double() * factor).to(dtype)
        close = torch.isclose(y.double(), x.double(), rtol=rtol, atol=0.0)
        found = compare(x, y)
        neighbours = compare(x, y, Tolerance(rtol=rtol))
        assert neighbours.num_not_close == int((~close).sum())
        assert found.num_not_close <= neighbours.num_not_close
    reference = torch.testing._comparison.default_tolerances(dtype)
    assert rtol == reference[0]


def test_a_tolerance_may_be_given() -> None:
    x, y = torch.tensor([1.0, 100.0]), torch.tensor([1.5, 100.5])
    assert compare(x, y).num_not_close == 2
    assert compare(x, y, Tolerance(atol=0.5)).num_not_close == 0
    assert compare(x, y, Tolerance(rtol=0.01)).num_not_close == 1
    n, m = torch.tensor([100], dtype=torch.int32), torch.tensor([101], dtype=torch.int32)
    assert compare(n, m).num_not_close == 1
    assert compare(n, m, Tolerance(atol=1)).num_not_close == 0
    # With a tolerance of nothing not even neighbours are close.
    near = torch.nextafter(x, torch.tensor(math.inf))
    assert compare(x, near).num_not_close == 0
    assert compare(x, near, Tolerance(rtol=0.0)).num_not_close == 2


@pytest.mark.parametrize(
    ("a", "b"),
    [(torch.float32, torch.bfloat16), (torch.int32, torch.int64), (torch.bool, torch.float16),
     (torch.float64, torch.complex64), (torch.uint64, torch.int64), (torch.int8, torch.float32)],
    ids=str,
)  # fmt: skip
def test_two_dtypes_are_compared_as_numbers(a: torch.dtype, b: torch.dtype) -> None:
    numbers = torch.tensor([0, 1, 0, 1, 1, 0])
    assert compare(numbers.to(a), numbers.to(b)) == Tally(6)
    other = numbers.to(b).clone()
    other[3] = 0
    found = compare(numbers.to(a), other)
    assert (found.num_different, found.first, found.max_abs) == (1, 3, 1)


def test_a_packed_type_is_compared_as_bytes() -> None:
    a, b = bytes(range(64)), bytes([*range(63), 99])
    found = Comparer("float4_e2m1fn_x2", "float4_e2m1fn_x2").compare(block(a), block(b), 0)
    assert (found.num_different, found.first, found.max_abs) == (1, 63, None)


@settings(max_examples=80, deadline=None)
@given(
    dtype=st.sampled_from(["float32", "bfloat16", "int16", "float64", "complex64"]),
    seed=st.integers(0, 2**32),
    count=st.integers(1, 200_000),
    num=st.integers(0, 50),
    cuts=st.integers(1, 4),
)
def test_tallies_add_up(dtype: str, seed: int, count: int, num: int, cuts: int) -> None:
    """Random bits, random differences; in parts and as one, and beside plain numpy."""
    rng = np.random.default_rng(seed)
    kind = numpy_dtype(dtype)
    a = rng.integers(0, 256, count * kind.itemsize).astype(np.uint8)
    b = a.copy()
    at = np.unique(rng.integers(0, count, num))
    for i in at.tolist():
        b[i * kind.itemsize + int(rng.integers(kind.itemsize))] ^= 1 << int(rng.integers(8))
    comparer = Comparer(dtype, dtype)
    borders = [0, *sorted(rng.integers(0, count, cuts).tolist()), count]
    found = Tally()
    for first, last in itertools.pairwise(borders):
        span = slice(first * kind.itemsize, last * kind.itemsize)
        found = found + comparer.compare(a[span], b[span], first)
    assert found == comparer.compare(a, b, 0)
    assert found.num_compared == count
    assert found.num_different == len(at)
    assert found.first == (int(at[0]) if len(at) else None)
    wide = np.complex128 if dtype == "complex64" else np.float64
    with np.errstate(all="ignore"):
        x, y = a.view(kind)[at].astype(wide), b.view(kind)[at].astype(wide)
        gap = np.abs(x - y)
    finite = np.isfinite(x) & np.isfinite(y)
    assert found.max_abs == (gap[finite].max() if finite.any() else None)
    if finite.any():
        assert found.max_abs_at == at[finite][np.argmax(gap[finite])]


def test_index_of_a_position() -> None:
    shape = (3, 4, 5)
    for position in range(60):
        assert index_of(position, shape) == tuple(map(int, np.unravel_index(position, shape)))
    assert index_of(0, ()) == ()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "tolerance",
    [Tolerance(), Tolerance(0.0), Tolerance(1e-3), Tolerance(1e-3, 1e-2), Tolerance(1e-30)],
    ids=str,
)
def test_few_passes_give_what_many_do(
    dtype: str, tolerance: Tolerance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Floats that all differ, by little, by much, in sign, and as no number; and some that do."""
    rng = np.random.default_rng(7)
    size = numpy_dtype(dtype).itemsize
    unsigned = np.dtype(f"<u{size}")
    num_quick = 0
    for changed in ("all", "some"):
        for what in ("steps", "near", "any", "one odd", "edge", "half", "tiny"):
            a = rng.standard_normal(4097).astype(numpy_dtype(dtype)).view(unsigned)
            if what == "any":
                a = rng.integers(0, 1 << (8 * size - 1), 4097, dtype=np.uint64).astype(unsigned)
            if what == "tiny":
                a = rng.integers(0, 99, 4097).astype(unsigned)
            most = {"near": 1 << (2 * size), "any": 1 << (8 * size - 2), "one odd": 9, "tiny": 99}
            step = rng.integers(1, most.get(what, 3), len(a)).astype(unsigned)
            if what in ("edge", "half"):
                # As far apart as the tolerance allows, or a step more or less; exactly half.
                times = 1 - (tolerance.rtol_of(dtype) if what == "edge" else 0.5)
                x = a.view(numpy_dtype(dtype)).astype(np.float64) * times
                edge = x.astype(numpy_dtype(dtype)).view(unsigned)
                step = a ^ (edge if what == "half" else edge + step - 2)
            step[(rng.random(len(a)) < 0.5) & (changed == "some")] = 0
            b = a ^ step
            if what == "one odd":
                b[77] = rng.choice([0, 1 << (8 * size - 1), (1 << (8 * size - 1)) - 1])
            found = []
            for quick in (float_gaps, lambda *_, **__: None):

                def counted(*args: Any, quick: Any = quick, **more: Any) -> Any:
                    nonlocal num_quick
                    gaps = quick(*args, **more)
                    num_quick += gaps is not None
                    return gaps

                monkeypatch.setattr(elements, "float_gaps", counted)
                found.append(
                    Comparer(dtype, dtype, tolerance).compare(a.view(np.uint8), b.view(np.uint8), 5)
                )
            assert found[0] == found[1], (changed, what)
    # A tolerance that is lost in rounding is left to the many.
    assert (num_quick >= 4) == (tolerance.rtol != 1e-30)


def test_a_sum_of_bits_is_the_sum_of_each() -> None:
    rng = np.random.default_rng(3)
    for size in (1, 2, 4, 8):
        for count in (1, 2, 7, 1000):
            data = rng.integers(0, 256, size * count).astype(np.uint8)
            expected = sum(data.view(f"<u{size}").tolist()) % (1 << 64)
            assert elements._sum(data, size) == expected
