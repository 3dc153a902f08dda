"""Two checkpoints on the screen, as a user sees them: verdicts, the map, filters, cancelling."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from textual.events import Paste
from textual.pilot import Pilot
from textual.widgets import Input

from inspector.diff.map import difference_map
from inspector.diff.model import Tolerance
from inspector.diff.structure import compare_structure
from inspector.diff.values import compare_values
from inspector.tui.app import InspectApp
from inspector.tui.diff.comparison import GROUPS, Comparison, group_of
from inspector.tui.diff.map import DifferenceMap, PartGrid, plane_cuts
from inspector.tui.diff.opening import PairOf
from inspector.tui.diff.screen import DiffScreen
from inspector.tui.folder.ask_path import AskPathScreen
from inspector.tui.folder.picker import PickerScreen
from inspector.tui.kit.bars import VerdictBar
from inspector.tui.kit.virtual_table import VirtualTable
from inspector.tui.one_screen import DiffApp
from inspector.tui.screens.error import ErrorScreen
from inspector.tui.screens.main import MainScreen
from sample_ckpts.maker.editing import edit
from tests.conftest import ROOT, SAMPLES, run_cli, some_fast
from tests.diff.making import flipped, shards, side, write
from tests.tui.app_driver import CONTROL, opened, press, quiet, screen_text, settle, until, words

SIZES = [(80, 24), (160, 50)]


def screen_of(app: InspectApp) -> DiffScreen:
    assert isinstance(app.screen, DiffScreen), screen_text(app)
    return app.screen


def table_of(app: InspectApp) -> VirtualTable:
    return screen_of(app).view.table


def map_of(app: InspectApp) -> DifferenceMap:
    return screen_of(app).view.detail.map


def shown(app: InspectApp, key: str) -> list[str]:
    """A column of the table, as it is filtered and sorted."""
    table = table_of(app)
    cells = (table.source.cell(int(row), key) for row in table.rows)
    return [cell[0] if isinstance(cell, tuple) else str(cell) for cell in cells]


@asynccontextmanager
async def comparing(
    a: Path | str,
    b: Path | str,
    *,
    size: tuple[int, int] = (160, 50),
    values: bool = True,
    **options: Any,
) -> AsyncIterator[tuple[InspectApp, Pilot[int]]]:
    """The screen on two checkpoints; with `values`, until all were compared."""
    app = DiffApp(PairOf(str(a), str(b), **options), with_values=values)
    async with app.run_test(size=size, notifications=True) as pilot:
        await settle(app, pilot)
        if values:
            await compared(app, pilot)
        yield app, pilot


async def compared(app: InspectApp, pilot: Pilot[int]) -> None:
    await until(pilot, lambda: screen_of(app).comparison.values_compared)
    await quiet(pilot, 0.1)


async def drawn(app: InspectApp, pilot: Pilot[int]) -> PartGrid:
    """The map of the row at the cursor, when it is there and the values beside it."""
    await until(pilot, lambda: map_of(app).grid is not None and " A ..." not in screen_text(app))
    grid = map_of(app).grid
    assert grid is not None
    return grid


def many(tmp_path: Path) -> tuple[Path, Path]:
    """Two checkpoints that differ in every way, cut along different dims."""
    torch.manual_seed(0)
    a: dict[str, torch.Tensor] = {
        "same": torch.randn(40, 30),
        "block": torch.randn(64, 48),
        "close": torch.randn(16, 16),
        "nan": torch.randn(16, 16).bfloat16(),
        "line": torch.randn(3000),
        "cube": torch.randn(4, 16, 8),
        "dtype": torch.randn(8, 8),
        "shape": torch.randn(8, 8),
        "empty": torch.zeros(0, 4),
        "old.weight": torch.randn(10, 6),
        "gone": torch.randn(3),
    }
    b = {name: tensor.clone() for name, tensor in a.items()}
    b["block"][16:32, 24:36] += 1
    b["close"] = flipped(a["close"], 37)
    b["nan"][3, 5] = float("nan")
    b["line"][2000:2010] = 0
    b["cube"][2, 4, 6] = 9
    b["dtype"] = b["dtype"].bfloat16()
    b["shape"] = torch.randn(8, 4)
    b["new.weight"] = b.pop("old.weight")
    del b["gone"]
    b["came"] = torch.ones(3)
    cut = ({n: shards(t.shape, 0, 4) for n, t in a.items() if t.numel()},
           {n: shards(t.shape, t.dim() - 1, 4) for n, t in b.items() if t.numel()})  # fmt: skip
    entries: tuple[dict[str, object], dict[str, object]] = (
        {"step": 1, "kept": "x"},
        {"step": 2, "kept": "x"},
    )
    return tuple(  # type: ignore[return-value]
        write(tmp_path / name, *of)
        for name, of in zip("ab", zip((a, b), cut, entries, strict=True), strict=True)
    )


VERDICTS = {
    "same": "EXACT", "block": "DIFFER", "close": "CLOSE", "nan": "NON_FINITE", "line": "DIFFER",
    "cube": "DIFFER", "dtype": "DTYPE", "shape": "SHAPE", "empty": "NOT_COMPARED",
    "old.weight": "renamed", "gone": "only in A", "came": "only in B", "step": "DIFFER",
    "kept": "EXACT",
}  # fmt: skip


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_the_same_weights_under_two_shardings_are_exact(size: tuple[int, int]) -> None:
    a, b = SAMPLES / "hsdp_2x4", SAMPLES / "fsdp_8"
    async with comparing(a, b, size=size) as (app, pilot):
        said = words(app)
        assert "same: 6 tensors, every bit" in said
        assert "hsdp:2x4" in said and "fsdp:8" in said
        assert shown(app, "verdict") == ["EXACT"] * 6
        assert "every bit of" in said and "Nothing differs" in said
        assert "[Replicate(), Shard(0)]" in said and "[Shard(0)]" in said
        await pilot.press("q")
    assert app.return_value == 0


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_structure_comes_first_and_values_when_they_are_asked_for(
    size: tuple[int, int],
) -> None:
    a, b = SAMPLES / "hsdp_2x2", SAMPLES / "broken" / "bit_flip"
    async with comparing(a, b, size=size, values=False) as (app, pilot):
        assert "same structure: 6 tensors" in words(app) and "c compares them" in words(app)
        assert set(shown(app, "verdict")) == {"NOT_COMPARED"}
        assert not screen_of(app).comparison.tried
        await pilot.press("c")
        await compared(app, pilot)
        assert "different: 1 DIFFER, 5 EXACT" in words(app)
        await pilot.press("n")
        grid = await drawn(app, pilot)
        assert int(grid.found.num_different.sum()) == 1
        said = words(app)
        item = screen_of(app).view.item
        assert item is not None and item.fqn == "model.net1.weight"
        assert "1 of" in said and "[0, 1]" in said
        # The map's cursor stands where it is, and says so.
        assert "1 of" in "".join(map_of(app).render_line(1).text)
        assert ("[0:1, 1:2]" in said) or size == (80, 24)


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_every_kind_of_row_has_its_verdict_and_its_words(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    a, b = many(tmp_path)
    async with comparing(a, b, size=size) as (app, pilot):
        found = dict(zip(shown(app, "name"), shown(app, "verdict"), strict=True))
        assert found == VERDICTS
        expected = {
            "nan": "1 of 256 elements differ",
            "shape": "[8, 8] in A, [8, 4] in B",
            "dtype": "float32 in A, bfloat16 in B",
            "empty": "it has no elements",
            "old.weight": "new.weight in B, with the same content",
            "gone": "B has no such name",
            "came": "A has no such name",
            "step": "1 in A, 2 in B",
            "kept": "which were not unpickled",
            "close": "all of them within the tolerance",
        }
        for name, said in expected.items():
            table_of(app).select_row(screen_of(app).comparison.rows[name])
            await quiet(pilot, 0.1)
            if screen_of(app).view.has_class("-zoomed") is (size == (160, 50)):
                await pilot.press("z")
            await until(pilot, lambda said=said: said in words(app))  # type: ignore[misc]
        assert not CONTROL.search(screen_text(app).replace("\n", ""))


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
@pytest.mark.parametrize("plain", [True, False])
async def test_the_map_shows_where_and_the_cursor_tells_how_many(
    tmp_path: Path, size: tuple[int, int], plain: bool
) -> None:
    a, b = many(tmp_path)
    async with comparing(a, b, size=size) as (app, pilot):
        map_of(app)._plain = plain
        for name, total in (("block", 192), ("line", 10), ("cube", 1), ("dtype", 64)):
            table_of(app).select_row(screen_of(app).comparison.rows[name])
            await until(
                pilot,
                lambda name=name: (
                    (view := screen_of(app).view).item is not None  # type: ignore[misc]
                    and view.item.fqn == name
                    and map_of(app).grid is not None
                    and map_of(app).grid.shape == screen_of(app).comparison._tensors[name].shape_a
                ),
            )
            grid = await drawn(app, pilot)
            assert int(grid.found.num_different.sum()) == total
            structure = compare_structure(side(a), side(b))
            pair = next(pair for pair in structure.pairs if pair.fqn == name)
            again = difference_map(structure, pair, *grid.found.num_different.shape)
            assert again.num_different.tolist() == grid.found.num_different.tolist()
            lines = [map_of(app).render_line(y).text for y in range(map_of(app).size.height)]
            picture = "\n".join(lines[2:])
            assert "┼" in picture
            assert ("·" in picture) == bool((grid.levels == 0).any())
            # Walking over every part that differs, the counts add up to all of them.
            seen = 0
            for i, j in zip(*(grid.levels > 0).nonzero(), strict=True):
                map_of(app)._go(int(i), int(j))
                text = map_of(app).render_line(1).text
                differ = re.search(r"([\d,]+) of [\d,]+ d", grid.said(int(i), int(j)))
                assert differ and text.startswith("[")
                seen += int(differ[1].replace(",", ""))
            assert seen == total


async def test_the_block_is_drawn_where_it_is(tmp_path: Path) -> None:
    a, b = many(tmp_path)
    async with comparing(a, b) as (app, pilot):
        table_of(app).select_row(screen_of(app).comparison.rows["block"])
        grid = await drawn(app, pilot)
        marked = [
            (int(grid.found.row_cuts[i]), int(grid.found.column_cuts[j]))
            for i, j in zip(*(grid.levels > 0).nonzero(), strict=True)
        ]
        rows, columns = {row for row, _ in marked}, {column for _, column in marked}
        assert min(columns) == 24 and max(columns) == 35
        assert 14 <= min(rows) <= 16 and max(rows) < 32
        # A is cut along its rows, B along its columns: the frame has their ticks.
        lines = [map_of(app).render_line(y).text for y in range(map_of(app).size.height)]
        assert sum(line.startswith("├") for line in lines) == 3
        assert any(line.startswith("└") and line.count("┴") == 3 for line in lines)
        assert not any("┬" in line or "┤" in line for line in lines[2:])
        said = words(app)
        assert "first [16, 24]" in said and "192 of 3,072" in said
        x, y = (torch.load(_payload(p, "block", tmp_path)) for p in (a, b))
        assert f"A {float(x):.9g}" in said and f"B {float(y):.9g}" in said


def _payload(folder: Path, fqn: str, scratch: Path) -> Path:
    """The element [16, 24] of a tensor, by torch's own loading."""
    import torch.distributed.checkpoint as dcp

    state = {fqn: torch.zeros(64, 48)}
    dcp.load(state, checkpoint_id=str(folder), no_dist=True)
    out = scratch / f"{folder.name}.pt"
    torch.save(state[fqn][16, 24].clone(), out)
    return out


