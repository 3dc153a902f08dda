"""`InspectApp`: screens in and out; the commands that work everywhere."""

from __future__ import annotations

from collections.abc import Iterable

from textual.app import App, SystemCommand
from textual.screen import Screen

from inspector.errors import Cancelled, InspectError
from inspector.tui.commands import COMMANDS, bindings
from inspector.tui.screens.main import MainScreen
from inspector.tui.session import Folder, Loaded, Loading
from inspector.tui.theme import DARK, LIGHT, THEMES

__all__ = ["InspectApp"]


class InspectApp(App[int]):
    """The terminal UI. Its return value is the exit code.

    Args:
        loading: The path, already being read.
    """

    TITLE = "hsdp-inspect"
    CSS_PATH = "inspector.tcss"
    BINDINGS = bindings("app")
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]

    def __init__(self, loading: Loading) -> None:
        super().__init__()
        self._loading = loading
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = DARK.name

    def on_mount(self) -> None:
        if self._loading.outcome is not None:
            self._show(self._loading.outcome)
        else:
            from inspector.tui.screens.loading import LoadingScreen

            self.push_screen(LoadingScreen(self._loading), self._show)

    def _show(self, outcome: object) -> None:
        if isinstance(outcome, Loaded):
            self.push_screen(MainScreen(outcome))
        elif isinstance(outcome, Folder):
            from inspector.tui.screens.picker import PickerScreen

            self.push_screen(PickerScreen(outcome))
        elif isinstance(outcome, Cancelled) or outcome is None:
            self.exit(2)
        elif isinstance(outcome, InspectError):
            from inspector.tui.screens.error import ErrorScreen

            self._failed = True
            self.push_screen(ErrorScreen(outcome, can_go_back=False), self._after_error)

    _failed = False

    def _after_error(self, answer: str | None) -> None:
        if answer == "again":
            from inspector.tui.screens.loading import LoadingScreen

            self._failed = False
            self.push_screen(LoadingScreen.of(self._loading.path), self._show)

    async def action_quit(self) -> None:
        self.exit(2 if self._failed else 0)

    def action_help(self) -> None:
        from inspector.tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen())

    def action_toggle_theme(self) -> None:
        self.theme = DARK.name if self.theme == LIGHT.name else LIGHT.name

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Every command of the table that the open screen has, then Textual's own."""
        for command in COMMANDS:
            owner: object = self if command.scope == "app" else screen
            if command.id == "command_palette" or not hasattr(owner, f"action_{command.id}"):
                continue
            if (
                command.scope in ("picker", "error")
                and command.scope not in type(screen).__name__.lower()
            ):
                continue
            if command.scope == "main" and not isinstance(screen, MainScreen):
                continue
            title = f"{command.title}  ({command.shown_key})"
            yield SystemCommand(title, command.help, _runner(self, command.action))
        for own in super().get_system_commands(screen):
            if own.title in ("Theme", "Keys"):
                yield own


def _runner(app: InspectApp, action: str):  # type: ignore[no-untyped-def]
    async def run() -> None:
        await app.run_action(action)

    return run
