"""What a view shows does not depend on when it was opened, nor on what came while it was hidden."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inspector.tui.app import InspectApp
from inspector.tui.commands import VIEW_KEYS
from inspector.tui.screens.main import MainScreen
from tests.conftest import SAMPLES
from tests.tui.app_driver import quiet, screen_text, settle, until

SIZES = [(80, 24), (120, 30), (160, 50), (220, 60)]


async def each_view(
    path: Path, size: tuple[int, int], first: str, expected: dict[str, str] | None = None
) -> dict[str, str]:
    """By key: what each view shows once all is known, if `first` was opened before anything was.

    Waits a while for what is `expected`: the last of it may still be drawn.
    """
    shown = {}
    app = InspectApp(str(path))
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: isinstance(app.screen, MainScreen))
        await pilot.press(first)
        await settle(app, pilot)
        screen = app.screen
        assert isinstance(screen, MainScreen)
        await until(pilot, lambda: screen.is_complete and screen.standing.report is not None)
        for view, key in VIEW_KEYS.items():
            await pilot.press(key)
            await until(pilot, lambda view=view: screen.view.id == view)  # type: ignore[misc]
            await until(pilot, lambda: "..." not in screen_text(app))
            await quiet(pilot, 0.3)
            for _ in range(100):
                if expected is None or screen_text(app) == expected[key]:
                    break
                await pilot.pause(0.05)
            shown[key] = screen_text(app)
    return shown


def columns(text: str) -> list[str]:
    """The header of the table below the tabs: what columns there are, and where."""
    return re.findall(r"\S+(?: \S+)*", text.splitlines()[3])


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("sample", ["hsdp_2x4", "broken/chunk_gap"])
async def test_a_view_opened_first_shows_what_it_shows_when_opened_last(
    size: tuple[int, int], sample: str
) -> None:
    expected = await each_view(SAMPLES / sample, size, "1")
    for first in (*VIEW_KEYS.values(),):
        shown = await each_view(SAMPLES / sample, size, first, expected)
        for key, text in shown.items():
            assert text == expected[key], f"view {key}, if {first} was opened first"


@pytest.mark.slow
async def test_the_table_of_tensors_keeps_its_columns_while_it_is_hidden() -> None:
    # Its columns were measured as nothing while another view was open, and stayed so.
    for size in ((80, 24), (160, 50)):
        expected = await each_view(SAMPLES / "hsdp_2x4", size, "1")
        shown = await each_view(SAMPLES / "hsdp_2x4", size, "3", expected)
        assert columns(shown["1"]) == columns(expected["1"])
        assert {"Dtype", "Shape", "Placements"} <= set(columns(shown["1"]))
        assert shown == expected