@pytest.mark.slow
async def test_verdicts_filter_by_key_by_click_and_with_names(tmp_path: Path) -> None:
    a, b = many(tmp_path)
    async with comparing(a, b) as (app, pilot):
        for number, (group, title) in enumerate(GROUPS.items(), 1):
            await pilot.press(str(number % 10))
            await pilot.pause(0.05)
            want = [name for name, verdict in VERDICTS.items() if verdict == title]
            assert sorted(shown(app, "name")) == sorted(want), group
            await pilot.press(str(number % 10))
        await pilot.pause(0.05)
        assert table_of(app).num_lines == len(VERDICTS)
        seen = []
        for _ in range(len(GROUPS)):
            await pilot.press("f")
            await pilot.pause(0.02)
            seen.append(screen_of(app).view.group)
        assert seen == [*GROUPS]
        await pilot.press("f")
        assert screen_of(app).view.group == ""
        bar = screen_of(app).query_one(VerdictBar)
        line, start, _, group = next(span for span in bar._spans if span[3] == "DIFFER")
        await pilot.click(VerdictBar, offset=(start + 2, line))
        await quiet(pilot, 0.1)
        assert set(shown(app, "verdict")) == {"DIFFER"} and group == "DIFFER"
        await press(pilot, "slash", *"cube", "enter", at_least_s=0.1)
        assert shown(app, "name") == ["cube"] and " 1 of 14 rows" in words(app)
        await press(pilot, "escape", "escape", at_least_s=0.1)
        assert table_of(app).num_lines == len(VERDICTS)


