"""The app as a user sees it: opened on real checkpoints, driven by keys and mouse."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from textual.widgets import Input

from inspector.tui.folder.picker import PickerScreen
from inspector.tui.kit.virtual_table import VirtualTable
from inspector.tui.screens.error import ErrorScreen
from inspector.tui.screens.main import MainScreen
from inspector.tui.tensors.chunk_map import ChunkMap
from inspector.tui.tensors.tree import TensorTree
from inspector.tui.tensors.view import TensorsView
from sample_ckpts.maker import editing as ed
from tests.conftest import GOLDEN, SAMPLES, run_python, some_fast
from tests.tui.app_driver import CONTROL, opened, press, quiet, screen_text, settle, until, words

SIZES = [(80, 24), (160, 50)]


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_a_checkpoint_opens_on_its_tensors(size: tuple[int, int]) -> None:
    async with opened(SAMPLES / "hsdp_2x4", size=size) as (app, _):
        text = screen_text(app)
        assert "hsdp:2x4 (boxes and owners certain)" in text
        for name in ("net1.weight", "net1.bias", "net3.bias"):
            assert f"model.{name}" in text
        assert "[Replicate(), Shard(0)]" in text
        assert "r0" in text and "r3" in text  # the chunk map
        assert "by torch 2.9 to 2.14" in text


@pytest.mark.parametrize(
    "sample",
    some_fast(
        sorted(p.parent.name for p in SAMPLES.glob("*/.metadata")),
        {"dtypes_4", "names_hostile_1", "zstd_2"},
    ),
)
async def test_every_sample_opens_at_both_sizes(sample: str) -> None:
    async with opened(SAMPLES / sample, size=SIZES[0]) as (app, pilot):
        for size in SIZES:
            await pilot.resize_terminal(*size)
            for key in ("2", "1", "z"):
                await pilot.press(key)
                await pilot.pause()
                assert not CONTROL.search(screen_text(app).replace("\n", ""))
            await until(pilot, lambda: app.screen.query_one(TensorsView).has_class("-zoomed"))
            assert isinstance(app.screen, MainScreen)
            await pilot.press("z")


FIRST_FRAME = """
import sys
from inspector.tui.launch import prefetch
child = prefetch(sys.argv[1], 1 << 20)
from textual.css.stylesheet import Stylesheet
from inspector.tui.app import InspectApp
from inspector.tui.screens.main import MainScreen
from inspector.tui.tensors.preview import Preview
reparse, parsed = Stylesheet.reparse, []
Stylesheet.reparse = lambda self: (parsed.append(1), reparse(self))
def look(screen):
    lines = screen._compositor.render_strips()
    text = "".join(segment.text for line in lines for segment in line)
    assert "net3.bias" in text, text
    last = {"inspector.checks", "inspector.layout", "numpy", "inspector.checkpoint.model"}
    assert not last & set(sys.modules), last & set(sys.modules)
    assert not parsed, "rules were parsed for nothing"
    screen.app.exit(0)
