"""One list of findings and one verdict, which says what it rests on; what lies there now."""

from __future__ import annotations

import os
import shutil
import weakref
from pathlib import Path

import pytest

from inspector.checkpoint.workers import BytesProgress
from inspector.checks.findings import Coverage, Finding, Report
from inspector.tui.app import InspectApp
from inspector.tui.background import Background
from inspector.tui.findings.standing import Standing
from inspector.tui.findings.view import FindingsView
from inspector.tui.folder.picker import PickerScreen
from inspector.tui.kit.bars import TaskLine
from inspector.tui.kit.virtual_table import VirtualTable
from inspector.tui.screens import main
from inspector.tui.screens.main import MainScreen
from inspector.tui.tensors.view import TensorsView
from tests.conftest import SAMPLES, run_cli
from tests.tui.app_driver import opened, press, quiet, screen_text, until, words

BROKEN = SAMPLES / "broken"
SOUND = Report("x", (), Coverage(tensors=1, chunks=1, files=1))
READ = Report("x", (), Coverage(tensors=1, chunks=1, files=1, payloads=4, payload_bytes=9))
NOT_ALL = Report("x", (), Coverage(tensors=1, payloads=3, num_unread=1))
NAN = Finding("values-nan", "a holds 1 NaN", fqn="a")
BARE = Finding("payload-no-checksum", "4 payloads have none")
DIFFER = Finding("verify", "DIFFER in compare", fqn="a")


