"""The map: what is drawn where, in colours and in shades; NaN and gaps are told apart."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from textual.app import App, ComposeResult

from inspector.tui.values.heat_map import HeatMap
from inspector.tui.values.heat_paint import (
    DIVERGING,
    SEQUENTIAL,
    HeatGrid,
    cuts_on,
    place,
    ramp_color,
)
from inspector.values.slices import Heat, plane_of
from tests.conftest import some_fast
from tests.tui.widgets.hosting import drawn, hosted
from tests.tui.widgets.test_number_grid import tensor_of

SHAPES: list[tuple[int, ...]] = [(500, 300), (4, 5), (1, 1), (9000, 3), (777,), (), (50, 1)]


def heat_of(array: Any, height: int, width: int, *, is_sampled: bool = False) -> Heat:
    """The map of an array, by numpy alone; what is masked is a gap."""
    array = np.ma.asarray(array)
    rows = np.linspace(0, array.shape[0], min(height, array.shape[0]) + 1).astype(np.int64)
    columns = np.linspace(0, array.shape[1], min(width, array.shape[1]) + 1).astype(np.int64)
    shape = (len(rows) - 1, len(columns) - 1)
    found = {name: np.full(shape, np.nan) for name in ("mean", "rms", "low", "high")}
    bad, read = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for i, j in np.ndindex(*shape):
        part = array[rows[i] : rows[i + 1], columns[j] : columns[j + 1]].compressed()
        read[i, j], bad[i, j] = part.size, (~np.isfinite(part)).sum()
        part = part[np.isfinite(part)]
        if part.size:
            found["mean"][i, j] = part.mean()
            scale = max(float(np.abs(part).max()), 1e-300)
            found["rms"][i, j] = scale * np.sqrt(((part / scale) ** 2).mean())
            found["low"][i, j], found["high"][i, j] = part.min(), part.max()
    return Heat(rows, columns, **found, num_non_finite=bad, num_read=read, is_sampled=is_sampled)


class MapApp(App[None]):
    def __init__(self, array: Any, *, plain: bool | None = None) -> None:
        super().__init__()
        self.array = array
        self.tensor = tensor_of(array.shape)
        self.map = HeatMap(plain=plain)
        self.asked: list[tuple[int, int]] = []
        self.chosen: list[tuple[int, int]] = []

    def compose(self) -> ComposeResult:
        yield self.map

    def on_mount(self) -> None:
        self.map.focus()
        self.map.show(self.tensor)

    def on_heat_map_wanted(self, event: HeatMap.Wanted) -> None:
        self.asked.append((event.height, event.width))
        plane = plane_of(self.tensor.shape)
        event.heat_map.put(
            heat_of(self.array.reshape(plane.rows, plane.columns), event.height, event.width)
        )

    def on_heat_map_chosen(self, event: HeatMap.Chosen) -> None:
        self.chosen.append((event.row, event.column))


def color_at(heat_map: HeatMap, x: int, y: int) -> tuple[str, str]:
    """Colours of the upper and lower half of a cell."""
    at = 0
    for segment in heat_map.render_line(y):
        if at <= x < at + len(segment.text):
            style = segment.style
            assert style is not None and style.color is not None and style.bgcolor is not None
            return style.color.name, style.bgcolor.name
        at += len(segment.text)
    raise AssertionError


@pytest.mark.parametrize("size", [(80, 24), (160, 50), (24, 8), (12, 3), (3, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("plain", some_fast([False, True], [True]))
async def test_nothing_sticks_out_at_any_size(
    size: tuple[int, int], shape: tuple[int, ...], plain: bool
) -> None:
    array = np.random.default_rng(1).normal(size=shape)
    app = MapApp(array, plain=plain)
    async with hosted(app, size) as pilot:
        drawn(app.map)
        for height, width in app.asked:
            assert height * width <= 2 * size[0] * size[1]
        for key in ("j", "l", "l", "k", "h"):
            await pilot.press(key)
        drawn(app.map)


async def test_colours_rise_with_the_numbers() -> None:
    array = np.repeat(np.arange(1.0, 41.0)[None], 60, axis=0)
    app = MapApp(array, plain=False)
    async with hosted(app, (40, 12)):
        heat_map = app.map
        grid = heat_map.grid
        assert grid is not None
        assert not grid.is_signed
        assert (grid.height, grid.width) == (20, 37)
        line = 2  # below the legend and the ruler
        first, last = color_at(heat_map, 39, line), color_at(heat_map, 5, line)
        assert first == (SEQUENTIAL[-1], SEQUENTIAL[-1])
        assert last[0] == last[1] != first[0]
        legend = drawn(heat_map)[0]
        assert legend.startswith("rms  1 ") and " 39.5" in legend


async def test_numbers_of_both_signs_have_a_scale_with_0_in_the_middle() -> None:
    array = np.array([[-1.0, 0.0, 4.0]])
    grid = HeatGrid.of(heat_of(array, 1, 3), plane_of((1, 3)), "rms")
    assert grid.is_single and grid.is_signed
    assert grid.shares().tolist() == [[0.375, 0.5, 1.0]]
    assert ramp_color(DIVERGING, 0.5) == DIVERGING[2]


async def test_the_words_of_the_legend_are_whole_or_not_there() -> None:
    array = np.array([[0.25, math.nan, -4.125]])
    app = MapApp(array)
    seen = set()
    async with app.run_test(size=(60, 12)) as pilot:
        for width in range(60, 18, -1):
            await pilot.resize_terminal(width, 12)
            await pilot.pause()
            _, _, said = drawn(app.map)[0].partition("✗")
            seen.add(said.strip())
    assert {"NaN or Inf", "NaN/Inf"} <= seen <= {"NaN or Inf", "NaN/Inf", ""}


@pytest.mark.parametrize("plain", [False, True])
async def test_nan_gaps_and_the_cursor_look_like_nothing_else(plain: bool) -> None:
    array = np.ma.array(np.ones((64, 40)), mask=np.zeros((64, 40), bool))
    array[50, 7] = np.nan
    array[20:30] = np.ma.masked
    app = MapApp(array, plain=plain)
    async with hosted(app, (60, 40)) as pilot:
        lines = drawn(app.map)
        body = "".join(lines[2:])
        assert body.count("✗") == 1
        assert "·" * 30 in body
        assert body.count("┼") == 1
        assert "NaN or Inf" in lines[0]
        if plain:
            assert set(body) <= set(" ░▒▓█✗·┼0123456789")
        else:
            assert "▀" in body
        app.map.set_cursor(63, 39)
        await pilot.pause()
        moved = drawn(app.map)[2:]
        assert max(n for n, line in enumerate(moved) if "┼" in line) > 20


async def test_without_colour_the_app_draws_shades(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = MapApp(np.arange(60.0).reshape(6, 10))
    async with hosted(app, (60, 20)):
        assert app.map.is_plain
        body = "".join(drawn(app.map)[1:])
        assert "▀" not in body
        assert {"░", "▒", "▓", "█"} <= set(body)


async def test_going_over_the_map_goes_over_the_tensor() -> None:
    array = np.arange(1000.0 * 800).reshape(1000, 800)
    app = MapApp(array, plain=False)
    async with hosted(app, (60, 20)) as pilot:
        grid = app.map.grid
        assert grid is not None
        await pilot.press("j", "l", "l")
        assert app.chosen[-1] == (grid.row_starts[1], grid.column_starts[2])
        await pilot.press("k", "k", "h", "h", "h")
        assert app.chosen[-1] == (0, 0)
        await pilot.click(HeatMap, offset=(59, 19))
        row, column = app.chosen[-1]
        assert row >= 1000 - 2 * 1000 // grid.height - 1
        assert column == grid.column_starts[-2]


async def test_a_line_of_numbers_is_wrapped_over_the_map() -> None:
    app = MapApp(np.arange(5000.0), plain=True)
    async with hosted(app, (40, 11)) as pilot:
        assert app.asked == [(1, 400)]
        assert app.map.grid is not None
        assert (app.map.grid.height, app.map.grid.width) == (10, 40)
        await pilot.press("j", "l")
        assert app.chosen[-1] == (0, int(app.map.grid.column_starts[41]))
        app.map.set_cursor(0, 4999)
        await pilot.pause()
        assert drawn(app.map)[-1].rstrip().endswith("┼")


async def test_why_there_is_no_map_stands_in_its_place() -> None:
    app = MapApp(np.ones((5, 5)))
    async with hosted(app, (40, 11)) as pilot:
        app.map.fail("No map: cannot read a\\x1bb: there is no such file " + "x" * 500)
        await pilot.pause()
        assert "No map: cannot read a\\x1bb" in drawn(app.map)[0]
        app.map.show(None)
        await pilot.pause()
        assert not "".join(drawn(app.map)).strip()


def test_parts_are_never_larger_than_the_room() -> None:
    for height, width, lines, cells in np.ndindex(9, 9, 12, 12):
        placing = place(height + 1, width + 1, lines + 1, cells + 1)
        assert placing.wide >= 1 and placing.high >= 1
        assert placing.wide == 1 or placing.wide * (width + 1) <= cells + 1
        assert placing.high == 1 or placing.high * (height + 1) <= lines + 1


def test_cuts_are_drawn_where_their_part_is() -> None:
    starts = np.array([0, 10, 20, 30, 40])
    assert cuts_on(starts, [0, 5, 20, 39]) == {0: 0, 2: 20, 3: 39}


def test_extremes_of_float64_have_a_place_on_the_scale() -> None:
    array = np.array([[-1.7e308, 1.7e308, 0.0]])
    grid = HeatGrid.of(heat_of(array, 1, 3), plane_of((1, 3)), "mean")
    assert grid.shares().tolist() == [[0.0, 1.0, 0.5]]
    same = HeatGrid.of(heat_of(np.full((1, 2), 7.0), 1, 2), plane_of((1, 2)), "mean")
    assert same.shares().tolist() == [[0.5, 0.5]]
    # The square of what is large is none of float64's numbers.
    square = replace(heat_of(np.array([[1.0, 2.0]]), 1, 2), rms=np.array([[1.0, math.inf]]))
    assert HeatGrid.of(square, plane_of((1, 4)), "rms").shares().tolist() == [[0.5, 0.5]]
