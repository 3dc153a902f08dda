from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from inspector.checkpoint import open_checkpoint
from inspector.layout.target.stages import StageRequest, stage_keys
from inspector.layout.writer.written_by import infer
from inspector.tui.app import InspectApp
from inspector.tui.kit.lines import FilterLine
from inspector.tui.mesh.axes import axis_places
from inspector.tui.screens import main
from inspector.tui.screens.main import MainScreen
from inspector.tui.tensors import sources
from inspector.tui.tensors import view as tensors
from inspector.tui.tensors.chunk_map import ChunkMap
from inspector.tui.tensors.detail import TensorDetail
from inspector.tui.tensors.tree import TensorTree
from inspector.tui.tensors.view import TensorsView
from tests.conftest import SAMPLES
from tests.tui.app_driver import opened, quiet, screen_text, settle, until, words

SAMPLE = Path(__file__).parents[2] / "sample_ckpts" / "hsdp_2x4"


async def test_the_tree_of_many_tensors_is_made_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(SAMPLE) as (app, _):
        expected = [line.text for line in _tree_lines(app)]
    monkeypatch.setattr(tensors, "_MANY_ROWS", 0)
    async with opened(SAMPLE) as (app, pilot):
        tree = app.screen.query_one(TensorTree)
        await until(pilot, lambda: tree.num_lines > 0)
        assert [line.text for line in _tree_lines(app)] == expected
        # Anew with the checkpoint.
        await pilot.press("r")
        await settle(app, pilot)
        await until(pilot, lambda: tree.num_lines > 0)
        assert [line.text for line in _tree_lines(app)] == expected


def _tree_lines(app: InspectApp) -> list:  # type: ignore[type-arg]
    tree = app.screen.query_one(TensorTree)
    return [tree.draw_line(line, 40, False) for line in range(tree.num_lines)]


@pytest.mark.slow
async def test_a_view_asked_for_before_it_is_there_is_opened_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(main, "_TURN_S", 0.2)
    app = InspectApp(str(SAMPLE))
    async with app.run_test(size=(160, 50)) as pilot:
        await until(pilot, lambda: bool(app.screen.query("#files")))
        screen = app.screen
        assert isinstance(screen, MainScreen)
        await pilot.press("7", "5")
        assert not screen.query("#plan") and screen.view.id == "tensors"
        await until(pilot, lambda: screen.is_complete)
        await settle(app, pilot)
        assert screen.view.id == "plan"
    # A view that is there already is what was asked for last.
    app = InspectApp(str(SAMPLE))
    async with app.run_test(size=(160, 50)) as pilot:
        await until(pilot, lambda: bool(app.screen.query("#files")))
        screen = app.screen
        assert isinstance(screen, MainScreen)
        await pilot.press("7", "2")
        await until(pilot, lambda: screen.is_complete)
        await settle(app, pilot)
        assert screen.view.id == "files"


@pytest.mark.slow
async def test_zoom_puts_the_filter_aside_and_brings_it_back() -> None:
    async with opened(SAMPLE, "slash", "n", "e", "t", "1", "enter") as (app, pilot):
        view = app.screen.query_one(TensorsView)
        line = view.query_one(FilterLine)
        assert line.display
        await pilot.press("z")
        assert view.is_zoomed and not line.display and not view.table.display
        await pilot.press("z")
        assert not view.is_zoomed and line.display and view.table.display
        assert view.table.num_lines == 2
        # Without a filter there is no line to bring back.
        await pilot.press("escape", "z", "z")
        assert not line.display
        # The key that opens the filter leaves the zoom.
        await pilot.press("z", "slash")
        assert not view.is_zoomed and line.display and line.has_focus


async def test_a_zoomed_detail_has_no_rule_above_it() -> None:
    async with opened(SAMPLE, size=(80, 24)) as (app, pilot):
        rules = screen_text(app).count("▔" * 70)
        await pilot.press("z")
        await pilot.pause()
        assert screen_text(app).count("▔" * 70) == rules - 1 == 0
        await pilot.press("z")
        await pilot.pause()
        assert screen_text(app).count("▔" * 70) == rules


async def test_every_letter_narrows_the_table_at_once() -> None:
    async with opened(SAMPLE, "slash") as (app, pilot):
        view = app.screen.query_one(TensorsView)
        for letter, left in zip("net1", (6, 6, 6, 2), strict=True):
            await pilot.press(letter)
            await until(pilot, lambda left=left: view.table.num_lines == left)  # type: ignore[misc]
        assert view.count_text == "2 of 6"
        await pilot.press("escape")
        await until(pilot, lambda: view.table.num_lines == 6)
        assert view.count_text == "6"