@pytest.mark.parametrize(
    ("standing", "said", "colour"),
    [
        (Standing(SOUND), "metadata sound, bytes unread", "plain"),
        (Standing(SOUND, proved="EXACT on fsdp:2"), "metadata sound, EXACT on fsdp:2", "plain"),
        (Standing(READ, is_deep=True), "sound, every byte read", "ok"),
        (
            Standing(READ, is_deep=True, was_stopped=True),
            "metadata sound, not every byte read",
            "plain",
        ),
        (Standing(NOT_ALL, is_deep=True), "NOT READ: 1 payload", "error"),
        (
            Standing(Report("x", (BARE,), READ.checked), is_deep=True),
            "sound, every byte read, no checksum",
            "plain",
        ),
        (Standing(SOUND, valued=(NAN,)), "metadata sound, 1 warning, bytes unread", "warning"),
        (Standing(READ, is_deep=True, verified=(DIFFER,)), "DAMAGED: 1 error", "error"),
        (Standing(READ, is_deep=True, changes="x"), "CHANGED SINCE IT WAS OPENED: r", "warning"),
        (Standing(READ, is_lost=True), "NOT THERE ANY MORE, OR NOT READABLE", "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_badge_says_what_it_rests_on(standing: Standing, said: str, colour: str) -> None:
    text, style = standing.badge
    assert text == said
    assert colour in style


def test_one_list_has_each_finding_once_and_the_worst_first() -> None:
    checked = Report("x", (NAN,), READ.checked)
    report = Standing(checked, valued=(NAN,), verified=(DIFFER,)).report
    assert report is not None and report.findings == (DIFFER, NAN)


def findings(app: object) -> list[str]:
    table = app.screen.query_one("#findings-table", VirtualTable)  # type: ignore[attr-defined]
    return [str(table.source.cell(row, "code")) for row in range(table.source.num_rows)]


def standing(app: object) -> Standing:
    screen = app.screen  # type: ignore[attr-defined]
    assert isinstance(screen, MainScreen)
    return screen.standing


async def read_every_byte(app: object, pilot: object) -> None:
    await pilot.press("c")  # type: ignore[attr-defined]
    view = app.screen.query_one(FindingsView)  # type: ignore[attr-defined]
    await until(pilot, lambda: view._deep is None)  # type: ignore[arg-type]
    await quiet(pilot, 0.1)  # type: ignore[attr-defined]


@pytest.mark.slow
async def test_reading_every_byte_again_finds_the_same_again() -> None:
    async with opened(BROKEN / "bit_flip") as (app, pilot):
        await until(pilot, lambda: "metadata sound, bytes unread" in screen_text(app))
        for _ in range(3):
            await read_every_byte(app, pilot)
            assert findings(app) == ["payload-corrupt"]
            assert "DAMAGED: 1 error" in screen_text(app)
            assert "3 Findings 1" in screen_text(app)


@pytest.mark.slow
async def test_what_cannot_be_read_any_more_is_never_sound(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "ckpt"))
    async with opened(folder) as (app, pilot):
        await read_every_byte(app, pilot)
        assert "sound, every byte read" in screen_text(app)
        (folder / "__1_0.distcp").rename(tmp_path / "kept")
        await read_every_byte(app, pilot)
        assert "DAMAGED" in screen_text(app) and findings(app) == ["file-missing"]
        (tmp_path / "kept").rename(folder / "__1_0.distcp")
        await read_every_byte(app, pilot)
        assert "sound, every byte read" in screen_text(app)
        shutil.rmtree(folder)
        await read_every_byte(app, pilot)
        assert "sound" not in screen_text(app).splitlines()[0]
        assert "NOT THERE ANY MORE, OR NOT READABLE" in screen_text(app)
        assert findings(app) == ["metadata-missing"]


@pytest.mark.slow
async def test_a_change_below_is_seen_when_the_terminal_has_the_focus_again(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "ckpt"))
    async with opened(folder) as (app, pilot):
        await until(pilot, lambda: "metadata sound, bytes unread" in screen_text(app))
        app.app_focus = False
        app.app_focus = True
        await quiet(pilot, 0.3)
        assert not standing(app).changes
        app.app_focus = False
        os.utime(folder / "__1_0.distcp", (1, 1))
        app.app_focus = True
        await until(pilot, lambda: "CHANGED SINCE IT WAS OPENED" in screen_text(app))
        await until(pilot, lambda: "__1_0.distcp is changed" in words(app))
        await press(pilot, "r", shows="it changed since it was opened")
        await until(pilot, lambda: "CHANGED" not in screen_text(app))
        # A verification is of what is there now.
        loaded = app.screen.loaded  # type: ignore[attr-defined]
        os.utime(folder / "__2_0.distcp", (1, 1))
        await pilot.press("v")
        main = app.screen_stack[-2]
        assert isinstance(main, MainScreen)
        await until(pilot, lambda: main.loaded is not loaded)
        await press(pilot, "escape", at_least_s=0.1)
        shutil.rmtree(folder)
        app.app_focus = False
        app.app_focus = True
        await until(pilot, lambda: "NOT THERE ANY MORE" in screen_text(app))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), (160, 50)], ids=str)
async def test_a_damaged_checkpoint_opens_on_what_is_damaged(size: tuple[int, int]) -> None:
    for name in ("chunk_gap", "file_missing", "chunk_overlap_and_gap"):
        async with opened(BROKEN / name, size=size) as (app, pilot):
            view = app.screen.query_one(TensorsView)
            await until(pilot, lambda: "DAMAGED" in screen_text(app))
            await quiet(pilot, 0.1)
            found = standing(app).report
            assert found is not None
            entry = view.entry_of(found.findings[0])
            assert entry is not None and view._current_name() == entry
            row = view.table.cursor_row
            assert row is not None and view.table.source.marker(row) == "error"
            assert f"error {found.findings[0].code}" in words(app)
            text = screen_text(app)
            assert f"3 Findings {len(found.findings)}" in text
            assert "n Next finding" in text.splitlines()[-1]
            badge = text.splitlines()[0].index("DAMAGED")
            await pilot.click(offset=(badge, 0))
            await until(pilot, lambda: app.screen.view.id == "findings")  # type: ignore[attr-defined]


async def test_where_nothing_is_wrong_the_footer_offers_no_finding() -> None:
    async with opened(SAMPLES / "hsdp_2x2") as (app, pilot):
        await until(pilot, lambda: "metadata sound, bytes unread" in screen_text(app))
        text = screen_text(app)
        assert "Next finding" not in text and "3 Findings  " in text
        assert app.screen.query_one(TensorsView).table.cursor == 0


