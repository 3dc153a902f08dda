"""The numbers of a tensor, and the statistics of all, in the real app: shown, found, stopped."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from textual.pilot import Pilot

from inspector.tui.app import InspectApp
from inspector.tui.background import Background
from inspector.tui.kit.bars import TaskLine
from inspector.tui.kit.virtual_table import VirtualTable
from inspector.tui.values import reading as tensor_reading
from inspector.tui.values.heat_map import HeatMap
from inspector.tui.values.number_grid import NumberGrid
from inspector.tui.values.pane import ValuesPane
from inspector.tui.values.statistics import StatisticsView
from inspector.tui.values.view import ValuesView
from inspector.values import tally
from sample_ckpts.maker.editing import edit
from tests.conftest import SAMPLES, some_fast
from tests.diff.making import place_of, shards, tiling, write
from tests.tui.app_driver import CONTROL, opened, press, quiet, screen_text, settle, until, words
from tests.tui.widgets.hosting import HOSTILE
from tests.tui.widgets.test_histogram_bars import stats_of

SIZES = [(80, 24), (160, 50)]


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    tensors = {f"layers.{n}.up": torch.randn(40, 30) * 0.02 for n in range(5)}
    tensors["layers.3.up"][17, 5] = float("nan")
    tensors["layers.3.up"][30:32, 7] = float("nan")
    tensors["layers.3.up"][2, 29] = float("-inf")
    tensors["layers.2.up"] *= 100
    tensors["cube"] = torch.randn(4, 6, 5)
    return tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cuts = {f"layers.{n}.up": shards((40, 30), 0, 4) for n in range(5)}
    cuts["cube"] = tiling((4, 6, 5), 2, 9)
    path = tmp_path_factory.mktemp("values") / "ck"
    return write(path, state(), cuts, {"step": {"step": 7}}, num_files=4)


def values(app: InspectApp) -> ValuesView:
    return app.screen.query_one(ValuesView)


def grid(app: InspectApp) -> NumberGrid:
    return app.screen.query_one(NumberGrid)


async def open_values(app: InspectApp, pilot: Pilot[int], name: str) -> None:
    """The numbers of a tensor, all read."""
    await pilot.press("1")
    table = app.screen.query_one("#entries", VirtualTable)
    names = [table.source.cell(row, "name") for row in range(table.source.num_rows)]
    table.select_row(names.index(name))
    await pilot.press("6")
    await read(app, pilot)


async def read(app: InspectApp, pilot: Pilot[int]) -> None:
    """Wait until everything that is read of the tensor is on the screen."""
    view = values(app)
    if not app.screen.query_one(ValuesPane).has_numbers:
        return
    heat_map = app.screen.query_one(HeatMap)

    def done() -> bool:
        shown = heat_map.grid is not None or "map" in words(app)
        return shown and not view.is_reading and grid(app).current is not None

    await until(pilot, done)
    await quiet(pilot, 0.1)


def shown_numbers(app: InspectApp) -> dict[int, list[str]]:
    """The numbers on the screen, by row."""
    height = grid(app).size.height
    lines = [grid(app).render_line(y).text.replace("│", " ").split() for y in range(1, height)]
    return {int(line[0]): line[1:] for line in lines if line}


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_figures_map_and_numbers_are_torchs(folder: Path, size: tuple[int, int]) -> None:
    tensor = state()["layers.0.up"]
    async with opened(folder, size=size) as (app, pilot):
        await open_values(app, pilot, "layers.0.up")
        text = screen_text(app)
        for label, number in (
            ("min", tensor.min()),
            ("max", tensor.max()),
            ("mean", tensor.double().mean()),
            ("std", tensor.double().std()),
            ("L2", tensor.double().norm()),
        ):
            assert f"{label:<6}{number.item():.6g}" in text
        assert "NaN   0" in text and "Inf   0" in text and "zeros 0" in text
        assert "float32 [40, 30]" in text
        assert f"[0, 0] = {tensor[0, 0].item():.9g}  chunk 0 in __0_0.distcp" in text
        numbers = shown_numbers(app)
        assert len(numbers) >= 8
        for row, line in numbers.items():
            assert len(line) >= 6
            assert line == [f"{x:.4g}" for x in tensor[row, : len(line)].tolist()]
        assert "█" in text and "▁" in text  # the histogram
        assert text.count("▀") + text.count("▒") > 100  # the map
        assert not CONTROL.search(text.replace("\n", ""))


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_a_nan_that_the_deep_check_finds_is_gone_to(
    folder: Path, size: tuple[int, int]
) -> None:
    async with opened(folder, "c", size=size) as (app, pilot):
        await until(pilot, lambda: "Every byte was read" in words(app))
        await pilot.press("3")
        assert "values-nan" in screen_text(app)
        await pilot.press("enter")
        await read(app, pilot)
        assert values(app).fqn == "layers.3.up"
        assert grid(app).index == (17, 5)
        text = screen_text(app)
        assert "[17, 5] = nan" in text
        assert "NaN   3 first [17, 5]" in text
        assert "Inf   1 first [2, 29]" in text
        assert "✗" in text
        await press(pilot, "f", at_least_s=0.1)
        assert grid(app).index == (2, 29)
        assert "= -inf" in screen_text(app)
        await pilot.press("f")
        assert grid(app).index == (17, 5)
        await pilot.press("escape")
        assert app.screen.view.id == "findings"  # type: ignore[attr-defined]
        # The step to a finding, and then its values.
        await pilot.press("n", "6")
        await read(app, pilot)
        assert grid(app).index == (17, 5)


@pytest.mark.slow
async def test_least_largest_and_any_index_are_gone_to(folder: Path) -> None:
    tensor = state()["cube"]
    async with opened(folder) as (app, pilot):
        await open_values(app, pilot, "cube")
        extremes = (("less_than_sign", tensor.argmin()), ("greater_than_sign", tensor.argmax()))
        for key, at in extremes:
            wanted = tuple(int(i) for i in np.unravel_index(int(at), tensor.shape))
            await pilot.press(key)
            await until(pilot, lambda wanted=wanted: grid(app).index == wanted)  # type: ignore[misc]
        for typed, wanted in (("2,0,3", (2, 0, 3)), ("[-1, 5 -2]", (3, 5, 3)), ("31", (1, 0, 1))):
            keys = {",": "comma", " ": "space", "[": "left_square_bracket"}
            keys |= {"]": "right_square_bracket", "-": "minus"}
            # In one burst: none of the digits may open another view.
            await press(
                pilot, "slash", *(keys.get(char, char) for char in typed), "enter", at_least_s=0.1
            )
            assert grid(app).index == wanted
            assert grid(app).has_focus
        for typed, said in (
            ("4,0,0", "dim 0 has the indices 0 to 3, not 4"),
            ("1,2", "an index of [4, 6, 5] is 3 numbers, not 2"),
            ("1,x,2", "an index is whole numbers"),
            ("999", "there are 120 elements"),
        ):
            await pilot.press("slash", *(("comma" if c == "," else c) for c in typed), "enter")
            await until(pilot, lambda said=said: said in words(app))  # type: ignore[misc]
            await pilot.press("escape")
            assert grid(app).index == (1, 0, 1)
        await read(app, pilot)
        assert f"= {tensor[1, 0, 1].item():.9g}" in screen_text(app)


async def test_slices_of_any_two_dims_are_stepped_through(folder: Path) -> None:
    tensor = state()["cube"].numpy()
    async with opened(folder) as (app, pilot):
        await open_values(app, pilot, "cube")
        for dims in ((1, 2), (0, 2), (0, 1)):
            moved = np.moveaxis(tensor, dims, (1, 2))
            plane = grid(app).plane
            assert (plane.row_dim, plane.column_dim) == dims
            for number in range(len(moved)):
                await until(pilot, lambda: grid(app).current is not None)
                assert grid(app).leading == (number,)
                numbers = shown_numbers(app)
                assert list(numbers) == list(range(moved.shape[1]))
                for row, line in numbers.items():
                    assert line == [f"{x:.4g}" for x in moved[number, row].tolist()]
                said = f"slice {number + 1} of {len(moved)} (dims {dims[0]} x {dims[1]})"
                assert said in screen_text(app)
                await pilot.press("right_square_bracket")
            await pilot.press("left_square_bracket", "right_square_bracket", "d")
        await pilot.press("left_square_bracket")
        assert grid(app).leading == (3,)


async def test_the_map_and_the_numbers_go_together(folder: Path) -> None:
    async with opened(folder, size=(160, 50)) as (app, pilot):
        await open_values(app, pilot, "layers.1.up")
        heat_map = app.screen.query_one(HeatMap)
        heat_map.focus()
        await press(pilot, "j", "j", "l", "l", "l", at_least_s=0.1)
        assert heat_map.grid is not None
        assert grid(app).index == heat_map.grid.corner(2, 3, grid(app).plane)
        titles = []
        for _ in range(3):
            titles.append(heat_map.render_line(0).text.split("  ")[0])
            await pilot.press("m")
        assert titles == ["rms", "max |v|", "mean"]
        await press(pilot, "z", at_least_s=0.1)
        assert heat_map.size.height > 40
        assert not grid(app).display
        await press(pilot, "escape", at_least_s=0.1)
        assert grid(app).display
        grid(app).focus()
        await press(pilot, "z", at_least_s=0.1)
        assert grid(app).size.height > 40
        await press(pilot, "z", "a", at_least_s=0.1)
        assert "|value|, log" in screen_text(app)


@pytest.mark.slow
async def test_where_there_are_no_slices_the_keys_say_so(tmp_path: Path) -> None:
    kinds = {"scalar": torch.tensor(3.5), "line": torch.arange(9.0), "plane": torch.zeros(2, 3)}
    said = {
        "scalar": "No dims: there is no other slice.",
        "line": "One dim: there is no other slice.",
        "plane": "Two dims, both shown: there is no other slice.",
    }
    async with opened(write(tmp_path / "ck", kinds), size=(160, 50)) as (app, pilot):
        for name, words_of_it in said.items():
            await open_values(app, pilot, name)
            for key in ("d", "right_square_bracket", "left_square_bracket"):
                app.clear_notifications()
                await until(pilot, lambda: "no other slice" not in words(app))
                await pilot.press(key)
                await until(pilot, lambda said=words_of_it: said in words(app))
        # In the line for an index they are characters.
        app.clear_notifications()
        await press(pilot, "slash", "d", "left_square_bracket", at_least_s=0.2)
        assert "no other slice" not in words(app)


KINDS = {
    "scalar": torch.tensor(3.5),
    "line": torch.arange(9.0),
    "flag": torch.tensor([[True, False], [False, False]]),
    "wave": torch.tensor([[3 + 4j, -1j]]),
    "ids": torch.tensor([[2**62, -5], [0, 7]]),
    "half": torch.tensor([[0.5, -2]], dtype=torch.bfloat16),
    "eighth": torch.tensor([[0.5, -2]]).to(torch.float8_e4m3fn),
    "hollow": torch.zeros(0, 5),
    "nothing": torch.full((3, 2), float("nan")),
}
SAID = {
    "scalar": ["[] = 3.5", "min   3.5", "count 1"],
    "line": ["[0] = 0", "max   8"],
    "flag": ["[0, 0] = True", "mean  0.25", "True  False", "zeros 3 (0.75 of all)"],
    "wave": ["[0, 0] = 3+4j", "min   1 of |z|", "max   5 of |z|", "-0-1j"],
    "ids": [f"= {2**62}", "min   -5", f"max   {2**62:,}", "zeros 1"],
    "half": ["= 0.5", "min   -2"],
    "eighth": ["= 0.5", "min   -2"],
    "hollow": ["has no elements"],
    "nothing": ["NaN   6 first [0, 0]", "mean  -", "none finite"],
}


async def test_a_matrix_has_no_slices_to_step_through_a_cube_has(folder: Path) -> None:
    async with opened(folder) as (app, pilot):
        await open_values(app, pilot, "layers.0.up")
        assert "right_square_bracket" not in app.screen.active_bindings
        await open_values(app, pilot, "cube")
        assert "right_square_bracket" in app.screen.active_bindings


@pytest.mark.slow
@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_tensors_of_every_kind(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write(tmp_path / "ck", KINDS, entries={"blob": {"a": 1}})
    async with opened(path, size=size) as (app, pilot):
        for name, said in SAID.items():
            await open_values(app, pilot, name)
            text = screen_text(app)
            for part in said:
                if part == f"max   {2**62:,}" and size[0] == 80:
                    part = part[:22]
                assert part in text, (name, part, text)
        await open_values(app, pilot, "blob")
        assert "never run here" in screen_text(app)
        await pilot.press("f", "slash", "x", "m", "d", "comma")
        await read(app, pilot)
        assert values(app).fqn == list(KINDS)[-1]
        await pilot.press("comma")
        assert "has no elements" in screen_text(app)


@pytest.mark.parametrize(
    "sample",
    some_fast(
        sorted(p.parent.name for p in SAMPLES.glob("*/.metadata")),
        {"fsdp1_flat_4", "names_hostile_1", "zstd_2"},
    ),
)
async def test_the_numbers_of_every_sample_open(sample: str) -> None:
    async with opened(SAMPLES / sample, "6", size=(80, 24)) as (app, pilot):
        await read(app, pilot)
        for _ in range(3):
            await pilot.press("full_stop")
            await read(app, pilot)
        assert not CONTROL.search(screen_text(app).replace("\n", ""))


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_what_cannot_be_read_says_why_and_the_rest_shows(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    tensor = torch.randn(64, 40)
    tensors = {"w": tensor, "packed": torch.zeros(4, 4, dtype=torch.uint8), "lost": torch.ones(3)}
    path = write(tmp_path / "ck", tensors, {"w": shards((64, 40), 0, 4)}, num_files=6)
    place_of(path, "lost")[0].unlink()
    file, offset, length = place_of(path, "w", (32, 0))
    data = bytearray(file.read_bytes())
    data[offset : offset + length] = bytes(length)
    file.write_bytes(data)

    def as_packed(metadata: Any) -> None:
        metadata.state_dict_metadata["packed"].properties.dtype = torch.quint4x2

    edit(path, as_packed)
    async with opened(path, size=size) as (app, pilot):
        await open_values(app, pilot, "w")
        said = words(app)
        assert "640 of 2,560 elements are not in the figures" in said
        assert "count 1,920 (75%)" in said
        text = screen_text(app)
        assert "····" in text  # the gap in the map
        await pilot.press("slash", "3", "8", "comma", "5", "enter")
        await read(app, pilot)
        assert grid(app).index == (38, 5)
        assert "[38, 5] cannot be read: " in screen_text(app)
        numbers = shown_numbers(app)
        assert set(numbers[38]) == {"✗"}
        _, columns = grid(app).sheet.span(*grid(app)._visible())
        for row, line in numbers.items():
            if not 32 <= row < 48:
                assert line[0] == f"{tensor[row, columns.start].item():.4g}"
        await open_values(app, pilot, "packed")
        assert "quint4x2" in words(app) and "no such type" in words(app)
        await open_values(app, pilot, "lost")
        said = words(app)
        assert "3 of 3 elements are not in the figures: the file is not there" in said
        assert "No map: cannot read" in said


class Gate:
    """Holds up the sums over blocks after so many `free` ones, as a slow disk would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.reached = threading.Event(), threading.Event()
        self.free = 0
        feed = tally.ChunkTally.feed

        def slow(this: tally.ChunkTally, block: memoryview) -> None:
            self.free -= 1
            if self.free < 0:
                self.reached.set()
                assert self.open.wait(300)
            feed(this, block)

        monkeypatch.setattr(tally.ChunkTally, "feed", slow)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """210 MB in 64 chunks that are scattered over 8 files, and another tensor."""
    torch.manual_seed(1)
    tensor = torch.randn(8192, 6400)
    tensor[5000, 77] = float("nan")
    tensors = {"w": tensor, "small": torch.arange(50.0)}
    cuts = {"w": shards((8192, 6400), 0, 64)}
    return write(tmp_path_factory.mktemp("big") / "ck", tensors, cuts, num_files=8)


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_keys_are_answered_while_a_large_tensor_is_read(
    big: Path, size: tuple[int, int], gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_reading, "_QUIET_S", 0.0)
    gate.free = 40
    async with opened(big, "6", size=size) as (app, pilot):
        assert gate.reached.wait(300)
        await until(pilot, lambda: grid(app).current is not None)
        for key in ("j", "pagedown", "l", "G", "end"):
            before = grid(app).index
            await pilot.press(key)
            assert grid(app).index != before
        await until(pilot, lambda: grid(app).current is not None)
        assert values(app).is_reading
        await until(pilot, lambda: "% of 200.1 MiB" in screen_text(app))
        assert re.search(r"reading .* \d+% of 200.1 MiB  .*/s  .* left  x stops", screen_text(app))
        assert len(shown_numbers(app)) >= 7
        # Elsewhere x is another key, or none.
        await press(pilot, "4", shows="left  x in 6 stops")
        await press(pilot, "6", shows="left  x stops")
        await press(pilot, "x", shows="stopping")
        gate.open.set()
        await until(pilot, lambda: not values(app).is_reading)
        await until(pilot, lambda: "Stopped: these are figures of what was read" in words(app))
        await until(pilot, lambda: bool(re.search(r"count [\d,]+ \(\d", screen_text(app))))
        await press(pilot, "x", shows="NaN   1 first [5000, 77]")
        assert "Stopped" not in screen_text(app)