async def test_what_a_filter_leaves_is_counted_on_a_small_screen_too() -> None:
    async with opened(SAMPLE, "slash", *"net1", size=(80, 24)) as (app, pilot):
        view = app.screen.query_one(TensorsView)
        await until(pilot, lambda: view.table.num_lines == 2)
        assert re.search(r"\n net1 +2 of 6 *\n", screen_text(app))
        # What is typed goes before the count.
        await pilot.press(*"_" * 70)
        await until(pilot, lambda: view.table.num_lines == 0)
        assert "_" * 60 in screen_text(app) and "0 of 6" not in screen_text(app)
        await pilot.press("escape")
        await until(pilot, lambda: view.table.num_lines == 6)
        bar = screen_text(app).splitlines()[2]
        # A bare number beside the last title would look like the key of a view.
        assert bar.rstrip().endswith("7 Stats")


async def test_the_rows_of_a_view_are_counted_where_there_is_room() -> None:
    async with opened(SAMPLE, size=(100, 30)) as (app, pilot):
        await until(pilot, lambda: "7 Stats" in screen_text(app))
        await until(pilot, lambda: screen_text(app).splitlines()[2].rstrip().endswith("6 rows"))


# One chunk is picked, wherever it was picked.


async def test_a_picked_chunk_is_told_in_full_and_stays_picked_in_both() -> None:
    async with opened(SAMPLES / "hsdp_2x4", "enter", size=(80, 24)) as (app, pilot):
        detail = app.screen.query_one(TensorDetail)
        chunk_map = detail.query_one(ChunkMap)

        def shows(index: int) -> bool:
            box, rank = f"[{2 * index}:{2 * index + 2}, 0:5]", f"rank {index}"
            told = words(app)
            return (
                chunk_map.highlight == detail.picked == detail.chunks.cursor_row == index
                and f"box {box} chunk {index} of 4" in told
                and f"{rank} file __{index}_0.distcp bytes at 0, 1577 long" in told
            )

        await until(pilot, lambda: shows(0))
        await pilot.press("j", "j")  # in the list
        await until(pilot, lambda: shows(2))
        await pilot.press("tab", "k")  # the chunk above it in the map
        await until(pilot, lambda: chunk_map.has_focus and shows(1))
        await pilot.press("l")
        await until(pilot, lambda: shows(2))
        await pilot.press("j")
        await until(pilot, lambda: shows(3))
        await pilot.press("h")
        await until(pilot, lambda: shows(2))
        region = chunk_map.content_region
        await pilot.click(offset=(region.x + 10, region.y + 2))  # the topmost one
        await until(pilot, lambda: shows(0))
        await pilot.press("escape")  # no longer zoomed: it is picked all the same
        await quiet(pilot, 0.1)
        assert chunk_map.highlight == detail.picked == 0 and "box [0:2, 0:5]" in words(app)
        await pilot.press("j")  # another tensor
        await until(pilot, lambda: detail.picked is None and "box [0:2" not in words(app))


async def test_the_chunks_are_coloured_by_one_axis_after_the_other() -> None:
    folder = SAMPLES / "hsdp_tp_uneven_2x2x2"
    async with opened(folder, "j", "j", size=(80, 24)) as (app, pilot):
        chunk_map = app.screen.query_one(TensorDetail).query_one(ChunkMap)
        view = app.screen.query_one(TensorsView)
        await until(pilot, lambda: view.source is not None and view.source.written_by is not None)
        for caption, places in (
            ("* = all of axis 1, like dp_replicate", [-1, -1, -1, -1]),
            ("S = axis 2 of 3, like dp_shard", [0, 0, 1, 1]),
            ("T = axis 3 of 3, like tp", [0, 1, 0, 1]),
        ):
            await pilot.press("x")
            await until(pilot, lambda caption=caption: caption in words(app))  # type: ignore[misc]
            assert chunk_map.boxes is not None
            assert chunk_map.boxes.places is not None
            # In the order of their boxes: rows, then columns.
            order = np.lexsort(chunk_map.boxes.offsets.T[::-1])
            assert chunk_map.boxes.places[order].tolist() == places
        assert "T0" in words(app) and "T1" in words(app)
        # Its key is told of where the keys that are there on a small screen have their room.
        assert "x Axis" not in words(app)
        await pilot.resize_terminal(160, 50)
        await until(pilot, lambda: "x Axis" in words(app) and "T = axis 3 of 3" in words(app))
        await pilot.press("x")
        await until(pilot, lambda: "r0" in words(app) and "T = " not in words(app))


async def test_without_a_mesh_there_is_no_axis_to_colour_by() -> None:
    async with opened(SAMPLES / "ddp_4", size=(80, 24)) as (app, pilot):
        view = app.screen.query_one(TensorsView)
        await until(pilot, lambda: view.source is not None and view.source.written_by is not None)
        await pilot.press("x")
        await until(pilot, lambda: any("No mesh is known" in n.message for n in app._notifications))


@pytest.mark.parametrize(
    ("sample", "fqn", "said"),
    [
        ("fsdp_cp_4x2", "model.wq.weight", {1: [0, 1, 2, 3], 2: [-1] * 4}),
        ("pp_hsdp_2x2x2", "model.layers.3.wo.weight", {1: [1, 1], 2: [-1, -1], 3: [0, 1]}),
        ("tp_8", "model.norm.weight", {1: [-1]}),
    ],
)
def test_a_chunk_has_a_place_where_its_holders_stand(
    sample: str, fqn: str, said: dict[int, list[int]]
) -> None:
    checkpoint = open_checkpoint(str(SAMPLES / sample))
    tensor = next(t for t in checkpoint.tensors if t.fqn == fqn)
    found = axis_places(infer(checkpoint), tensor)
    order = np.lexsort(tensor.offsets.T[::-1])
    assert {a.number[0]: a.places[order].tolist() for a in found} == said