async def test_sorting_is_by_what_is_known_at_the_end(tmp_path: Path) -> None:
    a, b = many(tmp_path)
    async with comparing(a, b, values=False) as (app, pilot):
        await pilot.press("s", "s")  # by verdict
        assert table_of(app).sorted_by == ("verdict", False)
        await pilot.press("c")
        await compared(app, pilot)
        ranks = list(GROUPS.values())
        found = [ranks.index(verdict) for verdict in shown(app, "verdict")]
        assert found == sorted(found) and shown(app, "name")[0] == "nan"
        assert table_of(app).sort("different", reverse=True)
        assert shown(app, "name")[:3] == ["block", "dtype", "line"]
        for key in ("name", "first", "max_abs", "max_rel", "max_ulps", "dtype", "shape"):
            assert table_of(app).sort(key)


async def test_one_tensor_alone(tmp_path: Path) -> None:
    a, b = many(tmp_path)
    async with comparing(a, b, values=False) as (app, pilot):
        comparison = screen_of(app).comparison
        table_of(app).select_row(comparison.rows["block"])
        await quiet(pilot, 0.1)
        assert "m this tensor alone" in words(app)
        await pilot.press("m")
        await until(pilot, lambda: not screen_of(app).is_comparing and bool(comparison.tried))
        assert comparison.tried == {"block"} and not comparison.values_compared
        grid = await drawn(app, pilot)
        assert int(grid.found.num_different.sum()) == 192
        await pilot.press("c")
        await compared(app, pilot)
        assert dict(zip(shown(app, "name"), shown(app, "verdict"), strict=True)) == VERDICTS
        whole = compare_values(compare_structure(side(a), side(b)))
        known = comparison.diff
        assert {t.fqn: t for t in known.tensors} == {t.fqn: t for t in whole.tensors}
        assert (known.renamed, known.only_in_a, known.only_in_b, set(known.entries)) == (
            whole.renamed, whole.only_in_a, whole.only_in_b, set(whole.entries),
        )  # fmt: skip
        await press(pilot, "c", at_least_s=0.1)
        assert "Nothing is left to compare" in words(app)