async def test_no_share_is_told_of_a_reading_whose_size_is_not_known() -> None:
    async with opened(SAMPLES / "hsdp_2x4", size=(80, 24)) as (app, _):
        line = app.screen.query_one(TaskLine)
        background = Background[None](line, lambda key, answer: None)
        line.show("reading", None, background, "x stops")
        assert str(line.content) == "reading ...  x stops"


async def test_another_tensor_drops_what_was_read_of_the_one_before(big: Path, gate: Gate) -> None:
    async with opened(big, "6") as (app, pilot):
        assert gate.reached.wait(300)
        await pilot.press("full_stop")
        assert values(app).fqn == "small"
        await until(pilot, lambda: grid(app).current is not None)
        gate.open.set()
        await until(pilot, lambda: "max   49" in screen_text(app))
        await quiet(pilot, 0.5)
        assert "max   49" in screen_text(app) and "NaN   0" in screen_text(app)
        assert "Stopped" not in screen_text(app)
        # Back again, in the middle of it: the app leaves at once.
        gate.open.clear()
        await pilot.press("comma")
        await pilot.pause(0.2)


async def test_what_is_large_is_read_only_when_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_reading, "MAX_UNASKED", 1000)
    async with opened(folder, "6") as (app, pilot):
        await until(pilot, lambda: "x reads all of it" in words(app))
        await until(pilot, lambda: grid(app).current is not None)
        assert "mean" not in screen_text(app)
        await press(pilot, "x", shows="mean")
        await read(app, pilot)
        assert "x reads" not in screen_text(app)


