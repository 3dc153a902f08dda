"""Every key is told of: help, palette and footer are made of the bindings that are active."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from textual.binding import Binding
from textual.dom import DOMNode
from textual.screen import Screen

import inspector.tui
from inspector.tui.app import InspectApp
from inspector.tui.commands import LIST_KEYS, shown_key
from inspector.tui.diff.screen import DiffScreen
from inspector.tui.diff.view import DiffView
from inspector.tui.files.view import FilesView
from inspector.tui.findings.view import FindingsView
from inspector.tui.folder.picker import FoundView, PickerScreen
from inspector.tui.kit.lines import Reader
from inspector.tui.kit.view import TableView, View
from inspector.tui.plan.view import LoadPlanView
from inspector.tui.screens.error import ErrorScreen
from inspector.tui.screens.help import commands_of
from inspector.tui.screens.main import MainScreen
from inspector.tui.tensors.view import TensorsView
from inspector.tui.values.statistics import StatisticsView
from inspector.tui.values.view import ValuesView
from inspector.tui.verification.replay import ReplayScreen
from inspector.tui.verification.view import VerificationView
from tests.conftest import SAMPLES
from tests.tui.app_driver import opened, press, screen_text, until

VIEWS: dict[str, type[View]] = {
    "1": TensorsView,
    "2": FilesView,
    "3": FindingsView,
    "4": VerificationView,
    "5": LoadPlanView,
    "6": ValuesView,
    "7": StatisticsView,
}
SCREENS: list[tuple[type[DOMNode], type[View] | None]] = [
    *((MainScreen, view) for view in VIEWS.values()),
    (PickerScreen, FoundView),
    (DiffScreen, DiffView),
    (ReplayScreen, VerificationView),
    (ErrorScreen, None),
]


def kinds() -> Iterator[type[DOMNode]]:
    """Every class of ours that may have keys."""
    for module in pkgutil.walk_packages(inspector.tui.__path__, "inspector.tui."):
        for kind in vars(importlib.import_module(module.name)).values():
            is_ours = isinstance(kind, type) and kind.__module__ == module.name
            if is_ours and issubclass(kind, DOMNode) and "BINDINGS" in kind.__dict__:
                yield kind


def inherited(kind: type[DOMNode]) -> dict[str, Binding]:
    """By key: the commands of a class, with those that it inherits."""
    found: dict[str, Binding] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, DOMNode):
            for command in commands_of(base):
                found |= dict.fromkeys(command.key.split(","), command)
    return found


async def test_every_command_of_every_view_is_in_the_help() -> None:
    # The help scrolls; here all of it is to be seen.
    async with opened(SAMPLES / "hsdp_2x2", "question_mark", size=(160, 140)) as (app, _):
        text = screen_text(app)
        shown = [MainScreen, InspectApp, View, TableView, *VIEWS.values()]
        told = [command for kind in shown for command in commands_of(kind)]
        assert len(told) > 50
        for command in told:
            line = f"{command.key_display}"
            assert any(line in row and command.description in row for row in text.splitlines()), (
                command
            )


def test_no_key_of_a_view_or_screen_is_without_words() -> None:
    widgets = []
    for kind in kinds():
        if issubclass(kind, View | MainScreen | PickerScreen | DiffScreen | ReplayScreen):
            own = kind.__dict__["BINDINGS"]
            assert commands_of(kind) == own, f"{kind.__name__} has a key that the help leaves out"
        elif not issubclass(kind, Screen | InspectApp):
            widgets.append(kind)
    assert len(widgets) > 5
    # What belongs to lists and maps stands in the help once for all of them.
    told = {key for keys, _ in LIST_KEYS for key in keys.split()}
    names = {
        "up": "↑",
        "down": "↓",
        "left": "←",
        "right": "→",
        "pageup": "PgUp",
        "pagedown": "PgDn",
    }
    names |= {f"shift+{key}": f"shift+{names[key]}" for key in ("left", "right")}
    for kind in widgets:
        for binding in kind.__dict__["BINDINGS"]:
            keys = binding.key if isinstance(binding, Binding) else binding[0]
            for key in keys.split(","):
                assert names.get(key, shown_key(key)) in told, f"{kind.__name__}: {key}"


async def test_the_palette_and_the_footer_have_the_keys_of_the_open_view_alone() -> None:
    async with opened(SAMPLES / "hsdp_2x2") as (app, pilot):
        screen = app.screen
        assert isinstance(screen, MainScreen)
        for key, kind in VIEWS.items():
            await pilot.press(key)
            await until(pilot, lambda kind=kind: isinstance(screen.view, kind))  # type: ignore[misc]
            await pilot.pause()
            active = {bound.binding.action for bound in screen.active_bindings.values()}
            offered = {command.title for command in app.get_system_commands(screen)}
            own = {command.action for command in inherited(kind).values()}
            elsewhere = {
                command.action for other in VIEWS.values() for command in inherited(other).values()
            }
            assert not active & (elsewhere - own - {"verify"}), kind
            for command in [*inherited(kind).values(), *commands_of(MainScreen)]:
                title = f"{command.description}  ({command.key_display})"
                # A table that has the focus sorts itself, by the same keys.
                is_active = command.action in active or (
                    command.action.startswith("sort(") and "sort_next" in active
                )
                assert (title in offered) == is_active, (kind, title)
            # Whatever is pressed or clicked, the view keeps the keys.
            screen.set_focus(None)
            await until(pilot, lambda: screen.focused is not None)


async def test_the_help_scrolls_with_the_keys_of_the_lists() -> None:
    async with opened(SAMPLES / "hsdp_2x2", "question_mark", size=(80, 24)) as (app, pilot):
        first = "In this view, Tensors"
        await until(pilot, lambda: first in screen_text(app))
        assert app.screen.query(Reader)
        await pilot.press("G")
        await until(pilot, lambda: first not in screen_text(app))
        await pilot.press("g")
        await until(pilot, lambda: first in screen_text(app))


@pytest.mark.slow
async def test_the_help_begins_with_the_open_view_and_can_be_searched() -> None:
    async with opened(SAMPLES / "hsdp_2x2", "5", "question_mark") as (app, pilot):
        await until(pilot, lambda: "In this view, Plan" in screen_text(app))
        keys = [c.description for c in commands_of(LoadPlanView)]
        rows = screen_text(app).splitlines()
        at = next(n for n, row in enumerate(rows) if "In this view, Plan" in row)
        assert keys[0] in rows[at + 1]
        await pilot.press("slash", *"checksum seal")
        await until(pilot, lambda: "In this view" not in screen_text(app))
        assert "Check bytes" in screen_text(app) and "Reload" not in screen_text(app)
        await pilot.press("q")  # is a letter there
        await until(pilot, lambda: "No key is told of in these words" in screen_text(app))
        await press(pilot, "escape", shows="In this view, Plan")
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, MainScreen))


async def test_the_palette_finds_words_of_the_help() -> None:
    async with opened(SAMPLES / "hsdp_2x2", "colon") as (app, pilot):
        await until(pilot, lambda: "Search for commands" in screen_text(app))
        await pilot.press(*"checksum")
        await until(
            pilot,
            lambda: "Check bytes" in screen_text(app) and "Reload" not in screen_text(app),
        )


async def test_sorting_means_nothing_where_there_is_no_table() -> None:
    async with opened(SAMPLES / "hsdp_2x2", "6") as (app, pilot):
        await pilot.press("s", "S")
        await pilot.pause()
        assert isinstance(app.screen, MainScreen) and isinstance(app.screen.view, ValuesView)


async def test_reading_all_is_offered_where_it_is_what_one_came_for() -> None:
    async with opened(SAMPLES / "hsdp_2x2", size=(80, 24)) as (app, pilot):
        for key in VIEWS:
            await press(pilot, key)
            assert ("u Read all" in screen_text(app).splitlines()[-1]) == (key == "7"), key


async def test_the_footer_tells_no_key_that_would_be_typed() -> None:
    async with opened(SAMPLES / "broken" / "chunk_gap", size=(80, 24)) as (app, pilot):
        assert "placements not known" in screen_text(app)
        await until(pilot, lambda: " ? Help " in screen_text(app).splitlines()[-1])
        await pilot.press("slash")
        await until(pilot, lambda: " f1 Help " in screen_text(app).splitlines()[-1])
        footer = screen_text(app).splitlines()[-1]
        assert not any(f" {key} " in footer for key in "?qznbc/")
        await press(pilot, "f1", shows="In this view, Tensors")