async def test_it_can_be_stopped_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inspector.diff import values

    gate = threading.Event()
    real, seen = values._Comparing.run, []

    def slowly(self: Any, task: Any) -> None:
        seen.append(task.pair.fqn)
        if len(seen) > 3:
            assert gate.wait(300)
        real(self, task)

    monkeypatch.setattr(values._Comparing, "run", slowly)
    a, b = many(tmp_path)
    async with comparing(a, b, values=False) as (app, pilot):
        screen = screen_of(app)
        await pilot.press("c")
        await until(pilot, lambda: sum(screen.comparison.counts.values()) > 0 and len(seen) > 3)
        await until(pilot, lambda: screen.comparison.counts["EXACT"] > 0)
        assert screen.is_comparing and "comparing values" in words(app)
        # Its keys are answered meanwhile.
        before = table_of(app).cursor
        await pilot.press("j")
        assert table_of(app).cursor == before + 1
        await press(pilot, "c", shows="stopping")
        gate.set()
        await until(pilot, lambda: not screen.is_comparing)
        await until(pilot, lambda: "stopped before everything was compared" in words(app))
        assert screen.comparison.counts["NOT_COMPARED"] > 1
        await pilot.press("c")
        await until(pilot, lambda: not screen.comparison.is_cancelled)
        assert dict(zip(shown(app, "name"), shown(app, "verdict"), strict=True)) == VERDICTS
        assert seen.count("same") == 1  # what was compared is not compared again


