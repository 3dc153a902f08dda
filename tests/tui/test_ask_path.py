"""Asking for a path: what lies there, completion, and what is meant by what was typed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.widgets import Input, OptionList

from inspector.tui.app import InspectApp
from inspector.tui.diff.screen import DiffScreen
from inspector.tui.folder import ask_path
from inspector.tui.folder.ask_path import (
    AskPathScreen,
    Sibling,
    SiblingListing,
    completed,
    list_folder,
    matching_siblings,
)
from inspector.tui.folder.picker import PickerScreen
from inspector.tui.screens.main import MainScreen
from tests.conftest import SAMPLES
from tests.tui.app_driver import CONTROL, opened, press, quiet, screen_text, until, words

STEPS = tuple(Sibling(f"step-{n}", "checkpoint") for n in (9, 10, 100))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for n in (9, 10, 100):
        (tmp_path / "run" / f"step-{n}").mkdir(parents=True)
        for file in (SAMPLES / "hsdp_2x2").iterdir():
            os.link(file, tmp_path / "run" / f"step-{n}" / file.name)
    (tmp_path / "run" / "logs\x1b[2J").mkdir()
    (tmp_path / "run" / ".hidden").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("")
    return tmp_path / "run"


def test_a_folder_is_listed_as_people_sort_it(run: Path) -> None:
    listing = list_folder(f"{run}/", lambda: False)
    assert listing == SiblingListing(f"{run}/", (Sibling(".hidden", "folder"), *STEPS), num_more=1)
    assert matching_siblings(listing, f"{run}/") == list(STEPS)
    assert matching_siblings(listing, f"{run}/step-1") == list(STEPS[1:])
    assert matching_siblings(listing, f"{run}/.") == [Sibling(".hidden", "folder")]
    assert list_folder(f"{run}/nowhere/", lambda: False).problem == "no such file or directory"
    assert list_folder("s3://bucket/", lambda: False) == SiblingListing("s3://bucket/")


@pytest.mark.parametrize(
    ("typed", "siblings", "then"),
    [
        ("/run/s", STEPS, "/run/step-"),
        ("/run/step-1", STEPS[1:], "/run/step-10"),
        ("/run/step-9", STEPS[:1], "/run/step-9/"),
        ("a", [Sibling("a.safetensors", "file")], "a.safetensors"),
        ("/run/x", [], "/run/x"),
    ],
)
def test_what_was_typed_is_completed(typed: str, siblings: list[Sibling], then: str) -> None:
    assert completed(typed, siblings) == then


async def test_without_a_path_the_screen_asks_for_one(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    app = InspectApp("")
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "run/" in words(app))
        field = app.screen.query_one(Input)
        assert field.value == f"{run.parent}/"
        await pilot.press("r", "tab")
        await until(pilot, lambda: field.value == f"{run}/")
        await until(pilot, lambda: "step-100/ checkpoint" in words(app))
        assert "1 name more" in words(app)
        assert not CONTROL.search(screen_text(app).replace("\n", ""))
        await press(pilot, *"nowhere", "enter", shows="nothing is there")
        assert field.value == f"{run}/nowhere"
        # A second slash begins anew.
        await pilot.press("slash", "slash")
        await until(pilot, lambda: field.value == "/")
        field.value = str(run)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, PickerScreen))
    assert app.exit_code == 0


async def test_the_step_before_is_two_keys_away(run: Path) -> None:
    async with opened(run / "step-100") as (app, pilot):
        await pilot.press("D")
        await until(pilot, lambda: isinstance(app.screen, AskPathScreen))
        choices = app.screen.query_one(OptionList)
        await until(pilot, lambda: choices.highlighted == 1)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, DiffScreen))
        assert isinstance(app.screen, DiffScreen)
        b = app.screen.comparison.structure.sides[1]
        assert b.path.rstrip("/") == str(run / "step-10")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, MainScreen))


async def test_leaving_without_a_path_is_no_success() -> None:
    app = InspectApp("")
    async with app.run_test() as pilot:
        await until(pilot, lambda: isinstance(app.screen, AskPathScreen))
        await pilot.press("escape")
        await until(pilot, lambda: app.return_value is not None)
    assert app.return_value == 2


async def test_what_is_not_there_stays_said_when_the_list_comes_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lists = threading.Event()

    def slow(folder: str, stop: Callable[[], bool]) -> SiblingListing:
        if folder.startswith("/no-such"):
            lists.wait(60)
        return list_folder(folder, stop)

    monkeypatch.setattr(ask_path, "list_folder", slow)
    async with opened(SAMPLES / "hsdp_2x2", "D", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: isinstance(app.screen, AskPathScreen))
        field = app.screen.query_one(Input)
        field.value = "/no-such/path"
        await until(pilot, lambda: "/no-such/path" in words(app))
        await press(pilot, "enter", shows="nothing is there: /no-such/path")
        lists.set()
        await quiet(pilot, 0.2)
        assert "nothing is there: /no-such/path" in words(app)
        field.value = "/no-such/other"
        await until(pilot, lambda: "cannot be looked into: no such file" in words(app))


def test_whatever_is_a_checkpoint_is_marked_as_one(tmp_path: Path) -> None:
    for name in ("hf_dcp_sharded_4", "hf_dcp_whole_1", "transformers_1", "per_rank_metadata_2"):
        (tmp_path / name).symlink_to(SAMPLES / name)
    (tmp_path / "diffusers").mkdir()
    (tmp_path / "diffusers" / "diffusion_pytorch_model.safetensors.index.json").touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "safetensors.txt").touch()
    kinds = {s.name: s.kind for s in list_folder(f"{tmp_path}/", lambda: False).siblings}
    assert kinds.pop("notes") == "folder"
    assert set(kinds.values()) == {"checkpoint"} and len(kinds) == 5
