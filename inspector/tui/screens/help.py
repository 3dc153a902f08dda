"""`HelpScreen`: what every key does here, read from the bindings themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.dom import DOMNode
from textual.screen import ModalScreen
from textual.widgets import Static

from inspector.tui.commands import LIST_KEYS
from inspector.tui.kit.lines import Reader
from inspector.tui.kit.view import TableView, View

__all__ = ["HelpScreen", "commands_of"]


def commands_of(kind: type[DOMNode]) -> list[Binding]:
    """The commands that stand in a class itself, not in those it inherits from."""
    own = kind.__dict__.get("BINDINGS", ())
    return [binding for binding in own if isinstance(binding, Binding) and binding.tooltip]


class HelpScreen(ModalScreen[None]):
    """The keys, grouped by where they work: the open screen, each of its views, everywhere."""

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
        for title, commands in self._sections():
            if commands:
                yield Text(title, "bold")
                yield _table((c.key_display or c.key, c.description, c.tooltip) for c in commands)
                yield Text("")
        yield Text("In lists, trees and maps", "bold")
        yield _table((keys, "", what) for keys, what in LIST_KEYS)

    def _sections(self) -> Iterator[tuple[str, list[Binding]]]:
        """Titles and commands: of the screen below, of its views, of all of them, of the app."""
        below = self.app.screen_stack[-2] if len(self.app.screen_stack) > 1 else self.screen
        yield "On this screen", commands_of(type(below))
        views = list(below.query(View))
        for view in views:
            yield f"In {(view.id or '').capitalize()}", commands_of(type(view))
        if views:
            yield "In every view", commands_of(TableView) + commands_of(View)
        for kind in reversed(type(self.app).__mro__):
            if issubclass(kind, DOMNode):
                yield "Everywhere", commands_of(kind)


def _table(rows: Iterable[tuple[str, str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, min_width=4)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for keys, title, about in rows:
        table.add_row(Text(keys, "bold"), title, Text(about, "dim"))
    return table