async def test_leaving_stops_what_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inspector.diff import values

    started = threading.Event()

    def waits(self: Any, task: Any) -> None:
        started.set()
        while True:
            self._run.stop.check()
            time.sleep(0.01)

    monkeypatch.setattr(values._Comparing, "run", waits)
    a, b = many(tmp_path)
    async with comparing(a, b, values=False) as (app, pilot):
        await pilot.press("c")
        await until(pilot, started.is_set)
        await pilot.press("q")
    assert app.return_value == 2
    deadline = time.monotonic() + 300
    while any(t.name == "comparing" for t in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


async def test_the_tolerance_and_the_filter_of_the_command_line_hold(tmp_path: Path) -> None:
    x = torch.ones(5)
    a = write(tmp_path / "a", {"w.t": x, "other": x})
    b = write(tmp_path / "b", {"w.t": x + 2**-23, "other": x})
    for rtol, verdict in ((None, "CLOSE"), (0.0, "DIFFER")):
        options = {"filter_text": "w.", "tolerance": Tolerance(rtol)}
        async with comparing(a, b, **options) as (app, _):
            assert (shown(app, "name"), shown(app, "verdict")) == (["w.t"], [verdict])
            assert "only names with w." in words(app)
    async with comparing(a, b, values=False, filter_text="nosuch") as (app, pilot):
        assert isinstance(app.screen, ErrorScreen) and "matches the filter" in words(app)
        await pilot.press("q")
    assert app.return_value == 2


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_hostile_names_are_shown_and_never_obeyed(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    evil = "w.\x1b]52;c;eHg=\x07[bold]x[/bold]\u202egpj\x1b[2J" + "n" * 300
    x = torch.randn(6, 6)
    a = write(tmp_path / "a", {evil: x, evil + "a": x[:2]}, entries={evil + "e": 1})
    b = write(tmp_path / "b", {evil: flipped(x, 7, 30), evil + "b": x[:2]}, entries={evil + "e": 2})
    async with comparing(a, b, size=size) as (app, pilot):
        for row in range(table_of(app).num_lines):
            table_of(app).move_cursor(row)
            await quiet(pilot, 0.3)
            for keys in ([], ["z"], ["z"]):
                await pilot.press(*keys)
                await pilot.pause(0.05)
                assert not CONTROL.search(screen_text(app).replace("\n", ""))
        assert "[bold]" in screen_text(app) or "…" in screen_text(app)
        table_of(app).move_cursor(0)
        await quiet(pilot, 0.5)
        for _, text in screen_of(app).view.copy_choices():
            assert not CONTROL.search(text)
        await press(pilot, "y", at_least_s=0.1)
        assert not CONTROL.search(screen_text(app).replace("\n", ""))


async def test_a_damaged_side_says_why_and_the_rest_is_compared(tmp_path: Path) -> None:
    a = SAMPLES / "hsdp_2x2"
    async with comparing(a, SAMPLES / "broken" / "file_missing") as (app, pilot):
        assert "unknown: not everything could be compared" in words(app)
        assert set(shown(app, "verdict")) == {"EXACT", "NOT_COMPARED"}
        await press(pilot, "5", at_least_s=0.2)
        assert "in B: cannot read" in words(app)
        assert "It could not be compared." in words(app)


async def test_a_name_whose_metadata_is_damaged_is_a_row_of_its_own(tmp_path: Path) -> None:
    x = torch.randn(4, 4)
    a, b = (write(tmp_path / name, {"good": x, "bad": x}) for name in "ab")

    def spoil(metadata: Any) -> None:
        metadata.state_dict_metadata["bad"].chunks = 7

    edit(b, spoil)
    async with comparing(a, b) as (app, pilot):
        table_of(app).select_row(screen_of(app).comparison.rows["bad"])
        await quiet(pilot, 0.2)
        assert "its metadata cannot be read" in words(app)
        assert shown(app, "verdict") == ["EXACT", "NOT_COMPARED"]


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
@pytest.mark.parametrize(
    ("b", "said"),
    [
        ("/no/such/place", "there is no such file or folder"),
        (SAMPLES / "run", "3 checkpoints: give the path of one"),
        (SAMPLES / "broken" / "metadata_cut", ".metadata"),
    ],
)
async def test_a_side_that_cannot_be_read_is_told_and_exits_with_2(
    b: Path | str, said: str, size: tuple[int, int]
) -> None:
    for sides in ((SAMPLES / "hsdp_2x2", b), (b, SAMPLES / "hsdp_2x2")):
        async with comparing(*sides, size=size, values=False) as (app, pilot):
            assert isinstance(app.screen, ErrorScreen)
            # A long path is broken where the line ends: the spaces of that are not its own.
            assert said.replace(" ", "") in words(app).replace(" ", "")
            await pilot.press("q")
        assert app.return_value == 2


async def test_reload_reads_both_anew_and_keeps_the_cursor(tmp_path: Path) -> None:
    a = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "a"))
    async with comparing(a, SAMPLES / "fsdp_4") as (app, pilot):
        await pilot.press("j", "j")
        name = shown(app, "name")[table_of(app).cursor]
        shutil.rmtree(a)
        shutil.copytree(SAMPLES / "broken" / "bit_flip", a)
        await pilot.press("r")
        await settle(app, pilot)
        assert shown(app, "name")[table_of(app).cursor] == name
        assert set(shown(app, "verdict")) == {"NOT_COMPARED"}
        await pilot.press("c")
        await compared(app, pilot)
        assert "1 DIFFER" in words(app)
        shutil.rmtree(a)
        await pilot.press("r")
        await settle(app, pilot)
        assert "could not be read" in words(app) and isinstance(app.screen, DiffScreen)


