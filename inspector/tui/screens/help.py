"""`HelpScreen`: what every key does, from the command table."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.screen import ModalScreen
from textual.widgets import Static

from inspector.tui.commands import COMMANDS, KEYS
from inspector.tui.kit.lines import Reader

__all__ = ["HelpScreen"]

_SCOPES = {
    "main": "In a checkpoint",
    "picker": "In a folder of checkpoints",
    "diff": "In a comparison",
    "replay": "In a recorded verification",
    "app": "Everywhere",
}


class HelpScreen(ModalScreen[None]):
    """The keys, grouped by where they work."""

    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen > Reader {
        width: 90%; max-width: 96; height: auto; max-height: 90%;
        padding: 1 2; background: $surface; border: round $primary;
    }
    """

    BINDINGS = [("escape,q,question_mark,f1", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        with Reader():
            yield Static(Group(*self._parts()), markup=False)

    def _parts(self) -> Iterator[RenderableType]:
        here = {type(s).__name__.removesuffix("Screen").lower() for s in self.app.screen_stack}
        for scope, title in _SCOPES.items():
            if scope not in here | {"app"}:
                continue  # Keys that mean nothing in this session.
            yield Text(title, "bold")
            table = Table.grid(padding=(0, 2))
            table.add_column(no_wrap=True, min_width=4)
            table.add_column(no_wrap=True, min_width=13)
            table.add_column(ratio=1)
            for command in COMMANDS:
                if command.scope == scope:
                    key = Text(command.shown_key, "bold")
                    table.add_row(key, command.title, Text(command.help, "dim"))
            yield table
            yield Text("")
        yield Text("In lists, trees and maps", "bold")
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(ratio=1)
        for keys, what in KEYS:
            table.add_row(Text(keys, "bold"), Text(what, "dim"))
        yield table