async def test_values_read_by_u_are_findings_too() -> None:
    async with opened(BROKEN / "values_nan", "u") as (app, pilot):
        await until(pilot, lambda: bool(standing(app).valued))
        assert findings(app) == ["values-nan"]
        await read_every_byte(app, pilot)
        assert findings(app) == ["values-nan"]


@pytest.mark.slow
async def test_the_seal_beside_it_is_compared(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "ckpt"))
    assert run_cli("seal", folder).code == 0
    async with opened(folder, "3") as (app, pilot):
        await read_every_byte(app, pilot)
        assert "sound, every byte read" in screen_text(app)
        assert "6 of 6 tensors and bytes entries are as" in words(app)
        seal = tmp_path / "ckpt.seal.json"
        seal.write_text(seal.read_text()[:-20])
        await read_every_byte(app, pilot)
        assert "not checked the seal" in words(app)
        other = Path(shutil.copytree(SAMPLES / "zstd_2", tmp_path / "other"))
        seal.unlink()
        assert run_cli("seal", other, "--output", seal).code == 0
        await read_every_byte(app, pilot)
        assert "DAMAGED" in screen_text(app) and "seal-missing" in findings(app)


async def test_what_is_wrong_with_a_file_stands_below_the_list_of_files() -> None:
    async with opened(SAMPLES / "broken" / "chunk_gap", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: "DAMAGED" in words(app))
        await pilot.press("n")
        said = "note bytes-unreferenced: __1_0.distcp: 1,641 bytes that no entry owns"
        await until(pilot, lambda: said in words(app))
        await pilot.press("k")
        await until(pilot, lambda: said not in words(app))


@pytest.mark.parametrize("key", ["c", "u"])
async def test_the_line_of_a_task_goes_when_it_ends(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what it found, and not with the next of the timer's looks at it."""
    monkeypatch.setattr(main, "_PAINT_S", 1e6)
    async with opened(SAMPLES / "broken/values_nan", size=(120, 30)) as (app, pilot):
        screen = app.screen
        assert isinstance(screen, MainScreen)
        line = screen.query_one(TaskLine)
        background = Background[None](line, lambda key, answer: None)
        line.show("reading", BytesProgress(1, 2), background, "stops")
        assert line.has_class("-running")
        await pilot.press(key)
        await until(pilot, lambda: screen.standing.is_deep or bool(screen.standing.valued))
        assert not line.has_class("-running")


async def test_a_checkpoint_that_was_read_anew_takes_no_memory() -> None:
    """What lives long is hidden from the collector: nothing may lead back to what was replaced."""
    async with opened(SAMPLES / "hsdp_2x4", size=(120, 30)) as (app, pilot):
        await until(pilot, lambda: _shown(app) is not None)
        columns = _shown(app)
        await pilot.press("r")
        await until(pilot, lambda: (now := _shown(app)) is not None and now is not columns)
        assert columns is not None
        await until(pilot, lambda: columns() is None)


async def test_a_checkpoint_that_was_left_for_the_folder_takes_no_memory(tmp_path: Path) -> None:
    for step in ("step-1", "step-2"):
        shutil.copytree(SAMPLES / "hsdp_2x4", tmp_path / step)
    async with opened(tmp_path, size=(120, 30)) as (app, pilot):
        await pilot.press("enter")
        await until(pilot, lambda: _shown(app) is not None)
        columns, screen = _shown(app), weakref.ref(app.screen)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, PickerScreen))
        assert columns is not None
        await until(pilot, lambda: columns() is None and screen() is None)


def _shown(app: InspectApp) -> weakref.ref[object] | None:
    """An array of the checkpoint that is shown and judged."""
    screen = app.screen
    if not isinstance(screen, MainScreen) or screen.loaded is None:
        return None
    is_judged = screen.standing.report is not None
    return weakref.ref(screen.loaded.checkpoint.columns.file) if is_judged else None