MainScreen._begin = look
app = InspectApp(sys.argv[1], preview=Preview.of(sys.argv[1], child.header(60)), prefetched=child)
print(app.run(headless=True))
"""


def test_the_first_frame_waits_for_nothing_that_it_does_not_show() -> None:
    done = run_python("-c", FIRST_FRAME, SAMPLES / "hsdp_2x4", check=True)
    assert done.out == "0\n", done.out + done.err


AFTER_IT = """
import importlib.abc, sys, threading
from inspector.tui.launch import prefetch
child = prefetch(sys.argv[1], 1 << 20)
from inspector.tui.app import InspectApp
from inspector.tui.screens.main import MainScreen
from inspector.tui.tensors.preview import Preview
held_up = []
class Look(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if threading.current_thread() is threading.main_thread():
            held_up.append(name)
begin, end = MainScreen._begin, InspectApp.on_screen_complete
def look(screen):
    sys.meta_path.insert(0, Look())
    begin(screen)
MainScreen._begin = look
InspectApp.on_screen_complete = lambda app, event: app.exit(0)
app = InspectApp(sys.argv[1], preview=Preview.of(sys.argv[1], child.header(60)), prefetched=child)
assert app.run(headless=True) == 0
assert "inspector.tui.plan.view" in sys.modules and "numpy" in sys.modules
print(*held_up)
"""


def test_keys_do_not_wait_for_what_is_imported_after_the_first_frame() -> None:
    done = run_python("-c", AFTER_IT, SAMPLES / "hsdp_2x4", check=True)
    # On the event loop: three small ones, of three hundred.
    assert len(done.out.split()) < 10, done.out


async def test_a_checkpoint_that_torch_cannot_read_opens() -> None:
    for case in ("1.13.1/st_flat", "2.15.0/hsdp2x2"):
        async with opened(GOLDEN / case) as (app, _):
            assert "float32 [64, 16]" in screen_text(app)


async def test_the_cursor_moves_by_vim_keys_and_the_detail_follows() -> None:
    async with opened(SAMPLES / "hsdp_uneven_2x4", "j", "j") as (app, pilot):
        table = app.screen.query_one("#entries", VirtualTable)
        row = table.cursor_row
        assert row == 2
        name = table.source.cell(row, "name")
        facts = str(app.screen.query_one("#detail-text").render())
        assert facts.splitlines()[0] == name
        await pilot.press("G")
        assert table.cursor_row == table.num_lines - 1
        await pilot.press("g")
        assert table.cursor_row == 0


@pytest.mark.slow
async def test_the_filter_narrows_as_it_is_typed_and_escape_clears_it() -> None:
    async with opened(SAMPLES / "fsdp2_adamw_4", "slash", *"exp_avg", "space", *"!sq") as (
        app,
        pilot,
    ):
        table = app.screen.query_one("#entries", VirtualTable)
        names = [table.source.cell(int(row), "name") for row in table.rows]
        assert names
        assert all("exp_avg" in name and "sq" not in name for name in names)
        assert f"{len(names)} of {table.source.num_rows}" in screen_text(app)
        await pilot.press("enter")
        assert table.has_focus
        await pilot.press("escape")
        assert table.num_lines == table.source.num_rows


async def test_sorting_by_key_and_by_header_click() -> None:
    async with opened(SAMPLES / "fsdp2_adamw_4") as (app, pilot):
        table = app.screen.query_one("#entries", VirtualTable)
        table.sort("bytes", reverse=True)
        await pilot.pause()
        sizes = [table.source.row_bytes[row] for row in table.rows]  # type: ignore[attr-defined]
        assert sizes == sorted(sizes, reverse=True)
        await pilot.click("#entries", offset=(8, 0))
        assert table.sorted_by == ("name", False)


async def test_the_tree_narrows_the_table_to_a_module() -> None:
    async with opened(SAMPLES / "fsdp2_adamw_4") as (app, pilot):
        tree = app.screen.query_one(TensorTree)
        table = app.screen.query_one("#entries", VirtualTable)
        everything = table.num_lines
        tree.focus()
        await press(pilot, "j", at_least_s=0.1)
        narrowed = table.num_lines
        assert 0 < narrowed < everything
        names = {str(table.source.cell(int(row), "name")).split(".")[0] for row in table.rows}
        assert len(names) == 1
        await press(pilot, "escape", at_least_s=0.1)
        assert table.num_lines == everything


async def test_zoom_gives_the_screen_to_one_tensor_and_chunks_are_stepped_through() -> None:
    async with opened(SAMPLES / "hsdp_2x4", "enter") as (app, pilot):
        view = app.screen.query_one(TensorsView)
        assert view.has_class("-zoomed")
        chunks = app.screen.query_one("#detail-chunks", VirtualTable)
        assert chunks.has_focus
        assert chunks.num_lines == 4
        await press(pilot, "j", "j", at_least_s=0.1)
        chunk_map = app.screen.query_one(ChunkMap)
        assert chunk_map.highlight == 2
        assert "[4:6, 0:5]" in screen_text(app)
        await pilot.press("escape")
        assert not view.has_class("-zoomed")


async def test_files_show_their_size_and_what_lies_in_them() -> None:
    async with opened(SAMPLES / "fsdp2_hsdp_2x4_adamw", "2") as (app, pilot):
        text = screen_text(app)
        assert "__0_0.distcp" in text and "__7_0.distcp" in text
        assert "█" in text
        contents = app.screen.query_one("#contents", VirtualTable)
        offsets = [
            int(str(contents.source.cell(row, "offset"))) for row in range(contents.num_lines)
        ]
        assert offsets == sorted(offsets) and offsets[0] == 0
        first = str(contents.source.cell(0, "name"))
        await press(pilot, "j", at_least_s=0.1)
        other = [str(contents.source.cell(row, "name")) for row in range(contents.num_lines)]
        assert other and other != [first]


async def test_an_empty_rank_file_is_called_normal() -> None:
    async with opened(GOLDEN / "2.1.2" / "ddp4", "2", "j") as (app, _):
        assert "which is normal" in screen_text(app)


async def test_the_picker_names_the_newest_step_that_is_whole(tmp_path: Path) -> None:
    for step in (10, 20):
        for part in ("pytorch_model_fsdp_0", "optimizer_0"):
            sample = SAMPLES / "accelerate_fsdp" / part
            shutil.copytree(sample, tmp_path / f"checkpoint-{step}" / part)
    newest = tmp_path / "checkpoint-20" / "optimizer_0"
    (newest / ".metadata").rename(newest / ".metadata.tmp")
    (tmp_path / "latest").write_text("checkpoint-20")
    async with opened(tmp_path, size=(200, 20)) as (app, pilot):
        assert isinstance(app.screen, PickerScreen)
        await until(pilot, lambda: "newest sound" in screen_text(app))
        text = screen_text(app)
        assert "newest sound: checkpoint-10" in text
        assert "latest names checkpoint-20, which has not finished" in text
        assert "optimizer_0: unfinished" in text


async def test_the_picker_says_that_its_newest_step_may_be_half_overwritten(
    tmp_path: Path,
) -> None:
    for step in (10, 20):
        shutil.copytree(SAMPLES / "hsdp_2x4", tmp_path / f"step-{step}")
    finished_s = (tmp_path / "step-20" / ".metadata").stat().st_mtime
    for file in (tmp_path / "step-20").glob("*.distcp"):
        os.utime(file, (finished_s + 3600, finished_s + 3600))
    async with opened(tmp_path, size=(160, 20)) as (app, pilot):
        assert isinstance(app.screen, PickerScreen)
        await until(pilot, lambda: "newest sound" in screen_text(app))
        text = screen_text(app)
        assert "newest sound: step-20, bytes unread, perhaps half overwritten" in text
        assert re.search(r"step-20 +20 +rewritten\?", text)
        assert re.search(r"step-10 +10 +complete", text)


async def test_a_run_folder_opens_on_the_picker_at_its_newest_complete_step() -> None:
    async with opened(SAMPLES / "run") as (app, pilot):
        assert isinstance(app.screen, PickerScreen)
        await until(pilot, lambda: "newest sound: step-200" in screen_text(app))
        text = screen_text(app)
        assert "unfinished" in text and "unreadable" in text
        # Nothing but metadata was looked at, and that is said of what is sound.
        assert "newest sound: step-200, bytes unread" in text
        assert re.search(r"step-200 +200 +complete +metadata sound ", text)
        await pilot.press("enter")
        await settle(app, pilot)
        assert isinstance(app.screen, MainScreen)
        assert "step-200" in screen_text(app)
        await press(pilot, "escape", at_least_s=0.1)
        assert isinstance(app.screen, PickerScreen)
        await pilot.press("j", "o")
        await settle(app, pilot)
        assert isinstance(app.screen, ErrorScreen)
        assert "has not finished" in screen_text(app)
        await press(pilot, "escape", at_least_s=0.1)
        assert isinstance(app.screen, PickerScreen)


@pytest.mark.parametrize("size", some_fast(SIZES, SIZES[:1]), ids=str)
async def test_a_bad_path_is_told_on_the_screen_and_by_the_exit_code(
    size: tuple[int, int], tmp_path: Path
) -> None:
    async with opened(tmp_path / "nowhere", size=size) as (app, pilot):
        await until(pilot, lambda: "no such file" in words(app))
        await pilot.press("q")
    assert app.return_value == 2


async def test_try_again_after_the_checkpoint_was_repaired(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "ckpt"))
    (folder / ".metadata").rename(folder / ".metadata.tmp")
    async with opened(folder) as (app, pilot):
        assert "has not finished" in words(app)
        (folder / ".metadata.tmp").rename(folder / ".metadata")
        await pilot.press("r")
        await settle(app, pilot)
        assert "hsdp:2x2 (boxes and owners certain)" in screen_text(app)
        await pilot.press("q")
    assert app.return_value == 0


async def test_reload_reads_anew_and_keeps_the_cursor(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x4", tmp_path / "ckpt"))
    async with opened(folder, "j", "j") as (app, pilot):
        table = app.screen.query_one("#entries", VirtualTable)
        name = table.source.cell(table.cursor_row or 0, "name")
        shutil.rmtree(folder)
        shutil.copytree(SAMPLES / "fsdp_4", folder)
        await pilot.press("r")
        await settle(app, pilot)
        assert "fsdp:4 (boxes and owners certain)" in screen_text(app)
        assert table.source.cell(table.cursor_row or 0, "name") == name
        shutil.rmtree(folder)
        await pilot.press("r")
        await settle(app, pilot)
        assert "could not be read" in screen_text(app)
        assert isinstance(app.screen, MainScreen)


async def test_a_checkpoint_can_be_copied_from_and_the_text_stays_visible() -> None:
    async with opened(SAMPLES / "names_hostile_1", "y", "enter") as (app, _):
        assert app.clipboard == r"colour.\x1b[31mred\x1b[0m"
        assert "OSC 52" in screen_text(app)
        assert not CONTROL.search(app.clipboard)


async def test_hostile_names_are_shown_and_never_obeyed() -> None:
    for size in SIZES:
        async with opened(SAMPLES / "names_hostile_1", size=size) as (app, pilot):
            for _ in range(40):
                text = screen_text(app)
                assert not CONTROL.search(text.replace("\n", ""))
                await pilot.press("j")
            await press(pilot, "g", "2", at_least_s=0.1)
            assert not CONTROL.search(screen_text(app).replace("\n", ""))


async def test_the_summary_has_the_evidence() -> None:
    async with opened(SAMPLES / "hsdp_2x4", "i", size=(80, 24)) as (app, _):
        assert "24 of 24 items" in screen_text(app)


async def test_both_themes_and_no_colour() -> None:
    async with opened(SAMPLES / "hsdp_2x4", "t") as (app, pilot):
        assert app.theme == "hsdp-light"
        await pilot.press("t")
        assert app.theme == "hsdp-dark"


async def test_without_colour_the_chunks_have_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with opened(SAMPLES / "hsdp_2x4") as (app, _):
        text = screen_text(app)
        assert "┌" in text and "r3" in text


@pytest.mark.slow
async def test_the_window_can_shrink_and_grow() -> None:
    async with opened(SAMPLES / "fsdp2_adamw_4") as (app, pilot):
        for size in [(40, 12), (20, 8), (200, 60), (80, 24), (5, 3), (160, 50)]:
            await pilot.resize_terminal(*size)
            await quiet(pilot, 0.1)
        assert "fsdp:4 (boxes and owners certain)" in screen_text(app)


async def test_loading_can_be_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from inspector.tui import session
    from inspector.tui.app import InspectApp
    from inspector.tui.screens.loading import LoadingScreen

    real = session.Loading._load

    def slow(self: session.Loading) -> session.Outcome:
        while not self._progress(1, 2):
            time.sleep(0.01)
        return real(self)

    monkeypatch.setattr(session.Loading, "_load", slow)
    app = InspectApp(str(SAMPLES / "hsdp_2x4"))
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.screen, LoadingScreen))
        assert app.return_value is None
        await pilot.press("escape")
        await until(pilot, lambda: app.return_value is not None)
    # Nothing was read, so nothing was found to be right.
    assert app.return_value == 2


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A checkpoint with a gap, a missing file and a flipped bit."""
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x4", tmp_path / "ckpt"))
    ed.set_chunks(folder, "model.net1.weight", list.pop)
    (folder / "__3_0.distcp").unlink()
    path, offset, _ = ed.place(folder, "model.net3.weight")
    path.write_bytes(ed.flip_bit(path.read_bytes(), offset + 710))
    return folder


async def test_findings_are_listed_and_lead_to_where_they_are(damaged: Path) -> None:
    async with opened(damaged, "3") as (app, pilot):
        await until(pilot, lambda: "chunk-gap" in screen_text(app))
        assert "DAMAGED" in screen_text(app)
        assert "loads silently" in words(app)
        table = app.screen.query_one("#findings-table", VirtualTable)
        for row in range(table.num_lines):
            if table.source.cell(row, "code") == "chunk-gap":
                table.select_row(row)
        await press(pilot, "enter", at_least_s=0.1)
        entries = app.screen.query_one("#entries", VirtualTable)
        assert entries.source.cell(entries.cursor_row or 0, "name") == "model.net1.weight"
        assert entries.source.marker(entries.cursor_row or 0) == "error"
        assert "╳" in screen_text(app)
        await press(pilot, "n", at_least_s=0.1)
        files = app.screen.query_one("#files-table", VirtualTable)
        assert files.source.cell(files.cursor_row or 0, "path") == "__3_0.distcp"
        await press(pilot, "N", at_least_s=0.1)
        assert entries.source.cell(entries.cursor_row or 0, "name") == "model.net1.weight"


async def test_escape_goes_back_to_where_a_finding_was_followed_from(damaged: Path) -> None:
    async with opened(damaged, "3") as (app, pilot):
        screen = app.screen
        assert isinstance(screen, MainScreen)

        async def press(key: str, view: str) -> None:
            await pilot.press(key)
            await until(pilot, lambda: screen.view.id == view)

        await until(pilot, lambda: "chunk-gap" in screen_text(app))
        table = app.screen.query_one("#findings-table", VirtualTable)
        codes = [table.source.cell(row, "code") for row in range(table.num_lines)]
        table.select_row(codes.index("chunk-gap"))
        await press("enter", "tensors")
        await press("n", "files")
        await press("escape", "findings")
        # What was opened there is closed first.
        await press("enter", "files")
        await press("slash", "files")
        await until(pilot, lambda: isinstance(app.focused, Input))
        await press("escape", "files")
        await until(pilot, lambda: isinstance(app.focused, VirtualTable))
        await press("escape", "findings")
        # From a view that was gone to by its own key, there is no way back.
        table.select_row(codes.index("chunk-gap"))
        await press("enter", "tensors")
        await press("2", "files")
        await press("escape", "files")


async def test_the_pane_that_has_the_keys_is_marked() -> None:
    async with opened(SAMPLES / "hsdp_2x4") as (app, pilot):

        def is_bold(word: str) -> bool:
            lines = app.screen._compositor.render_strips()
            found = (s for line in lines for s in line if word in s.text)
            return any(s.style is not None and bool(s.style.bold) for s in found)

        await until(pilot, lambda: is_bold("Placements") and not is_bold("4 chunks  by"))
        await pilot.press("tab", "tab")
        await until(pilot, lambda: isinstance(app.focused, ChunkMap))
        await until(pilot, lambda: is_bold("4 chunks  by") and not is_bold("Placements"))


async def test_advice_names_the_key_where_the_command_line_has_an_option() -> None:
    async with opened(SAMPLES / "hsdp_2x4", "3") as (app, pilot):
        await until(pilot, lambda: "not checked" in screen_text(app))
        assert "until c reads every byte, only sizes are compared" in words(app)
        assert "--deep" not in words(app)


@pytest.mark.slow
async def test_a_notice_lies_over_no_figures() -> None:
    for size in ((80, 24), (160, 50)):
        async with opened(SAMPLES / "hsdp_2x4", "6", size=size) as (app, pilot):
            await until(pilot, lambda: "-0.413315" in screen_text(app))
            await press(pilot, "f", shows="No NaN and no Inf in it.")
            toast = app.screen.query_one("Toast").region
            screen = app.screen
            assert isinstance(screen, MainScreen)
            assert toast.height == 1
            for read in (screen.view, *screen.query("CheckpointHeader, ViewBar, KeyBar, TaskLine")):
                assert not toast.overlaps(read.region), read
            await until(pilot, lambda: not app.screen.query("Toast"))
            await until(pilot, lambda: app.screen.view.region.bottom == app.size.height - 1)


async def test_every_byte_is_checked_on_a_key_and_the_flipped_bit_found(damaged: Path) -> None:
    async with opened(damaged) as (app, pilot):
        await until(pilot, lambda: "DAMAGED" in screen_text(app))
        await press(pilot, "c", shows="which is not every byte")
        await press(pilot, "3", at_least_s=0.1)
        assert "payload-corrupt" in screen_text(app)
        assert "model.net3.weight" in screen_text(app)


async def test_a_sound_checkpoint_says_so_and_what_was_read() -> None:
    async with opened(SAMPLES / "hsdp_2x4") as (app, pilot):
        await until(pilot, lambda: "metadata sound, bytes unread" in screen_text(app))
        await press(pilot, "c", shows=" sound, every byte read")
        await press(pilot, "3", at_least_s=0.1)
        assert "every byte of 24 payloads" in screen_text(app)
        await press(pilot, "n", at_least_s=0.1)
        assert "There is no finding" in screen_text(app)


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ("hsdp_tp_2x2x2", "hsdp_tp:2x2x2 (boxes and owners certain, use of the axes not)"),
        ("pp_hsdp_2x2x2", "2 groups of hsdp:2x2, like pipeline stages (not certain)"),
    ],
)
async def test_what_is_not_certain_is_said_on_a_narrow_screen(sample: str, said: str) -> None:
    async with opened(SAMPLES / sample, size=(80, 24)) as (app, _):
        assert said in screen_text(app).split("\n")[1]