async def test_long_names_and_offsets_are_not_cut() -> None:
    async with opened(SAMPLES / "hf_dcp_sharded_4", "enter", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: "bytes at" in words(app))
        assert "file shard-00001-model-00001-of-00001.safetensors" in words(app)


async def test_the_stage_of_each_key_is_told_where_the_files_tell_one() -> None:
    sample = SAMPLES / "pp_hsdp_2x2x2"
    checkpoint = open_checkpoint(str(sample))
    expected = {
        checkpoint.tensors[index].fqn: keys.number
        for keys in stage_keys(checkpoint, StageRequest.parse("all/2"), (), infer(checkpoint))
        for index in keys.tensors
    }
    assert set(expected.values()) == {1, 2}
    async with opened(sample) as (app, pilot):
        await until(pilot, lambda: "Stage?" in screen_text(app))
        for fqn, stage in expected.items():
            assert re.search(rf"{fqn} .*Shard.*  {stage}  ", screen_text(app)), fqn
        stage = expected["model.layers.2.wq.weight"]  # Of the first row.
        assert f"pipeline stage {stage} of 2, by what the files show (no proof)" in words(app)
        await pilot.press("s", "s", "s", "s", "s")
        table = app.screen.query_one(TensorsView).table
        assert table.sorted_by == ("stage", False)
        stages = [table.source.cell(int(row), "stage") for row in table.rows]
        # Of one entry, the step, nothing tells it.
        assert stages == ["", *"1111", *"2222"]
    async with opened(SAMPLE, size=(160, 50)) as (app, _):
        assert "Stage" not in screen_text(app)


async def test_placements_of_three_axes_stand_whole_in_the_table() -> None:
    async with opened(SAMPLES / "hsdp_tp_2x2x2", size=(120, 30)) as (app, pilot):
        await until(pilot, lambda: "[R, S(0), S(1)]" in screen_text(app))
        assert "[R, _S(0, 2), S(0)]" in screen_text(app)
        # In full where there is room for one.
        assert "[Replicate(), Shard(0), Replicate()]" in words(app)
        table = app.screen.query_one(TensorsView).table
        assert table.sort("short_placements")
    async with opened(SAMPLE, size=(120, 30)) as (app, _):
        assert "[Replicate(), Shard(0)]" in screen_text(app)


@pytest.mark.parametrize(
    ("key", "shows"), [("v", "enter starts"), ("u", "6 tensors, 144"), ("c", " sound, every byte")]
)
async def test_a_key_that_comes_before_the_views_is_not_lost(
    key: str, shows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "_TURN_S", 0.2)
    app = InspectApp(str(SAMPLE))
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: bool(app.screen.query("#files")))
        screen = app.screen
        assert isinstance(screen, MainScreen) and not screen.is_complete
        await pilot.press(key)
        await until(pilot, lambda: shows in screen_text(app))


async def test_a_key_is_answered_while_the_screen_is_being_completed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It goes by way of the screen's own messages, which are not to wait for what is added."""
    goes_on, complete = asyncio.Event(), TensorsView.complete

    async def held(view: TensorsView) -> None:
        await goes_on.wait()
        await complete(view)

    monkeypatch.setattr(TensorsView, "complete", held)
    app = InspectApp(str(SAMPLE))
    async with app.run_test(size=(120, 30)) as pilot:
        await until(pilot, lambda: bool(app.screen.query(FilterLine)))
        screen = app.screen
        assert isinstance(screen, MainScreen)
        try:
            await pilot.press("j")
            await until(pilot, lambda: screen.query_one(TensorsView).table.cursor_row == 1, 20)
            assert not screen.is_complete and not screen.query(TensorDetail)
        finally:
            goes_on.set()
        await until(pilot, lambda: screen.is_complete)
        assert screen.query_one(TensorDetail).display


@pytest.mark.parametrize("num_names", [0, 1, 5, 100, 161])
def test_names_are_ranked_in_short_calls(num_names: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call from a thread that holds the interpreter goes through many unsorted names."""
    monkeypatch.setattr(sources, "_NAMES_AT_ONCE", 20)
    names = [f"layers.{number * 7919 % 1000}.weight" for number in range(num_names)]
    runs: list[int] = []

    def sorted_(texts: Iterable[str]) -> list[str]:
        kept = list(texts)
        runs.append(1 + sum(b < a for a, b in pairwise(kept)))
        return sorted(kept)

    monkeypatch.setattr(sources, "sorted", sorted_, raising=False)
    assert sources._ranks(names).tolist() == [sorted(names).index(name) for name in names]
    assert all(num <= 20 for num in runs)