# Ways into it.


@pytest.mark.slow
async def test_the_picker_filters_and_compares_two_of_its_checkpoints(tmp_path: Path) -> None:
    for name, source in (
        ("step-1", "hsdp_2x2"), ("step-2", "broken/bit_flip"), ("step-30", "fsdp_4"),
    ):  # fmt: skip
        shutil.copytree(SAMPLES / source, tmp_path / name)
    async with opened(tmp_path) as (app, pilot):
        assert isinstance(app.screen, PickerScreen)
        table = app.screen.query_one(VirtualTable)
        await press(pilot, "slash", *"step-3", "enter", at_least_s=0.2)
        assert table.num_lines == 1 and "1 of 3 checkpoints" in words(app)
        await press(pilot, "escape", at_least_s=0.2)
        assert table.num_lines == 3
        table.select_row([item.path for item in app.screen._folder.found].index("step-1"))
        await press(pilot, "d", at_least_s=0.1)
        assert "[A] step-1" in screen_text(app)
        await press(pilot, "d", at_least_s=0.1)
        assert isinstance(app.screen, PickerScreen) and "This is the marked one" in words(app)
        await pilot.press("m")  # takes the mark away
        await quiet(pilot, 0.1)
        assert "[A]" not in screen_text(app)
        await press(pilot, "m", "slash", *"step-2", "enter", at_least_s=0.2)
        await pilot.press("d")
        await settle(app, pilot)
        assert [s.path.rpartition("/")[2] for s in screen_of(app).comparison.structure.sides] == [
            "step-1", "step-2",
        ]  # fmt: skip
        await pilot.press("c")
        await compared(app, pilot)
        assert "1 DIFFER" in words(app)
        await press(pilot, "escape", at_least_s=0.2)
        assert isinstance(app.screen, PickerScreen)
        await press(pilot, "escape", "escape", "escape", at_least_s=0.2)
        assert isinstance(app.screen, PickerScreen) and "[A]" not in screen_text(app)
        await pilot.press("q")
    assert app.return_value == 0


