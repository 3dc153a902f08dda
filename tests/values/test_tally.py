"""`Tally`: however the bytes are cut and wherever they stand, the sums are the same."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.checkpoint.payload.tensor import StoredTensor
from inspector.values.places import Places, places_of
from inspector.values.tally import ChunkTally, Summary
from tests.values.test_nonfinite import stored


def places(tensor: StoredTensor, holes: tuple = ()) -> Places:
    found = places_of(tensor, holes)
    assert found is not None
    return found


def summed(
    tensor: torch.Tensor, cuts: tuple[int, ...] = (), holes: tuple = (), order: str = "little"
) -> Summary:
    described, raw = stored(tensor)
    tally = ChunkTally(places(described, holes), order)
    size = tensor.element_size()
    borders = [0, *sorted(min(cut * size, len(raw)) for cut in cuts), len(raw)]
    for a, b in itertools.pairwise(borders):
        tally.feed(memoryview(raw)[a:b])
    return tally.result()


def assert_alike(a: Summary, b: Summary) -> None:
    assert a.num_read == b.num_read
    assert a.non_finite == b.non_finite
    assert (a.moments.count, a.moments.low, a.moments.high) == (
        b.moments.count, b.moments.low, b.moments.high,
    )  # fmt: skip
    scale = max(a.moments.rms, 1e-300) if a.moments.count else 1.0
    assert abs(a.moments.mean - b.moments.mean) <= 1e-12 * scale
    assert abs(a.moments.std - b.moments.std) <= 1e-12 * scale or a.moments.count < 2
    assert a.moments.l2 == pytest.approx(b.moments.l2, rel=1e-12)
    assert a.histogram.num_zero == b.histogram.num_zero
    assert a.histogram.keys.tolist() == b.histogram.keys.tolist()
    assert a.histogram.counts.tolist() == b.histogram.counts.tolist()


FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=300)


@settings(max_examples=150, deadline=None)
@given(
    FLOATS,
    st.lists(st.integers(0, 300), max_size=6),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float8_e4m3fn]),
)
def test_blocks_of_any_size(values: list[float], cuts: list[int], dtype: torch.dtype) -> None:
    tensor = torch.tensor(values, dtype=torch.float64).to(dtype)
    assert_alike(summed(tensor, tuple(cuts)), summed(tensor))


@settings(max_examples=150, deadline=None)
@given(FLOATS, st.lists(st.integers(0, 300), max_size=6))
def test_parts_add_up(values: list[float], cuts: list[int]) -> None:
    """Summaries of pieces of a tensor, added in any order, are that of the whole."""
    tensor = torch.tensor(values)
    borders = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    total = Summary.empty()
    for a, b in list(itertools.pairwise(borders))[::-1]:
        part = summed(tensor[a:b].clone())
        at = part.non_finite.moved((a,))
        total += Summary(part.num_read, part.moments, part.histogram, at)
    assert_alike(total, summed(tensor))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_is_almost_zero_keeps_its_sign_beside_zeros_of_both(
    dtype: torch.dtype, sign: float
) -> None:
    least = 2.0**-149 if dtype == torch.float32 else 2.0**-1074
    tensor = torch.tensor([0.0, -0.0, sign * least, -0.0], dtype=dtype)
    found = summed(tensor).histogram
    assert (found.num_zero, found.counts.tolist()) == (3, [1])
    assert (found.keys[0] >= 0x8000) == (sign < 0)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_planted_nan_at_any_index(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    order = data.draw(st.permutations(range(len(shape))))
    dtype = data.draw(
        st.sampled_from(
            [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64]
        )
    )
    tensor = torch.zeros([shape[d] for d in order], dtype=dtype)
    tensor = tensor.permute([order.index(d) for d in range(len(shape))])
    assert tensor.shape == shape
    index = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    tensor[index] = float("nan")
    found = summed(tensor, tuple(data.draw(st.lists(st.integers(0, 999), max_size=3))))
    assert found.non_finite.first_nan == index
    assert found.non_finite.num_nan == 1
    assert found.moments.count == tensor.numel() - 1 == found.histogram.num_zero


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_holes_do_not_count(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
    tensor = torch.randn(shape)
    counts = torch.ones(shape, dtype=torch.bool)
    holes = []
    for _ in range(data.draw(st.integers(1, 3))):
        low = tuple(data.draw(st.integers(0, n)) for n in shape)
        high = tuple(data.draw(st.integers(a, n)) for a, n in zip(low, shape, strict=True))
        counts[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = False
        holes.append((low, high))
    found = summed(tensor, (5, 17), tuple(holes))
    wanted = tensor[counts].double()
    assert found.num_read == found.moments.count == len(wanted)
    assert found.moments.l2 == pytest.approx(torch.linalg.vector_norm(wanted).item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64, torch.float16])
def test_big_endian(dtype: torch.dtype) -> None:
    tensor = torch.arange(-20, 30).to(dtype)
    described, _ = stored(tensor)
    raw = tensor.numpy().astype(tensor.numpy().dtype.newbyteorder(">")).tobytes()
    tally = ChunkTally(places(described), "big")
    tally.feed(memoryview(raw))
    assert_alike(tally.result(), summed(tensor))


def test_the_patterns_way_and_the_numbers_way_agree() -> None:
    """Few elements of two bytes are converted, many are counted by pattern."""
    few = torch.randn(10_000).to(torch.bfloat16)
    many = few.repeat(2)
    a, b = summed(few), summed(many)
    assert b.moments.count == 2 * a.moments.count
    assert (a.histogram.counts * 2).tolist() == b.histogram.counts.tolist()
    assert b.moments.mean == pytest.approx(a.moments.mean, rel=1e-10)
    assert b.moments.deviation == pytest.approx(a.moments.deviation, rel=1e-12)


def test_a_sum_that_leaves_float64() -> None:
    tensor = torch.full((10,), 1.5e308, dtype=torch.float64)
    assert summed(tensor).moments.mean == pytest.approx(1.5e308)


def test_an_unaligned_block() -> None:
    values = np.arange(100, dtype=np.float64)
    raw = memoryview(b"x" + values.tobytes())[1:]
    tally = ChunkTally(places(StoredTensor("float64", (100,), (1,), 0, "0", 800)))
    tally.feed(raw)
    assert tally.result().moments.mean == 49.5
