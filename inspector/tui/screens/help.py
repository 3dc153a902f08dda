"""`HelpScreen`: what every key does here, read from the bindings themselves; searched with `/`."""

from __future__ import annotations

from collections.abc import Iterator

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.dom import DOMNode
from textual.widgets import Input, Static

from inspector.tui.commands import LIST_KEYS
from inspector.tui.kit.dialog import Dialog
from inspector.tui.kit.lines import FactSheet, FilterLine, Reader, Section
from inspector.tui.kit.view import View

__all__ = ["HelpScreen", "commands_of"]

#: Keys, title and sentence of a command.
Row = tuple[str, str, str]


def commands_of(kind: type[DOMNode]) -> list[Binding]:
    """The commands that stand in a class itself, not in those it inherits from."""
    own = kind.__dict__.get("BINDINGS", ())
    return [binding for binding in own if isinstance(binding, Binding) and binding.tooltip]


class HelpScreen(Dialog[None]):
    """The keys by where they work: the open view first, then the screen, everywhere, elsewhere."""

    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen > Vertical {
        width: 90%; max-width: 96; height: auto; max-height: 90%;
        padding: 0 2; background: $surface; border: round $primary;
    }
    HelpScreen Reader { height: auto; max-height: 100%; margin: 1 0 0 0; }
    HelpScreen FilterLine { display: none; }
    HelpScreen.-searching FilterLine { display: block; }
    HelpScreen #help-hint { color: $text-muted; }
    HelpScreen.-searching #help-hint { display: none; }
    """

    BINDINGS = [
        ("escape", "back", "Close"),
        ("q,question_mark,f1", "dismiss", "Close"),
        Binding("slash", "search", "Search", priority=True),
    ]

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static("/ searches · esc closes", markup=False, id="help-hint")
            yield FilterLine()
            with Reader():
                yield FactSheet("bold", "", "dim", sections=self._found(""))

    def on_mount(self) -> None:
        self.query_one(FilterLine).placeholder = "words of a key's title or sentence"
        self.query_one(Reader).focus()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # While words are typed, keys are characters of them.
        is_typing = isinstance(self.focused, Input)
        return not is_typing if action in ("search", "dismiss") else True

    def action_search(self) -> None:
        self.add_class("-searching")
        self.set_focus(self.query_one(FilterLine))

    def action_back(self) -> None:
        if not self.has_class("-searching"):
            self.dismiss()
            return
        self.query_one(FilterLine).value = ""
        self.remove_class("-searching")
        self.query_one(Reader).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._show(event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.query_one(Reader).focus()

    def _show(self, words: str) -> None:
        self.query_one(FactSheet).show(self._found(words))
        self.query_one(Reader).scroll_home(animate=False)

    def _found(self, words: str) -> list[Section]:
        """The keys that have all of the words in what is said of them."""
        wanted = words.casefold().split()
        parts: list[Section] = []
        for title, rows in self._sections():
            found = [row for row in rows if _holds(" ".join((*row, title)), wanted)]
            if found:
                parts.append((title, found))
        return parts or [("No key is told of in these words.", [("", "", "")])]

    def _sections(self) -> Iterator[tuple[str, list[Row]]]:
        """Titles and commands: of the open view, its screen, the app, then of the other views."""
        below = self.app.screen_stack[-2] if len(self.app.screen_stack) > 1 else self.screen
        views = list(below.query(View))
        here = [view for view in views if view.display]
        for view in here:
            kinds = [kind for kind in type(view).__mro__ if issubclass(kind, View)]
            yield f"In this view, {_name(view)}", [row for kind in kinds for row in _rows(kind)]
        yield "On this screen", _rows(type(below))
        yield "In lists, trees and maps", [(keys, "", what) for keys, what in LIST_KEYS]
        for kind in reversed(type(self.app).__mro__):
            if issubclass(kind, DOMNode):
                yield "Everywhere", _rows(kind)
        for view in views:
            if view not in here:
                yield f"In {_name(view)}", _rows(type(view))


def _name(view: View) -> str:
    return (view.id or "").capitalize()


def _rows(kind: type[DOMNode]) -> list[Row]:
    return [(c.key_display or c.key, c.description, c.tooltip) for c in commands_of(kind)]


def _holds(text: str, words: list[str]) -> bool:
    text = text.casefold()
    return all(word in text for word in words)