@pytest.mark.slow
async def test_the_main_screen_asks_for_the_other_side() -> None:
    async with opened(SAMPLES / "hsdp_2x2", "D") as (app, pilot):
        assert isinstance(app.screen, AskPathScreen)
        field = app.screen.query_one(Input)
        assert field.value == f"{SAMPLES}/"
        # What was typed stays, whether nothing is there or what is there cannot be opened.
        field.value = "/no/such/place"
        await press(pilot, "enter", shows="nothing is there: /no/such/place")
        assert field.value == "/no/such/place"
        empty = f"{SAMPLES}/broken/metadata_cut"
        field.value = empty
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorScreen))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, AskPathScreen))
        field = app.screen.query_one(Input)
        await until(pilot, lambda: field.value == empty)
        app.screen.post_message(Paste(f"{SAMPLES}/fsdp_4\n"))
        await until(pilot, lambda: field.value == f"{SAMPLES}/fsdp_4")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, DiffScreen))
        await until(pilot, lambda: "fsdp:4" in words(app) and "hsdp:2x2" in words(app))
        await press(pilot, "escape", at_least_s=0.2)
        assert isinstance(app.screen, MainScreen)
        await pilot.press("q")
    assert app.return_value == 0


async def test_sort_is_a_command_of_every_table() -> None:
    async with opened(SAMPLES / "hsdp_2x2") as (app, pilot):
        main = app.screen
        assert isinstance(main, MainScreen)
        titles = [command.title for command in app.get_system_commands(main)]
        for word in ("Sort", "Turn order", "Compare"):
            assert any(title.startswith(f"{word} ") for title in titles), titles
        await pilot.press("s")
        assert main.view.table.sorted_by == ("name", False)
        await pilot.press("S")
        assert main.view.table.sorted_by == ("name", True)
        await pilot.press("2", "s")
        assert main.view.table.sorted_by == ("path", False)


def test_the_cuts_of_chunks_are_rows_and_columns_of_the_plane() -> None:
    boxes = [*shards((4, 6, 8), 1, 2), *shards((4, 6, 8), 2, 4)]
    offsets = torch.tensor([offset for offset, _ in boxes]).numpy()
    rows, columns = plane_cuts((4, 6, 8), offsets)
    assert (rows.tolist(), columns.tolist()) == ([0, 3], [0, 2, 4, 6])
    rows, columns = plane_cuts((), torch.zeros(1, 0, dtype=torch.int64).numpy())
    assert (rows.tolist(), columns.tolist()) == ([0], [0])


