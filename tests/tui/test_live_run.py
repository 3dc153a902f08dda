"""A run folder stays live on the screen: what comes and goes is shown, with its verdict."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inspector.tui.folder import picker
from inspector.tui.folder.picker import PickerScreen
from tests.conftest import SAMPLES
from tests.tui.app_driver import opened, press, screen_text, until

GOOD = SAMPLES / "run" / "step-100"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(picker, "_LOCAL_LOOKS", 1)
    folder = tmp_path / "run"
    for step in (100, 200):
        shutil.copytree(GOOD, folder / f"step-{step}")
    return folder


def rows(text: str) -> dict[str, list[str]]:
    """By step: the words of its row."""
    found = [line.replace("▌", " ").replace("✗", " ").split() for line in text.splitlines()]
    return {words[0]: words for words in found if words and words[0].startswith("step-")}


@pytest.mark.slow
async def test_new_steps_appear_and_old_ones_go(run: Path) -> None:
    async with opened(run, size=(120, 20)) as (app, pilot):
        assert isinstance(app.screen, PickerScreen)
        await until(pilot, lambda: "newest sound: step-200" in screen_text(app))
        await pilot.press("k", "m")
        cursor = app.screen.query_one(picker.VirtualTable)
        assert cursor.cursor_row == 0
        shutil.copytree(GOOD, run / "new")
        (run / "new").rename(run / "step-300")
        await until(
            pilot,
            lambda: "newest sound: step-300" in screen_text(app) or "A is" in screen_text(app),
        )
        await until(pilot, lambda: "sound" in rows(screen_text(app)).get("step-300", []))
        # The cursor and the mark are where they were.
        assert cursor.cursor_row == 0
        assert "A is step-100" in screen_text(app)
        await press(pilot, "escape", shows="newest sound: step-300")
        shutil.rmtree(run / "step-300")
        await until(pilot, lambda: "step-300" not in rows(screen_text(app)))
        await until(pilot, lambda: "newest sound: step-200" in screen_text(app))
        (run / "step-200" / "__0_0.distcp").write_bytes(b"short")
        await until(pilot, lambda: "damaged" in rows(screen_text(app)).get("step-200", []))
        await until(pilot, lambda: "newest sound: step-100" in screen_text(app))


async def test_a_run_that_vanishes_stays_as_it_was_and_comes_back(run: Path) -> None:
    async with opened(run, size=(120, 20)) as (app, pilot):
        await until(pilot, lambda: "newest sound: step-200" in screen_text(app))
        run.rename(run.with_name("away"))
        await until(pilot, lambda: "as it was: " in screen_text(app))
        assert "as it was: there is no such file or folder" in screen_text(app)
        assert "step-200" in screen_text(app)
        run.with_name("away").rename(run)
        await until(pilot, lambda: "as it was: " not in screen_text(app))
        assert "newest sound: step-200" in screen_text(app)
