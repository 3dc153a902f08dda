"""Finding a number's place, and planes over any two dims: as numpy has them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.find.locate import folder_of
from inspector.errors import Cancelled, UsageError
from inspector.values import nonfinite as find
from inspector.values.nonfinite import boxes_in_order, find_first
from inspector.values.slices import heat, plane_of, window
from inspector.values.stats import collect_stats
from tests.diff.making import shards, tiling, write

SHAPES = [(), (7,), (5, 6), (3, 4, 5), (2, 3, 4, 5)]


@given(st.lists(st.integers(1, 5), max_size=4), st.integers(1, 40))
def test_boxes_cover_a_shape_in_c_order(shape: list[int], most: int) -> None:
    numbers = np.arange(int(np.prod(shape, dtype=int))).reshape(shape)
    seen = []
    for low, sizes in boxes_in_order(shape, most):
        part = numbers[tuple(slice(a, a + n) for a, n in zip(low, sizes, strict=True))]
        assert part.shape == tuple(sizes)
        assert part.size <= most
        seen += part.reshape(-1).tolist()
    assert seen == list(range(numbers.size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.complex64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_least_and_largest_are_found_where_numpy_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(find, "_BOX_BYTES", 64)
    torch.manual_seed(len(shape))
    tensor = (torch.randn(shape) * 5).round().to(dtype)
    if dtype is torch.int64 and tensor.numel() > 6:
        # Equal as float64, and not equal.
        tensor.view(-1)[-1], tensor.view(-1)[-2] = 2**62 + 1, 2**62
    folder = write(tmp_path / "ck", {"w": tensor}, {"w": tiling(shape, 1)})
    checkpoint, storage = open_checkpoint(str(folder)), folder_of(str(folder))
    stats = collect_stats(checkpoint, storage).tensors[0]
    numbers = (tensor.abs() if tensor.is_complex() else tensor.double()).numpy()
    if dtype is torch.int64:
        numbers = tensor.numpy()
    for number, at in ((stats.low, numbers.argmin()), (stats.high, numbers.argmax())):
        assert number is not None
        found = find_first(checkpoint, storage, checkpoint.tensors[0], number)
        assert found == tuple(int(i) for i in np.unravel_index(at, shape))
    assert find_first(checkpoint, storage, checkpoint.tensors[0], 12345) is None


def test_a_search_tells_how_far_it_is_and_stops(tmp_path: Path) -> None:
    folder = write(tmp_path / "ck", {"w": torch.zeros(40, 40)}, {"w": shards((40, 40), 0, 4)})
    checkpoint, storage = open_checkpoint(str(folder)), folder_of(str(folder))
    told = []

    def stop(done: int, total: int) -> bool:
        told.append((done, total))
        return True

    with pytest.raises(Cancelled):
        find_first(checkpoint, storage, checkpoint.tensors[0], 1.0, progress=stop)
    assert told == [(0, 6400)]


def test_any_two_dims_are_rows_and_columns(tmp_path: Path) -> None:
    tensor = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    folder = write(tmp_path / "ck", {"w": tensor}, {"w": tiling(tensor.shape, 7, 12)})
    where = open_checkpoint(str(folder)), folder_of(str(folder))
    entry = where[0].tensors[0]
    for dims in itertools.permutations(range(4), 2):
        plane = plane_of(entry.shape, dims)
        moved = np.moveaxis(tensor.numpy(), dims, (2, 3))
        assert plane.leading == moved.shape[:2]
        for leading in np.ndindex(*plane.leading):
            rows, columns = range(plane.rows), range(plane.columns)
            got = window(*where, entry, leading, rows, columns, dims=dims)
            assert got.held.all()
            assert (got.values == moved[leading]).all()
            drawn = heat(*where, entry, leading, plane.rows, plane.columns, dims=dims)
            assert (drawn.mean == moved[leading]).all()
            for row, column in np.ndindex(plane.rows, plane.columns):
                index = plane.index(leading, row, column)
                assert tensor[index] == moved[leading][row, column]
                assert plane.cell(index) == (tuple(leading), row, column)
    for dims in ((0, 0), (0, 4), (-1, 2)):
        with pytest.raises(UsageError):
            plane_of(entry.shape, dims)
