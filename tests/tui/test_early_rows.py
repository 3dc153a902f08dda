"""The first entries of large metadata, on the screen while the rest is read."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from inspector.checkpoint.child.isolated import EarlyEntry
from inspector.tui import session
from inspector.tui.app import InspectApp
from inspector.tui.screens.error import ErrorScreen
from inspector.tui.screens.help import HelpScreen
from inspector.tui.screens.loading import LoadingScreen
from inspector.tui.screens.main import MainScreen
from inspector.tui.tensors.view import TensorsView
from tests.conftest import SAMPLES
from tests.tui.app_driver import quiet, screen_text, settle, until, words

FIRST = (EarlyEntry("model.net1.bias", None, None), EarlyEntry("model.net1.weight", (64, 32), 4))
MORE = (*FIRST, EarlyEntry("model.net2.bias", (64,), 4))


class Held:
    """Readings that tell of their first entries when they are let, and then of more, and end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.more, self.end = threading.Event(), threading.Event()
        real: Callable[[session.Loading], session.Outcome] = session.Loading._load

        def load(loading: session.Loading) -> session.Outcome:
            loading._progress(1, 2)
            loading._take_early(FIRST)
            assert self.more.wait(100)
            loading._take_early(MORE)
            assert self.end.wait(100)
            return real(loading)

        monkeypatch.setattr(session.Loading, "_load", load)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    return Held(monkeypatch)


@pytest.mark.parametrize("size", [(80, 24), (160, 50)])
async def test_they_stand_there_and_the_cursor_goes_on_where_it_is(
    held: Held, size: tuple[int, int]
) -> None:
    app = InspectApp(str(SAMPLES / "hsdp_2x4"))
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: "model.net1.weight" in screen_text(app))
        assert isinstance(app.screen, LoadingScreen)
        assert "[64, 32]" in screen_text(app)
        said = words(app)
        assert "reading the metadata" in said
        assert "the first 2 entries; nothing is checked yet" in said
        assert "sound" not in said
        await pilot.press("j")
        held.more.set()
        await until(pilot, lambda: "model.net2.bias" in screen_text(app))
        await pilot.press("j")
        await until(pilot, lambda: "the first 3 entries" in words(app))
        held.end.set()
        await until(pilot, lambda: isinstance(app.screen, MainScreen))
        await settle(app, pilot)
        view = app.screen.query_one(TensorsView)
        row = view.table.cursor_row
        assert row is not None
        assert view.source is not None
        assert view.source.row_names[row] == "model.net2.bias"
        assert view.table.scroll_y == 0  # There is room for all of them.


async def test_of_damaged_metadata_they_go(held: Held, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x4", tmp_path / "ckpt"))
    metadata = folder / ".metadata"
    metadata.write_bytes(metadata.read_bytes()[:-40])
    app = InspectApp(str(folder))
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "model.net1.weight" in screen_text(app))
        held.more.set()
        held.end.set()
        await until(pilot, lambda: isinstance(app.screen, ErrorScreen))
        await until(pilot, lambda: "ends too early" in words(app))
        assert "model.net1.weight" not in screen_text(app)


async def test_reading_can_be_stopped_from_there(held: Held) -> None:
    app = InspectApp(str(SAMPLES / "hsdp_2x4"))
    async with app.run_test() as pilot:
        await until(pilot, lambda: "model.net1.weight" in screen_text(app))
        await pilot.press("escape")
        held.more.set()
        held.end.set()
        await until(pilot, lambda: app.return_value is not None)
    assert app.return_value == 2


async def test_the_help_is_not_taken_away_when_all_is_read(held: Held) -> None:
    app = InspectApp(str(SAMPLES / "hsdp_2x4"))
    async with app.run_test() as pilot:
        await until(pilot, lambda: "model.net1.weight" in screen_text(app))
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, HelpScreen))
        loading = app.screen_stack[-2]
        assert isinstance(loading, LoadingScreen)
        held.more.set()
        held.end.set()
        await until(pilot, lambda: loading._loading.outcome is not None)
        await quiet(pilot, 0.3)
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, MainScreen))
        # Nothing that was read to its end is left below, for esc to go back to.
        assert loading not in app.screen_stack