async def test_statistics_of_all_tensors_are_ranked_filtered_and_opened(folder: Path) -> None:
    async with opened(folder, "u", size=(160, 50)) as (app, pilot):
        table = app.screen.query_one("#stats-table", VirtualTable)
        await until(pilot, lambda: table.num_lines == 6)
        names = [str(table.source.cell(int(row), "name")) for row in table.rows]
        assert names[:2] == ["layers.3.up", "layers.2.up"]
        said = words(app)
        assert "6 tensors, 6,120 elements; 1 with NaN; 1 of an odd norm or value" in said
        assert "3 NaN and 1 infinite" in said
        assert "the median of its 4 siblings" in said
        rms = stats_of_all()["layers.2.up"]
        assert f"{rms:.4g}" in said
        await pilot.press("enter")
        await read(app, pilot)
        assert (values(app).fqn, grid(app).index) == ("layers.3.up", (17, 5))
        await pilot.press("full_stop")
        await read(app, pilot)
        assert values(app).fqn == "layers.2.up"
        assert "the median of its 4 siblings" in words(app)
        await pilot.press("escape")
        assert app.screen.view.id == "stats"  # type: ignore[attr-defined]
        assert table.cursor == 1
        await pilot.press("slash", *"cube", "enter")
        assert [str(table.source.cell(int(row), "name")) for row in table.rows] == ["cube"]
        await pilot.press("escape", "r")
        await settle(app, pilot)
        assert table.num_lines == 0
        assert "u reads all 6 tensors" in screen_text(app)


