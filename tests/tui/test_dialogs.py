"""A key that closes a dialog does that and no more: the screen below does not get it as well.

And what lies behind a dialog is drawn as Textual draws it, once.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.style import Style
from textual import events
from textual._compositor import visible_screen_stack
from textual.geometry import Size
from textual.pilot import Pilot
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.visual import Visual, visualize
from textual.widget import Widget
from textual.widgets import Button, Input

import inspector.tui
from inspector.tui.app import InspectApp
from inspector.tui.folder.ask_path import AskPathScreen
from inspector.tui.kit.bars import ViewBar
from inspector.tui.kit.dialog import Dialog
from inspector.tui.screens.dialogs import CopyScreen, InfoScreen, SaveArrayScreen
from inspector.tui.screens.help import HelpScreen
from inspector.tui.values.view import ValuesView
from inspector.tui.verification.control import AskScreen
from inspector.tui.verification.setup import VerifySetupScreen
from tests.conftest import SAMPLES
from tests.tui.app_driver import opened, quiet, screen_text, until

SAMPLE = SAMPLES / "hsdp_2x4"
TUI = Path(inspector.tui.__file__).parent


def on_cancel(app: InspectApp) -> None:
    app.screen.query_one("#setup-cancel", Button).focus()


def on_first(app: InspectApp) -> None:
    app.screen.query(Button).first().focus()


def no_path(app: InspectApp) -> None:
    app.screen.query_one(Input).value = ""


def ask(app: InspectApp) -> None:
    app.push_screen(AskScreen("Stop it?", [("stop", "Stop it"), ("stay", "Let it run")]))


def press(key: str) -> Callable[[InspectApp], None]:
    def send(app: InspectApp) -> None:
        app.post_message(events.Key(key, key if len(key) == 1 else None))

    return send


#: A dialog, what opens it, and the keys that close it, each with what is done before.
DIALOGS = [
    (HelpScreen, press("question_mark"), ["escape", "q", "question_mark", "f1"]),
    (InfoScreen, press("i"), ["escape", "q", "i"]),
    (CopyScreen, press("y"), ["escape", "q"]),
    (AskPathScreen, press("D"), ["escape"]),
    (VerifySetupScreen, press("v"), ["escape", ("enter", on_cancel)]),
    (AskScreen, ask, ["escape", "n", "y", "enter", ("enter", on_first)]),
]


async def closed_by(
    app: InspectApp,
    pilot: Pilot[int],
    kind: type[ModalScreen[object]],
    opens: Callable[[InspectApp], None],
    key: str,
    before: Callable[[InspectApp], None],
) -> None:
    """Open a dialog, and close it again by a key: all is as it was."""
    below, focused, shown = app.screen, app.focused, screen_text(app)
    opens(app)
    await until(pilot, lambda: isinstance(app.screen, kind) and app.focused is not None)
    before(app)
    await pilot.pause()
    await pilot.press(key)
    await until(pilot, lambda: app.screen is below)
    # Twice through all the queues: what the key may have begun below would have begun by then.
    await pilot.pause()
    await pilot.pause()
    assert app.screen is below and app.focused is focused, key
    assert app._exit is False, key
    await until(pilot, lambda: screen_text(app) == shown)


@pytest.mark.parametrize("kind, opens, keys", DIALOGS, ids=[d[0].__name__ for d in DIALOGS])
async def test_a_key_that_closes_a_dialog_does_no_more(
    kind: type[ModalScreen[object]],
    opens: Callable[[InspectApp], None],
    keys: list[str | tuple[str, Callable[[InspectApp], None]]],
) -> None:
    async with opened(SAMPLE, size=(80, 24)) as (app, pilot):
        for item in keys:
            key, before = (item, lambda app: None) if isinstance(item, str) else item
            await closed_by(app, pilot, kind, opens, key, before)


async def test_the_form_that_saves_an_array_closes_and_no_more() -> None:
    async with opened(SAMPLE, "6", size=(80, 24)) as (app, pilot):
        await until(pilot, lambda: app.screen.query_one(ValuesView).can("save"))
        for key, before in (("escape", lambda app: None), ("enter", no_path)):
            await closed_by(app, pilot, SaveArrayScreen, press("e"), key, before)


def test_keys_are_bound_or_stopped() -> None:
    """A key that a handler uses and lets go on is used again by what has the focus by then."""
    for path in sorted(TUI.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            where = f"{path.relative_to(TUI)}: {node.name}"
            assert not node.name.startswith("key_"), f"{where}: bind the key instead"
            if node.name in ("on_key", "_on_key"):
                assert "event.stop()" in ast.unparse(node), f"{where}: stop the key"


def cells(dialog: Dialog[Any], renderable: Any) -> list[list[tuple[str, Style | None]]]:
    """What is drawn of it on a dialog: each cell with its style."""
    visible_screen_stack.set(dialog.app._background_screens)
    visual = visualize(dialog, renderable())
    strips = Visual.to_strips(dialog, visual, *dialog.size, dialog.visual_style)
    return [[(one, part.style) for part in strip for one in part.text] for strip in strips]


@pytest.mark.parametrize(
    "kind, opens", [d[:2] for d in DIALOGS], ids=[d[0].__name__ for d in DIALOGS]
)
async def test_a_dialog_follows_the_size_of_the_terminal(
    kind: type[ModalScreen[object]], opens: Callable[[InspectApp], None]
) -> None:
    """What stands in it lies where it does in one that is opened in that size."""

    async def open_it() -> None:
        opens(app)
        await until(pilot, lambda: isinstance(app.screen, kind) and app.focused is not None)
        await quiet(pilot, 0.2)

    async with opened(SAMPLE, size=(80, 24)) as (app, pilot):
        for size in ((160, 50), (80, 24)):
            await open_it()
            await pilot.resize_terminal(*size)
            await quiet(pilot, 0.2)
            resized = [widget.region for widget in app.screen.walk_children(Widget)]
            await pilot.press("escape")
            await quiet(pilot)
            await open_it()
            assert [widget.region for widget in app.screen.walk_children(Widget)] == resized
            await pilot.press("escape")
            await quiet(pilot)


async def test_what_lies_behind_a_dialog_is_drawn_as_textual_draws_it() -> None:
    async with opened(SAMPLE) as (app, pilot):
        for theme in ("hsdp-dark", "hsdp-light", "ansi-dark"):
            app.theme = theme
            await pilot.press("question_mark")
            await quiet(pilot)
            dialog = app.screen
            assert isinstance(dialog, HelpScreen)
            textuals = partial(ModalScreen.render, dialog)
            assert cells(dialog, dialog.render) == cells(dialog, textuals)
            await pilot.resize_terminal(100, 30)
            await quiet(pilot)
            assert cells(dialog, dialog.render) == cells(dialog, textuals)
            await pilot.resize_terminal(160, 50)
            await pilot.press("escape")
            await quiet(pilot)


async def test_what_lies_behind_a_dialog_is_drawn_when_it_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(SAMPLE, "question_mark") as (app, pilot):
        dialog, below = app.screen, app.screen_stack[-2]
        num_drawn, draw = 0, below._compositor.render_strips

        def counted(size: Size | None = None) -> list[Strip]:
            nonlocal num_drawn
            num_drawn += 1
            return draw(size)

        monkeypatch.setattr(below._compositor, "render_strips", counted)
        for _ in range(3):
            dialog.refresh()
            await quiet(pilot)
        assert num_drawn == 0
        assert "changed meanwhile" not in screen_text(app)
        below.query_one(ViewBar).note = "changed meanwhile"
        await until(pilot, lambda: "changed meanwhile" in screen_text(app))
        assert num_drawn > 0
