"""torch's chunk rule and grids, against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset
from torch.distributed.tensor.placement_types import _StridedShard

from inspector.layout.cuts import analyse
from inspector.layout.geometry import (
    grid_cuts,
    intersect,
    nested_chunk_bounds,
    num_pieces,
    torch_chunk_bounds,
    unique,
    volumes,
)


@given(st.integers(0, 300), st.integers(1, 64))
def test_chunk_rule_is_torch_chunk(size: int, num: int) -> None:
    starts, lengths = torch_chunk_bounds(size, num)
    pieces = [len(p) for p in torch.arange(size).chunk(num)] if size else []
    assert lengths[lengths > 0].tolist() == pieces
    assert (starts[lengths == 0] == size).all()
    assert num_pieces(size, (num,)) == len(pieces)


@given(st.integers(0, 300), st.integers(1, 64))
def test_chunk_rule_is_dtensor_shard(size: int, num: int) -> None:
    starts, lengths = torch_chunk_bounds(size, num)
    for rank in range(num):
        length, offset = Shard.local_shard_size_and_offset(size, num, rank)
        assert (lengths[rank], starts[rank]) == (length, offset)


@given(st.integers(1, 200), st.integers(1, 8), st.integers(1, 8), st.booleans())
@settings(deadline=None)
def test_two_axes_on_one_dim(size: int, first: int, second: int, strided: bool) -> None:
    axes = (_StridedShard(0, split_factor=second) if strided else Shard(0), Shard(0))
    shards = (second, first) if strided else (first, second)
    # Where tensor parallelism cuts unevenly, torch may record boxes of _StridedShard that overlap
    # or differ from the local tensors; then dcp.save refuses the plan.
    assume(not strided or size % second == 0)
    starts, lengths = nested_chunk_bounds(size, shards)
    assert num_pieces(size, shards) == int((lengths > 0).sum())
    boxes = {}
    for a in range(first):
        for b in range(second):
            local, offset = _compute_local_shape_and_global_offset(
                (size,), (first, second), [a, b], axes
            )
            boxes[b * first + a if strided else a * second + b] = (offset[0], local[0])
    assert dict(enumerate(zip(starts.tolist(), lengths.tolist(), strict=True))) == boxes


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=3),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.randoms(),
)
@settings(deadline=None)
def test_grid_of_any_sharding(shape: list[int], sizes: list[int], random: object) -> None:
    dims = list(range(len(shape)))
    placements = [Shard(dims.pop(0)) if dims else Replicate() for _ in sizes]
    boxes = set()
    for coordinate in np.ndindex(*sizes):
        local, offset = _compute_local_shape_and_global_offset(
            tuple(shape), tuple(sizes), [int(c) for c in coordinate], placements
        )
        boxes.add((tuple(offset), tuple(local)))
    rows = sorted(boxes)
    random.shuffle(rows)  # type: ignore[attr-defined]
    offsets = np.asarray([o for o, _ in rows], np.int64)
    extents = np.asarray([s for _, s in rows], np.int64)
    cuts = grid_cuts(offsets, extents, shape)
    assert cuts is not None
    for dim, size in enumerate(shape):
        num = sizes[dim] if dim < len(sizes) else 1
        starts, lengths = torch_chunk_bounds(size, num)
        assert cuts[dim].tolist() == [*starts[lengths > 0].tolist(), size]
    assert not analyse(offsets, extents, shape).problem
    # One box fewer or twice is no grid any more, unless it was empty.
    for row in range(len(rows)):
        if volumes(extents[row : row + 1])[0] == 0:
            continue
        fewer = np.delete(offsets, row, axis=0), np.delete(extents, row, axis=0)
        assert grid_cuts(*fewer, shape) is None
        twice = np.append(offsets, offsets[row : row + 1], 0)
        assert grid_cuts(twice, np.append(extents, extents[row : row + 1], 0), shape) is None


@pytest.mark.parametrize(
    ("offsets", "sizes", "problem"),
    [
        ([[0], [4]], [[4], [3]], "a gap"),
        ([[0], [4]], [[5], [4]], "an overlap"),
        ([[0], [4]], [[4], [5]], "outside"),
        ([[0], [3]], [[4], [4]], "outside|grid|gap"),
        ([[0], [4], [8], [8]], [[4], [4], [0], [0]], "twice"),
        ([[0], [4], [2]], [[4], [4], [0]], "empty chunk"),
        ([], [], "no chunk"),
    ],
)
def test_problems(offsets: list[list[int]], sizes: list[list[int]], problem: str) -> None:
    boxes = np.asarray(offsets, np.int64).reshape(-1, 1), np.asarray(sizes, np.int64).reshape(-1, 1)
    cut = analyse(*boxes, (8,))
    assert cut.starts is None
    assert any(word in cut.problem for word in problem.split("|"))


def test_no_dims_and_no_elements() -> None:
    none = np.zeros((1, 0), np.int64)
    assert grid_cuts(none, none, ()) == ()
    assert grid_cuts(np.zeros((2, 0), np.int64), np.zeros((2, 0), np.int64), ()) is None
    zero = np.zeros((1, 1), np.int64)
    assert grid_cuts(zero, zero, (0,)) is not None
    assert analyse(zero, zero, (0,)).touched == ()
    huge = np.asarray([[2**62]], np.int64)
    assert "absurdly" in analyse(zero, huge, (2**62,)).problem


def test_intersect() -> None:
    a, size = np.asarray([[0, 0], [4, 4]]), np.asarray([[4, 4], [4, 4]])
    lower, common, meets = intersect(a, size, np.asarray([2, 2]), np.asarray([2, 4]))
    assert meets.tolist() == [True, False]
    assert (lower[0].tolist(), common[0].tolist()) == ([2, 2], [2, 2])


@pytest.mark.parametrize("span", [3, 1 << 10, 1 << 40])
@pytest.mark.parametrize("num", [0, 7, 1 << 16])
def test_unique_is_that_of_numpy(num: int, span: int) -> None:
    values = np.random.default_rng(1).integers(-span, span, (num, 2))
    assert np.array_equal(unique(values), np.unique(values))
    assert unique(values).dtype == values.dtype
    assert np.array_equal(unique(values.astype(np.int32)), np.unique(values.astype(np.int32)))