def stats_of_all() -> dict[str, float]:
    return {name: tensor.double().pow(2).mean().sqrt().item() for name, tensor in state().items()}


async def test_statistics_show_how_far_they_are_and_stop(big: Path, gate: Gate) -> None:
    async with opened(big, "u", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: "reading all " in screen_text(app))
        assert gate.reached.wait(300)
        # From anywhere.
        await press(pilot, "1", "j", shows="u stops")
        await pilot.press("u")
        assert app.screen.view.id == "stats"  # type: ignore[attr-defined]
        await until(pilot, lambda: "stopping" in screen_text(app))
        gate.open.set()
        view = app.screen.query_one(StatisticsView)
        await until(pilot, lambda: not view.is_reading)
        await until(pilot, lambda: "Stopped: not every byte was read" in screen_text(app))
        await press(pilot, "u", shows="2 tensors, 52,428,850 elements; 1 with NaN")


async def test_statistics_name_what_could_not_be_read(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(4), "b": torch.zeros(3)}
    path = write(tmp_path / "ck", tensors, num_files=2)
    place_of(path, "b")[0].unlink()
    async with opened(path, "u", size=(120, 24)) as (app, pilot):
        await until(pilot, lambda: "1 not or not wholly read" in screen_text(app))
        table = app.screen.query_one("#stats-table", VirtualTable)
        assert table.source.cell(int(table.rows[0]), "name") == "b"
        assert "not read: the file is not there" in screen_text(app)
        for _ in range(8):
            await pilot.press("s")
        await pilot.press("enter")
        await read(app, pilot)


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_hostile_names_are_only_shown(tmp_path: Path, size: tuple[int, int]) -> None:
    # A lone surrogate cannot be a name: torch itself writes none.
    tensors = {name: torch.randn(4, 5) for name in HOSTILE if "\ud800" not in name}
    path = write(tmp_path / "ck", tensors)
    async with opened(path, "u", size=size) as (app, pilot):
        table = app.screen.query_one("#stats-table", VirtualTable)
        await until(pilot, lambda: table.num_lines == len(tensors))
        assert not CONTROL.search(screen_text(app).replace("\n", ""))
        await pilot.press("enter")
        for _ in tensors:
            await read(app, pilot)
            assert not CONTROL.search(screen_text(app).replace("\n", ""))
            assert "float32 [4, 5]" in screen_text(app)
            await pilot.press("full_stop")
        await press(pilot, "y", at_least_s=0.1)
        assert not CONTROL.search(screen_text(app).replace("\n", ""))