def test_a_comparison_counts_what_it_lists(tmp_path: Path) -> None:
    a, b = many(tmp_path)
    structure = compare_structure(side(a), side(b))
    from inspector.layout.writer.written_by import infer

    written_by = infer(structure.a.checkpoint), infer(structure.b.checkpoint)
    comparison = Comparison(structure, written_by, Tolerance())
    diff = compare_values(structure)
    assert comparison.finish(replace(diff, renamed=()), is_all=True) is False
    assert comparison.counts["ONLY_A"] == 2 and comparison.counts["RENAMED"] == 0
    assert comparison.finish(diff, is_all=True) is True
    assert {group_of(item) for item in comparison.items} == {
        group for group, count in comparison.counts.items() if count
    }
    assert comparison.counts["ONLY_A"] == 1 and comparison.counts["RENAMED"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
def test_the_command_opens_it_on_a_terminal_and_text_elsewhere(size: tuple[int, int]) -> None:
    command = [
        sys.executable, "-m", "inspector", "diff",
        str(SAMPLES / "hsdp_2x2"), str(SAMPLES / "broken" / "bit_flip"), "--values",
    ]  # fmt: skip
    env = {**os.environ, "TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none"}
    ends = pty.openpty()
    fcntl.ioctl(ends[1], termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    ran = subprocess.Popen(
        command, stdin=ends[1], stdout=ends[1], stderr=ends[1], cwd=ROOT, env=env,
        start_new_session=True,
    )  # fmt: skip
    os.close(ends[1])
    seen, asked, deadline = b"", False, time.monotonic() + 300
    try:
        while ran.poll() is None and time.monotonic() < deadline:
            # Quiet for so long, it is done: the counts are there a moment before the end.
            if select.select([ends[0]], [], [], 0.5)[0]:
                try:
                    seen += os.read(ends[0], 1 << 16)
                except OSError:
                    break
            elif not asked and b"1 DIFFER, 5 EXACT" in seen:
                asked = True
                os.write(ends[0], b"q")
        assert ran.wait(300) == 1, seen[-500:]
    finally:
        ran.kill()
        os.close(ends[0])
    assert asked and b"\x1b[?1049h" in seen
    for extra in (["--no-tui"], ["--json"]):
        piped = subprocess.run([*command, *extra], cwd=ROOT, capture_output=True, check=False)
        assert (piped.returncode, piped.stderr) == (1, b"") and b"\x1b" not in piped.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("b", "values", "code"),
    [
        ("fsdp_4", True, 0),
        ("fsdp_4", False, 0),
        ("broken/bit_flip", True, 1),
        ("broken/bit_flip", False, 0),
        ("broken/file_missing", True, 2),
        ("broken/chunk_gap", False, 2),
        ("nowhere", False, 2),
    ],
)
async def test_the_exit_code_is_that_of_the_text(b: str, values: bool, code: int) -> None:
    app = DiffApp(PairOf(str(SAMPLES / "hsdp_2x2"), str(SAMPLES / b)), with_values=values)
    async with app.run_test(size=SIZES[0]) as pilot:
        await settle(app, pilot)
        if values:
            await compared(app, pilot)
        await pilot.press("q")
    assert app.return_value == code
    text = run_cli("diff", SAMPLES / "hsdp_2x2", SAMPLES / b, *(["--values"] if values else []))
    assert text.code == code


async def test_values_that_are_compared_on_the_screen_count() -> None:
    a, b = SAMPLES / "hsdp_2x2", SAMPLES / "broken" / "bit_flip"
    async with comparing(a, b, values=False) as (app, pilot):
        await pilot.press("c")
        await compared(app, pilot)
        await pilot.press("q")
    assert app.return_value == 1


async def test_to_leave_while_values_are_compared_is_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from inspector.values.bits import TensorBits

    read = TensorBits.read

    def slowly(*args: Any) -> Any:
        time.sleep(0.5)
        return read(*args)

    monkeypatch.setattr(TensorBits, "read", slowly)
    app = DiffApp(PairOf(str(SAMPLES / "hsdp_2x2"), str(SAMPLES / "fsdp_4")), with_values=True)
    async with app.run_test(size=SIZES[0]) as pilot:
        await settle(app, pilot)
        await until(pilot, lambda: screen_of(app).is_comparing)
        await pilot.press("q")
    assert app.return_value == 2


async def test_close_is_told_with_its_bound_and_may_be_allowed(tmp_path: Path) -> None:
    x = torch.ones(5)
    a, b = write(tmp_path / "a", {"t": x}), write(tmp_path / "b", {"t": x + 2**-23})
    for allowed, code in ((False, 1), (True, 0)):
        app = DiffApp(PairOf(str(a), str(b)), with_values=True, allow_close=allowed)
        async with app.run_test(size=SIZES[1]) as pilot:
            await settle(app, pilot)
            await compared(app, pilot)
            await until(pilot, lambda app=app: "1.3e-06" in words(app))  # type: ignore[misc]
            await pilot.press("q")
        assert app.return_value == code
