"""Cover analysis against painting every element, one by one."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.checkpoint.model import TensorColumns
from inspector.checks.metadata import cover, tiling
from inspector.checks.metadata.cover import Box, analyse
from inspector.checks.metadata.tiling import chunk_volumes, unproven
from tests.conftest import some_fast

Boxes = list[tuple[tuple[int, ...], tuple[int, ...]]]


def columns_of(tensors: list[tuple[tuple[int, ...], Boxes]]) -> TensorColumns:
    ndims = [len(shape) for shape, _ in tensors]
    counts = [len(boxes) for _, boxes in tensors]
    flat = [(o, s) for _, boxes in tensors for o, s in boxes]

    def starts(values: list[int]) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(values)]).astype(np.int64)

    return TensorColumns(
        fqns=[f"t{i}" for i in range(len(tensors))],
        properties=[("float32", "strided", False, "contiguous")],
        property_id=np.zeros(len(tensors), np.int32),
        shapes=np.asarray([n for shape, _ in tensors for n in shape], np.int64),
        dim_start=starts(ndims),
        chunk_start=starts(counts),
        box_start=starts([n * c for n, c in zip(ndims, counts, strict=True)]),
        offsets=np.asarray([n for o, _ in flat for n in o], np.int64),
        sizes=np.asarray([n for _, s in flat for n in s], np.int64),
        file=np.zeros(len(flat), np.int32),
        byte_offset=np.zeros(len(flat), np.int64),
        byte_length=np.zeros(len(flat), np.int64),
    )


def arrays(boxes: Boxes, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.asarray([o for o, _ in boxes], np.int64).reshape(len(boxes), ndim)
    return offsets, np.asarray([s for _, s in boxes], np.int64).reshape(len(boxes), ndim)


def painted(boxes: Boxes, shape: tuple[int, ...]) -> dict[str, object]:
    """The same answers by brute force."""
    times = np.zeros(shape, np.int64)
    seen: set[object] = set()
    duplicates, outside, num_outside = [], [], 0
    for i, (offset, size) in enumerate(boxes):
        if not all(size):
            continue
        region = tuple(slice(o, o + n) for o, n in zip(offset, size, strict=True))
        ends = list(zip(offset, size, shape, strict=True))
        inside = math.prod(max(min(o + n, d) - o, 0) for o, n, d in ends)
        if any(o + n > d for o, n, d in ends):
            outside.append(i)
            num_outside += math.prod(size) - inside
        if (offset, size) in seen:
            duplicates.append(i)
            continue
        seen.add((offset, size))
        times[region] += 1
    return {
        "times": times,
        "num_gap": int((times == 0).sum()),
        "num_overlap": int((times > 1).sum()),
        "duplicates": tuple(duplicates),
        "outside": tuple(outside),
        "num_outside": num_outside,
    }


@st.composite
def tilings(draw: st.DrawFn, max_dims: int = 4) -> tuple[tuple[int, ...], Boxes]:
    """A tensor cut up by random guillotine cuts (no grid), then perhaps broken."""
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=max_dims)))
    boxes: Boxes = [((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 6))):
        i = draw(st.integers(0, len(boxes) - 1))
        offset, size = boxes[i]
        dims = [d for d, n in enumerate(size) if n > 1]
        if not dims:
            continue
        dim = draw(st.sampled_from(dims))
        at = draw(st.integers(1, size[dim] - 1))
        low = (offset, (*size[:dim], at, *size[dim + 1 :]))
        moved = (*offset[:dim], offset[dim] + at, *offset[dim + 1 :])
        boxes[i : i + 1] = [low, (moved, (*size[:dim], size[dim] - at, *size[dim + 1 :]))]
    box = st.tuples(
        st.tuples(*[st.integers(0, n + 1) for n in shape]),
        st.tuples(*[st.integers(0, n + 2) for n in shape]),
    )
    for _ in range(draw(st.integers(0, 3))):
        what = draw(st.sampled_from(["drop", "double", "add", "empty", "none"]))
        if what == "drop" and boxes:
            boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        elif what == "double" and boxes:
            boxes.append(draw(st.sampled_from(boxes)))
        elif what == "add":
            boxes.append(draw(box))
        elif what == "empty" and shape:
            boxes.append((shape, (0,) * len(shape)))
    return shape, draw(st.permutations(boxes))


def check_against_paint(shape: tuple[int, ...], boxes: Boxes) -> None:
    expected = painted(boxes, shape)
    found = analyse(*arrays(boxes, len(shape)), shape)
    assert found.complete
    for name in ("num_gap", "num_overlap", "duplicates", "outside", "num_outside"):
        assert getattr(found, name) == expected[name], name
    times = expected["times"]
    assert isinstance(times, np.ndarray)
    for boxes_found, wanted, num in (
        (found.gaps, times == 0, found.num_gap),
        ([o.box for o in found.overlaps], times > 1, found.num_overlap),
    ):
        seen = np.zeros(shape, bool)
        for one in boxes_found:
            region = tuple(slice(o, o + n) for o, n in zip(one.offsets, one.sizes, strict=True))
            assert wanted[region].all()
            assert not seen[region].any()
            seen[region] = True
        assert len(boxes_found) == cover._MAX_BOXES or seen.sum() == num
    for overlap in found.overlaps:
        a, b = (boxes[i] for i in overlap.chunks)
        assert a != b
        for offset, size in (a, b):
            assert all(
                o <= x < o + n for o, n, x in zip(offset, size, overlap.box.offsets, strict=True)
            )


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(tilings())
def test_analyse_agrees_with_painting(case: tuple[tuple[int, ...], Boxes]) -> None:
    check_against_paint(*case)


@settings(max_examples=300, deadline=None)
@given(tilings())
def test_a_region_may_be_cut_in_two(case: tuple[tuple[int, ...], Boxes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cover, "_MIN_CELLS", 1)
        patch.setattr(cover, "_CELLS_PER_CORNER", 0)
        check_against_paint(*case)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(tilings())
def test_a_tensor_may_be_taken_slab_by_slab(case: tuple[tuple[int, ...], Boxes]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cover, "_MAX_CORNERS", 6)
        patch.setattr(cover, "_FEW_DIMS", 1)
        check_against_paint(*case)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(tilings(3), min_size=1, max_size=6))
def test_unproven_are_those_that_are_not_exact(
    cases: list[tuple[tuple[int, ...], Boxes]],
) -> None:
    columns = columns_of(cases)
    wrong = [
        i
        for i, (shape, boxes) in enumerate(cases)
        if not analyse(*arrays(boxes, len(shape)), shape).exact
    ]
    assert unproven(columns).tolist() == wrong
    volumes = [math.prod(s) for _, boxes in cases for _, s in boxes]
    assert chunk_volumes(columns).tolist() == volumes


@settings(max_examples=60, deadline=None)
@given(st.lists(tilings(3), min_size=2, max_size=6), st.integers(1, 9))
def test_tensors_may_be_looked_at_some_at_a_time(
    cases: list[tuple[tuple[int, ...], Boxes]], most: int
) -> None:
    whole = columns_of(cases)
    expected = unproven(whole).tolist(), chunk_volumes(whole).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "_MAX_CHUNKS", most)
        parts = columns_of(cases)
        assert (unproven(parts).tolist(), chunk_volumes(parts).tolist()) == expected
        assert unproven(parts, by_file=True).tolist() == unproven(whole, by_file=True).tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(tilings(3), min_size=1, max_size=4))
def test_the_same_box_of_two_owners_is_no_duplicate(
    cases: list[tuple[tuple[int, ...], Boxes]],
) -> None:
    wrong = []
    for i, (shape, boxes) in enumerate(cases):
        found = analyse(*arrays(boxes, len(shape)), shape, np.arange(len(boxes)))
        assert not found.duplicates
        if not found.exact:
            wrong.append(i)
    columns = columns_of(cases)
    assert (
        unproven(replace(columns, file=np.arange(columns.num_chunks)), by_file=True).tolist()
        == wrong
    )
    assert unproven(columns, by_file=True).tolist() == unproven(columns).tolist()


def test_equal_volume_is_no_cover() -> None:
    found = analyse(*arrays([((0, 0), (2, 2)), ((1, 0), (2, 2))], 2), (4, 2))
    assert (found.num_gap, found.num_overlap) == (2, 2)
    assert found.gaps == (Box((3, 0), (1, 2)),)
    assert found.overlaps[0].box == Box((1, 0), (1, 2))


def test_a_pinwheel_is_no_grid_and_covers() -> None:
    wheel: Boxes = [
        ((0, 0), (1, 2)),
        ((0, 2), (2, 1)),
        ((2, 1), (1, 2)),
        ((1, 0), (2, 1)),
        ((1, 1), (1, 1)),
    ]
    assert analyse(*arrays(wheel, 2), (3, 3)).exact
    assert not len(unproven(columns_of([((3, 3), wheel)])))


def test_huge_shapes_are_counted_in_whole_numbers() -> None:
    shape = (1 << 20, 1 << 20)
    half = (1 << 19, 1 << 20)
    found = analyse(*arrays([((0, 0), half)], 2), shape)
    assert found.num_gap == 1 << 39
    assert type(found.num_gap) is int
    corner: Boxes = [((0, 0), shape), (((1 << 20) - 1, (1 << 20) - 1), (1, 1))]
    assert analyse(*arrays(corner, 2), shape).num_overlap == 1
    wide = ((1 << 61) - 1,)
    assert analyse(*arrays([((0,), (5,))], 1), wide).num_gap == (1 << 61) - 6


def test_no_chunks_and_no_elements() -> None:
    assert analyse(*arrays([], 2), (3, 4)).num_gap == 12
    assert analyse(*arrays([], 0), ()).num_gap == 1
    assert analyse(*arrays([((), ())], 0), ()).exact
    assert analyse(*arrays([((), ()), ((), ())], 0), ()).duplicates == (1,)
    assert analyse(*arrays([], 2), (0, 4)).exact
    assert analyse(*arrays([((8,), (0,)), ((0,), (8,))], 1), (8,)).exact


def grid(*pieces: int) -> np.ndarray:
    axes = np.meshgrid(*[np.arange(n) for n in pieces], indexing="ij")
    return np.stack(axes, axis=-1).reshape(-1, len(pieces))


@pytest.mark.slow
@pytest.mark.parametrize(
    "pieces", some_fast([(1_000_000,), (1000, 1000), (100, 100, 100)], [(100, 100, 100)])
)
def test_a_million_chunks_take_seconds(pieces: tuple[int, ...]) -> None:
    size = np.arange(3, 3 + len(pieces))
    shape = tuple((np.asarray(pieces) * size).tolist())
    offsets = grid(*pieces) * size
    sizes = np.tile(size, (len(offsets), 1))
    columns = TensorColumns(
        ["w"],
        [("float32", "strided", False, "contiguous")],
        np.zeros(1, np.int32),
        np.asarray(shape),
        np.asarray([0, len(shape)]),
        np.asarray([0, len(offsets)]),
        np.asarray([0, offsets.size]),
        offsets.ravel(),
        sizes.ravel(),
        np.zeros(len(offsets), np.int32),
        np.zeros(len(offsets), np.int64),
        np.zeros(len(offsets), np.int64),
    )
    start = time.process_time()
    assert not len(unproven(columns))
    assert time.process_time() - start < 4
    keep = np.ones(len(offsets), bool)
    keep[[5, 500_000]] = False
    start = time.process_time()
    found = analyse(offsets[keep], sizes[keep], shape)
    assert time.process_time() - start < 15
    assert found.num_gap == 2 * math.prod(size.tolist())
    assert len(found.gaps) == 2


def test_boxes_made_to_cross_one_another_are_given_up_in_time() -> None:
    rng = np.random.default_rng(0)
    offsets = rng.integers(0, 1 << 20, (5000, 2))
    sizes = rng.integers(1, 1 << 19, (5000, 2))
    found = analyse(offsets, sizes, (1 << 21, 1 << 21), max_work=100_000)
    assert not found.complete
    assert not found.exact


def test_boxes_of_many_dims_are_bounded_too() -> None:
    rng = np.random.default_rng(0)
    offsets = rng.integers(0, 1 << 10, (200, 30))
    sizes = rng.integers(1, 1 << 10, (200, 30))
    start = time.process_time()
    found = analyse(offsets, sizes, (1 << 11,) * 30, max_work=20_000_000)
    assert time.process_time() - start < 30
    assert not found.complete