async def test_no_colour_and_few_colours_leave_everything_legible(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(folder, size=(80, 24)) as (app, pilot):
        await open_values(app, pilot, "layers.3.up")
        text = screen_text(app)
        assert "▀" not in text
        assert {"░", "▒", "▓", "█", "✗"} <= set(text)
        await press(pilot, "f", at_least_s=0.1)
        assert "nan" in screen_text(app)
        app.theme = "ansi-dark"
        await quiet(pilot, 0.1)
        assert "✗" in screen_text(app)


async def test_the_figures_agree_with_the_command_line(folder: Path, tmp_path: Path) -> None:
    wanted = stats_of(tmp_path / "one", state()["layers.3.up"])
    async with opened(folder, size=(160, 50)) as (app, pilot):
        await open_values(app, pilot, "layers.3.up")
        text = screen_text(app)
        assert f"L2    {wanted.l2:.6g}  rms {wanted.rms:.4g}" in text
        assert f"count {wanted.num_elements:,}" in text
        await press(pilot, "y", at_least_s=0.2)
        assert "figures" in screen_text(app)


async def test_from_a_view_without_tensors_the_one_in_the_list_is_shown() -> None:
    async with opened(SAMPLES / "hsdp_2x2", "j", "5", "6") as (app, pilot):
        await until(pilot, lambda: "net1.bias" in screen_text(app) and "mean" in screen_text(app))
        assert "No tensor was chosen" not in screen_text(app)
