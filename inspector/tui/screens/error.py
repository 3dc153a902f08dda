"""`ErrorScreen`: what the command line would have said, on the screen."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Footer, Static

from inspector.checkpoint.text import printable
from inspector.errors import InspectError
from inspector.tui.commands import bindings

__all__ = ["ErrorScreen"]


class ErrorScreen(Screen[str]):
    """An error and its hint. Dismissed with `again` or `back`."""

    DEFAULT_CSS = """
    ErrorScreen { align: center middle; }
    ErrorScreen > Vertical {
        width: 80%; max-width: 100; height: auto; padding: 1 2; border: round $error;
    }
    ErrorScreen Static { width: 1fr; }
    """

    BINDINGS = bindings("error")

    def __init__(self, error: InspectError, *, can_go_back: bool) -> None:
        super().__init__()
        self.error = error
        self._can_go_back = can_go_back

    def compose(self) -> ComposeResult:
        text = Text.assemble(("Cannot open it\n\n", "bold"), printable(self.error.message))
        if self.error.hint:
            text.append(f"\n\n{printable(self.error.hint)}", "dim")
        with Vertical():
            yield Static(text, markup=False)
        yield Footer(show_command_palette=False)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self._can_go_back if action == "back" else True

    def action_reload(self) -> None:
        self.dismiss("again")

    def action_back(self) -> None:
        self.dismiss("back")
