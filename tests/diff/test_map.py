"""The map of differences: which cells of a tensor differ, and in how many elements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inspector.checkpoint.payload.source import PayloadError
from inspector.diff.map import difference_map
from inspector.diff.structure import Structure, compare_structure
from inspector.errors import Cancelled
from tests.conftest import SAMPLES
from tests.diff.making import shards, side, tiling, write


def structure(tmp_path: Path, x: torch.Tensor, y: torch.Tensor) -> Structure:
    a = write(tmp_path / "a", {"t": x}, {"t": tiling(x.shape, 1)})
    b = write(tmp_path / "b", {"t": y}, {"t": tiling(y.shape, 2)})
    return compare_structure(side(a), side(b))


@pytest.mark.parametrize("shape", [(), (7,), (9, 13), (3, 4, 50), (2, 1, 3, 5)], ids=str)
@pytest.mark.parametrize("cells", [(1, 1), (3, 4), (100, 100)], ids=str)
def test_counts_are_those_of_the_plane(
    tmp_path: Path, shape: tuple[int, ...], cells: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(5)
    x = torch.zeros(shape)
    y = (torch.rand(shape, generator=generator) < 0.3).float()
    both = structure(tmp_path, x, y)
    found = difference_map(both, both.pairs[0], *cells)
    plane = y.reshape(-1, shape[-1] if shape else 1).numpy() != 0
    height, width = plane.shape
    assert found.num_different.shape == (min(cells[0], height), min(cells[1], width))
    for i, (top, bottom) in enumerate(zip(found.row_cuts, found.row_cuts[1:], strict=False)):
        for j, (left, right) in enumerate(
            zip(found.column_cuts, found.column_cuts[1:], strict=False)
        ):
            assert found.num_different[i, j] == plane[top:bottom, left:right].sum()
    assert found.num_elements.sum() == plane.size
    assert np.all(found.num_elements > 0)


def test_many_blocks_and_threads(tmp_path: Path) -> None:
    x = torch.zeros(3000, 1000)
    y = x.clone()
    y[2999, 999] = y[0, 0] = 1
    a = write(tmp_path / "a", {"t": x}, {"t": shards(x.shape, 0, 4)})
    b = write(tmp_path / "b", {"t": y}, {"t": shards(x.shape, 1, 4)})
    both = compare_structure(side(a), side(b))
    for workers in (1, 3):
        found = difference_map(both, both.pairs[0], 10, 20, workers=workers)
        assert np.argwhere(found.num_different).tolist() == [[0, 0], [9, 19]]


def test_another_dtype_is_compared_as_numbers(tmp_path: Path) -> None:
    x = torch.arange(12.0).reshape(3, 4)
    y = x.double()
    y[1, 2] += 0.5
    both = structure(tmp_path, x, y)
    found = difference_map(both, both.pairs[0], 3, 4)
    assert np.argwhere(found.num_different).tolist() == [[1, 2]]


def test_damage_and_cancelling_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = compare_structure(
        side(SAMPLES / "hsdp_2x2"), side(SAMPLES / "broken" / "payload_zeroed")
    )
    with pytest.raises(PayloadError):
        for pair in both.pairs:
            difference_map(both, pair, 4, 4)
    monkeypatch.setattr("inspector.checkpoint.workers._POLL_S", 0.001)
    x = torch.zeros(4000, 2000)
    both = structure(tmp_path, x, x)
    with pytest.raises(Cancelled):
        difference_map(both, both.pairs[0], 4, 4, progress=lambda _: True)
