"""The grid of numbers: what it asks for, what it draws, where its cursor goes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.app import App, ComposeResult

from inspector.checkpoint.model import Tensor
from inspector.tui.values.number_grid import NumberGrid
from inspector.tui.values.number_sheet import (
    GAP,
    HELD,
    UNREADABLE,
    Cells,
    Sheet,
    Tiles,
    chunk_ids,
    dims_after,
    look_of,
    slice_after,
)
from inspector.values.slices import plane_of
from tests.tui.widgets.hosting import drawn, hosted

Array = Any
KEYS = ("pagedown", "j", "shift+right", "l", "G", "end", "k", "h", "ctrl+u", "home", "g")
LINES: list[tuple[int, ...]] = [(), (1,), (7,), (1000,), (1000, 1), (1, 1, 77), (3, 1, 50)]


def tensor_of(shape: tuple[int, ...], dtype: str = "float32", boxes: Any = None) -> Tensor:
    boxes = [((0,) * len(shape), shape)] if boxes is None else boxes
    count = len(boxes)
    zeros = np.zeros(count, np.int64)
    return Tensor(
        0,
        "w",
        dtype,
        shape,
        np.array([low for low, _ in boxes], np.int64).reshape(count, len(shape)),
        np.array([sizes for _, sizes in boxes], np.int64).reshape(count, len(shape)),
        zeros.astype(np.int32),
        zeros,
        zeros,
    )


class GridApp(App[None]):
    """Answers what the grid asks for from an array, and keeps what was asked."""

    def __init__(self, array: Array, tensor: Tensor, **options: Any) -> None:
        super().__init__()
        self.array, self.tensor, self.options = array, tensor, options
        self.grid = NumberGrid()
        self.asked: list[tuple[range, range]] = []
        self.answers = True

    def compose(self) -> ComposeResult:
        yield self.grid

    def on_mount(self) -> None:
        self.grid.focus()
        self.grid.show(self.tensor, **self.options)

    def on_number_grid_wanted(self, event: NumberGrid.Wanted) -> None:
        self.asked.append((event.rows, event.columns))
        if self.answers:
            box = event.grid.plane.box(event.leading, event.rows, event.columns)
            values = self.array[box].reshape(len(event.rows), len(event.columns))
            cells = Cells(values, np.full(values.shape, HELD, np.int8))
            event.grid.put(event.leading, event.rows, event.columns, cells)


@pytest.mark.parametrize("size", [(80, 24), (160, 50), (20, 4)], ids=str)
async def test_what_is_drawn_is_what_the_array_holds(size: tuple[int, int]) -> None:
    array = np.arange(500 * 300, dtype=np.int64).reshape(500, 300)
    app = GridApp(array, tensor_of(array.shape, "int64"))
    async with app.run_test(size=size) as pilot:
        for key in KEYS:
            await pilot.press(key)
            await pilot.pause()
            lines = drawn(app.grid)
            rows, columns = app.grid.sheet.span(*app.grid._visible())
            assert app.grid.row in rows and app.grid.column in columns
            for row, line in zip(rows, lines[1:], strict=False):
                numbers = line.split()
                assert numbers[0] == str(row)
                shown = [n for n in numbers[1:] if n != "│"]
                assert shown[: len(columns)] == [str(n) for n in array[row, list(columns)]]
    assert (app.grid.row, app.grid.column) == (0, 0)


async def test_only_the_window_and_a_margin_is_read_and_only_once() -> None:
    array = np.zeros((100_000, 5_000), np.float32)
    app = GridApp(array, tensor_of(array.shape))
    async with hosted(app, (80, 24)) as pilot:
        for _ in range(15):
            await pilot.press("j")
        asked = len(app.asked)
        elements = sum(len(rows) * len(columns) for rows, columns in app.asked)
        assert asked <= 2
        assert elements <= 4 * 64 * 64
        for key in ("k", "k", "l", "l", "h", "j"):
            await pilot.press(key)
        assert len(app.asked) == asked
        await pilot.press("G")
        await pilot.press("end")
        await pilot.pause()
        assert app.asked[-1][0].stop == 100_000
        assert app.asked[-1][1].stop == 5_000
        assert len(app.grid._tiles._kept) < 100


async def test_until_numbers_come_their_places_say_so() -> None:
    app = GridApp(np.ones((9, 9)), tensor_of((9, 9)))
    app.answers = False
    async with hosted(app, (80, 12)) as pilot:
        assert drawn(app.grid)[1].split()[1:] == ["…"] * 6
        await pilot.press("j", "l")
        assert len(app.asked) == 1  # The same is not asked for twice.
        state = np.full((9, 9), HELD, np.int8)
        state[0, 0], state[0, 1] = GAP, UNREADABLE
        values = np.ones((9, 9))
        values[0, 2:5] = np.nan, -np.inf, 0
        app.grid.put((), range(9), range(9), Cells(values, state, "no such file"))
        await pilot.pause()
        assert drawn(app.grid)[1].split()[1:] == ["·", "✗", "nan", "-inf", "0", "1"]
        app.grid.go_to((0, 1))
        assert app.grid.current is not None
        assert app.grid.current[1:] == (UNREADABLE, "no such file")


@pytest.mark.parametrize("shape", LINES, ids=str)
async def test_a_line_of_numbers_is_wrapped(shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape, dtype=int)), dtype=np.int32).reshape(shape)
    app = GridApp(array, tensor_of(shape, "int32"))
    async with hosted(app, (60, 10)) as pilot:
        lines = drawn(app.grid)
        per_line = len(lines[0].split())
        plane = plane_of(shape)
        here = array.reshape(*plane.leading, -1)[(0,) * len(plane.leading)]
        assert [int(n) for n in lines[1].split()[1:]] == here[:per_line].tolist()
        await pilot.press("j", "j", "j", "l")
        assert int(array[app.grid.index]) == min(3 * per_line + 1, len(here) - 1)
        await pilot.press("G", "end")
        await pilot.pause()
        assert int(array[app.grid.index]) == len(here) - 1
        shown = "".join(drawn(app.grid)[1:]).split()
        assert shown[-1] == str(len(here) - 1)


@pytest.mark.parametrize("size", [(7, 2), (3, 1), (1, 1), (200, 3)], ids=str)
async def test_it_fits_any_room(size: tuple[int, int]) -> None:
    app = GridApp(np.ones((500, 300)), tensor_of((500, 300)))
    async with app.run_test(size=size) as pilot:
        for key in KEYS:
            await pilot.press(key)
            drawn(app.grid)


async def test_chunks_are_told_apart_by_rules() -> None:
    boxes = [((0, 0), (2, 3)), ((0, 3), (2, 3)), ((2, 0), (4, 6))]
    app = GridApp(np.ones((6, 6)), tensor_of((6, 6), boxes=boxes))
    async with hosted(app, (80, 12)):
        lines = drawn(app.grid)
        assert [line.count("│") for line in lines[1:7]] == [1, 1, 0, 0, 0, 0]
        ruled = [
            any(segment.style and segment.style.underline for segment in app.grid.render_line(y))
            for y in range(1, 7)
        ]
        assert ruled == [False, True, False, False, False, False]


async def test_a_click_and_the_wheel_move_the_cursor() -> None:
    array = np.arange(100 * 50, dtype=np.int64).reshape(100, 50)
    app = GridApp(array, tensor_of(array.shape, "int64"))
    async with hosted(app, (80, 24)) as pilot:
        line = drawn(app.grid)[3]
        await pilot.click(NumberGrid, offset=(line.index("103"), 3))
        assert app.grid.index == (2, 3)
        app.grid.action_move(3, 0)
        assert app.grid.index == (5, 3)


@given(st.lists(st.integers(1, 4), min_size=3, max_size=5), st.integers(-30, 30))
def test_slices_are_stepped_through_in_order(shape: list[int], steps: int) -> None:
    plane = plane_of(shape)
    every = list(np.ndindex(*plane.leading))
    for number, leading in enumerate(every):
        assert slice_after(plane, leading, steps) == every[(number + steps) % len(every)]


def test_every_pair_of_dims_has_its_turn() -> None:
    shape = (2, 3, 4, 5)
    seen, dims = [], (2, 3)
    for _ in range(6):
        seen.append(dims)
        found = dims_after(plane_of(shape, dims))
        assert found is not None
        dims = found
    assert len(set(seen)) == 6
    assert dims == (2, 3)
    assert dims_after(plane_of((4, 5))) is None


@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_tiles_give_back_what_was_put(height: int, width: int, data: Any) -> None:
    plane = plane_of((height, width))
    array = np.arange(height * width).reshape(height, width)
    tiles = Tiles(plane)

    def some(size: int) -> range:
        start = data.draw(st.integers(0, size - 1))
        return range(start, data.draw(st.integers(start + 1, size)))

    for _ in range(3):
        rows, columns = some(height), some(width)
        rect = tiles.missing((), rows, columns)
        if rect is not None:
            part = array[rect[0].start : rect[0].stop, rect[1].start : rect[1].stop]
            tiles.put((), *rect, Cells(part, np.ones(part.shape, np.int8)))
        assert tiles.missing((), rows, columns) is None
        for row, column in ((rows[0], columns[0]), (rows[-1], columns[-1])):
            found = tiles.get((), row, column)
            assert found is not None
            assert found[0] == array[row, column]


@given(st.integers(1, 400), st.integers(1, 60), st.booleans())
def test_a_wrapped_sheet_leaves_nothing_out(size: int, fitting: int, down: bool) -> None:
    sheet = Sheet.of(plane_of((size, 1) if down else (size,)), fitting)
    assert sheet.per_line <= max(fitting, 1)
    seen = []
    for line in range(sheet.num_lines):
        for column in range(sheet.num_columns):
            cell = sheet.cell(line, column)
            if cell is not None:
                seen.append(sum(cell))
                assert sheet.place(*cell) == (line, column)
    assert seen == list(range(size))
    rows, columns = sheet.span(range(sheet.num_lines), range(sheet.num_columns))
    assert len(rows) * len(columns) == size


def test_chunk_ids_are_the_chunks() -> None:
    boxes = [((0, 0, 0), (2, 3, 4)), ((0, 3, 0), (2, 2, 4)), ((2, 0, 0), (1, 5, 2))]
    tensor = tensor_of((3, 5, 4), boxes=boxes)
    whole = np.full((3, 5, 4), -1)
    for n, (low, sizes) in enumerate(boxes):
        whole[tuple(slice(a, a + b) for a, b in zip(low, sizes, strict=True))] = n
    for dims in ((1, 2), (0, 2), (0, 1)):
        plane = plane_of(tensor.shape, dims)
        moved = np.moveaxis(whole, dims, (1, 2))
        for leading in range(plane.leading[0]):
            rows, columns = range(plane.rows), range(1, plane.columns)
            found = chunk_ids(tensor, plane, (leading,), rows, columns)
            assert (found == moved[leading][:, 1:]).all()


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [
        (np.float32(-0.000123456), 10, "-0.0001235"),
        (np.float64(-1.23456e-300), 10, "-1.23e-300"),
        (np.float32("nan"), 10, "nan"),
        (np.int64(-(2**62)), 20, str(-(2**62))),
        (np.bool_(True), 5, "True"),
        (np.complex64(1 - 2j), 21, "1-2j"),
    ],
)
def test_numbers_lose_digits_before_they_are_cut(value: Any, width: int, text: str) -> None:
    assert look_of(value, HELD, width).text == text
