from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inspector.tui.tensors.chunk_layout import GAP, OUTSIDE, ChunkGrid, Mark, layout

LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"


def lay(
    shape: tuple[int, ...], boxes: list[tuple[Any, Any]], w: int, h: int, **kw: Any
) -> ChunkGrid:
    offsets = np.array([o for o, _ in boxes], np.int64).reshape(len(boxes), len(shape))
    sizes = np.array([s for _, s in boxes], np.int64).reshape(len(boxes), len(shape))
    return layout(shape, offsets, sizes, w, h, **kw)


def picture(grid: ChunkGrid) -> list[str]:
    signs = {GAP: "·", OUTSIDE: " "}
    return ["".join(signs.get(v, LETTERS[v % 36]) for v in row) for row in grid.owner.tolist()]


def pairs(cuts: list[int]) -> list[tuple[int, int]]:
    return [(cuts[i], cuts[i + 1]) for i in range(len(cuts) - 1)]


def rows_of(n: int, rows: int, cols: int) -> list[tuple[Any, Any]]:
    """Shard(0) over n ranks, as torch cuts."""
    per = -(-rows // n)
    starts = [min(i * per, rows) for i in range(n)]
    return [((a, 0), (max(0, min(per, rows - a)), cols)) for a in starts]


def test_shard_0_is_stripes() -> None:
    grid = lay((8, 8), rows_of(4, 8, 8), 10, 4)
    assert picture(grid) == ["00000000", "11111111", "22222222", "33333333"]
    assert (grid.kind, grid.per_cell, grid.rows.at.tolist()) == ("plane", 1, [0, 1, 2, 3, 4])


def test_an_uneven_tail_is_thin_but_seen_and_empty_chunks_are_listed() -> None:
    uneven = lay((100, 4), [((0, 0), (99, 4)), ((99, 0), (1, 4))], 8, 10)
    assert [r[0] for r in picture(uneven)].count("1") == 1
    assert lay((5, 4), rows_of(8, 5, 4), 8, 10).empty.tolist() == [5, 6, 7]


def test_a_grid_of_chunks() -> None:
    boxes = [((i, j), (2, 4)) for i in (0, 2) for j in (0, 4)]
    assert picture(lay((4, 8), boxes, 12, 4)) == ["000000111111"] * 2 + ["222222333333"] * 2


def test_a_band_wraps_only_where_that_shows_more() -> None:
    few = lay((8,), [((i * 2,), (2,)) for i in range(4)], 40, 5)
    assert (few.kind, few.owner.shape[0]) == ("band", 1)
    many = lay((160,), [((i * 10,), (10,)) for i in range(16)], 40, 5)
    assert many.owner.shape[0] == 3
    # No chunk is broken over the end of a row.
    assert all(len(many.cells_of(box)) == 1 for box in many.boxes)
    assert picture(many)[2].rstrip() == "ccccccddddddeeeeeeffffff"


def test_more_stripes_than_rows_become_a_band() -> None:
    grid = lay((4096, 64), rows_of(64, 4096, 64), 64, 10)
    assert (grid.kind, grid.folded, grid.per_cell) == ("band", (1,), 1)
    assert len(np.unique(grid.owner[grid.owner >= 0])) == 64


def test_more_chunks_than_cells_share_cells_evenly() -> None:
    grid = lay((4096,), [((i,), (1,)) for i in range(4096)], 40, 10)
    assert grid.cols.per_cell == 11
    counts = grid.count[grid.owner >= 0]
    assert set(counts[:-1].tolist()) == {11}
    assert int(counts.sum()) == 4096
    cell = grid.owner[0, 1], grid.other[0, 1]
    assert cell == (11, 21)


def test_a_scalar_and_a_tensor_without_elements() -> None:
    grid = lay((), [((), ())], 40, 10)
    assert picture(grid) == ["0" * 12]
    assert picture(lay((), [], 40, 10)) == ["·" * 12]
    assert lay((0, 5), [((0, 0), (0, 5))], 40, 10).kind == "empty"


def test_the_two_dims_cut_most_are_drawn() -> None:
    boxes = [((0, i, 0, j), (9, 1, 7, 1)) for i in range(4) for j in range(3)]
    grid = lay((9, 4, 7, 3), boxes, 60, 12)
    assert (grid.rows.dim, grid.cols.dim, grid.folded, grid.folded_cut) == (1, 3, (0, 2), ())
    cube = [((i, j, k), (1, 1, 1)) for i in range(3) for j in range(3) for k in range(2)]
    grid = lay((3, 3, 2), cube, 60, 12)
    assert (grid.folded, grid.folded_cut, grid.per_cell) == ((2,), (2,), 2)


def test_gaps_overlaps_and_what_reaches_outside() -> None:
    grid = lay((10, 4), [((0, 0), (6, 4)), ((4, 0), (4, 4))], 8, 10)
    column = [r[0] for r in picture(grid)]
    assert column == ["0"] * 6 + ["1"] * 2 + ["·"] * 2
    assert grid.count[:, 0].tolist() == [1] * 4 + [2] * 2 + [1] * 2 + [0] * 2
    beyond = lay((4, 4), [((2, 2), (2**62, 2**62)), ((2**62, 0), (1, 1))], 8, 4)
    assert beyond.outside.tolist() == [0, 1]


def test_marks_get_cells_of_their_own() -> None:
    grid = lay((64, 64), [((0, 0), (64, 64))], 40, 20, marks=[Mark((16, 0), (1, 64))])
    top, _, bottom, _ = grid.marks[0].tolist()
    assert bottom - top == 1


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 30), (200, 60)])
def test_any_pane(size: tuple[int, int]) -> None:
    for shape, boxes in [
        ((128256, 4096), rows_of(64, 128256, 4096)),
        ((7,), [((i,), (1,)) for i in range(7)]),
        ((), [((), ())]),
    ]:
        grid = lay(shape, boxes, *size)
        assert grid.owner.shape[0] <= size[1]
        assert grid.owner.shape[1] <= size[0]


