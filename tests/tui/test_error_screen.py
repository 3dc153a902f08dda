"""The error screen: the most specific finding with its own advice; copied, and left upwards."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from inspector.tui.folder.picker import PickerScreen
from inspector.tui.screens.error import ErrorScreen, folder_above
from inspector.tui.screens.main import MainScreen
from tests.conftest import SAMPLES
from tests.tui.app_driver import opened, press, quiet, screen_text, settle, until, words

BROKEN = SAMPLES / "broken"


def test_the_folder_above() -> None:
    assert folder_above("/a/b/") == "/a"
    assert folder_above("b") == str(Path.cwd())
    assert folder_above("/") == folder_above("") == folder_above("s3://bucket/run") == ""


@pytest.mark.parametrize("size", [(80, 24), (160, 50)], ids=str)
async def test_no_advice_is_taken_back_by_the_next_line(size: tuple[int, int]) -> None:
    async with opened(BROKEN / "metadata_tmp_cut", size=size) as (app, pilot):
        await until(pilot, lambda: "it cannot be repaired from this folder" in words(app))
        said = words(app)
        assert "rename" not in said and "renaming" not in said
        assert said.count("has not finished") == 1 and said.count("cannot be repaired") == 1
    async with opened(BROKEN / "paddle", size=size) as (app, pilot):
        await until(pilot, lambda: "paddle.distributed.load_state_dict" in words(app))
        assert "has not finished" not in words(app) and "not complete" not in words(app)


async def test_the_command_that_repairs_is_copied_and_does(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SAMPLES / "hsdp_2x2", tmp_path / "a step" / "it's"))
    (folder / ".metadata").rename(folder / ".metadata.tmp")
    async with opened(folder) as (app, pilot):
        await until(pilot, lambda: "mv -n --" in words(app))
        await press(pilot, "y", "enter", at_least_s=0.1)
        command = shlex.split(app.clipboard)
        assert command[:3] == ["mv", "-n", "--"]
        subprocess.run(command, check=True)
        await pilot.press("escape", "r")
        await settle(app, pilot)
        assert isinstance(app.screen, MainScreen)


async def test_its_keys_are_in_the_help_and_it_leads_to_the_folder_above(tmp_path: Path) -> None:
    run = Path(shutil.copytree(SAMPLES / "run", tmp_path / "run"))
    async with opened(run / "step-300") as (app, pilot):
        await until(pilot, lambda: "newest sound: step-200; u opens that folder" in words(app))
        assert "u Folder above" in screen_text(app).splitlines()[-1]
        await press(pilot, "question_mark", shows="Open the folder in which it lies")
        await pilot.press("escape", "u")
        await until(pilot, lambda: isinstance(app.screen, PickerScreen))
        assert app.exit_code == 0
        # From the list of checkpoints it is esc that goes back there.
        await pilot.press("j", "enter")
        await until(pilot, lambda: isinstance(app.screen, ErrorScreen))
        await quiet(pilot, 0.3)
        assert "Folder above" not in screen_text(app)