@st.composite
def tilings(draw: Any) -> tuple[tuple[int, ...], list[tuple[Any, Any]]]:
    """A tensor cut by a grid: every element in exactly one chunk."""
    ndim = draw(st.integers(1, 3))
    cuts = [
        sorted({0, *draw(st.lists(st.integers(1, 500), min_size=1, max_size=12))})
        for _ in range(ndim)
    ]
    shape = tuple(c[-1] for c in cuts)
    boxes: list[tuple[Any, Any]] = [((), ())]
    for c in cuts:
        boxes = [((*o, a), (*s, b - a)) for o, s in boxes for a, b in pairs(c)]
    return shape, boxes


@settings(max_examples=200, deadline=None)
@given(tilings(), st.integers(1, 120), st.integers(1, 40))
def test_a_tiling_leaves_no_gap_and_loses_no_chunk(tiling: Any, width: int, height: int) -> None:
    shape, boxes = tiling
    grid = lay(shape, boxes, width, height)
    rows, cols = grid.owner.shape
    assert 1 <= rows <= height
    assert 1 <= cols <= width
    assert not (grid.owner == GAP).any()
    assert (grid.boxes[:, 0] >= 0).all()
    if grid.rows.per_cell == grid.cols.per_cell == 1 and not grid.folded_cut:
        assert grid.per_cell == 1
        seen = set(grid.owner[grid.owner >= 0].tolist())
        assert seen == set(range(len(boxes)))
    for index, box in enumerate(grid.boxes):
        for top, left, bottom, right in grid.cells_of(box):
            assert (grid.count[top:bottom, left:right] >= 1).all(), index


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(0, 2**63 - 1)] * 4), max_size=20),
    st.integers(0, 2**62),
    st.integers(1, 80),
    st.integers(1, 30),
)
def test_no_boxes_however_absurd_break_it(
    raw: list[tuple[int, int, int, int]], extent: int, width: int, height: int
) -> None:
    boxes = [((a, b), (c, d)) for a, b, c, d in raw]
    grid = lay((extent, 1000), boxes, width, height)
    assert grid.owner.shape[0] <= height
    assert grid.owner.shape[1] <= width


def test_many_chunks_are_quick_to_lay() -> None:
    import time

    n = 100_000
    offsets = np.arange(n, dtype=np.int64).reshape(n, 1) * 3
    start = time.process_time()
    layout((3 * n,), offsets, np.full((n, 1), 3, np.int64), 160, 50)
    assert time.process_time() - start < 2.0
