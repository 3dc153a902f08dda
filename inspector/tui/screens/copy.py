"""`CopyScreen`: what can be copied, in full, so that it can be taken by hand as well."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from inspector.tui.kit.pane import Dialog

__all__ = ["CopyScreen"]

_LABEL_CELLS = 12


class CopyScreen(Dialog[None]):
    """Choose a text; it goes to the clipboard by OSC 52, and stays on the screen."""

    DEFAULT_CSS = """
    CopyScreen { align: center middle; }
    CopyScreen > Vertical {
        width: 90%; max-width: 120; height: auto; max-height: 92%;
        padding: 1 2; background: $surface; border: round $primary;
    }
    CopyScreen OptionList, CopyScreen OptionList:focus {
        height: auto; max-height: 16; border: none; background: $surface; padding: 0;
    }
    CopyScreen #copied { height: auto; margin-top: 1; }
    CopyScreen #copy-intro { height: auto; margin-bottom: 1; }
    CopyScreen.-copied #copy-intro { display: none; }
    CopyScreen.-copied OptionList { max-height: 6; }
    """

    BINDINGS = [
        ("escape", "dismiss", "Close"),
        ("q", "dismiss", "Close"),
        ("y", "take", "Copy"),
        ("j", "move(1)", "Down"),
        ("k", "move(-1)", "Up"),
    ]

    def __init__(self, choices: list[tuple[str, str]], intro: Text | None = None) -> None:
        """Args: `choices` are labels and printable texts; `intro` says what they are."""
        super().__init__()
        self._choices = choices
        self._intro = intro

    def compose(self) -> ComposeResult:
        with Vertical():
            if self._intro is not None:
                yield Static(self._intro, markup=False, id="copy-intro")
            yield Static("Copy (y, enter), or select it with the mouse; esc closes", markup=False)
            yield OptionList(
                *(
                    Option(Text.assemble((_heading(label), "dim"), text.replace("\t", "  ")))
                    for label, text in self._choices
                ),
                markup=False,
            )
            yield Static("", markup=False, id="copied")

    def action_take(self) -> None:
        self.query_one(OptionList).action_select()

    def action_move(self, lines: int) -> None:
        choices = self.query_one(OptionList)
        if lines > 0:
            choices.action_cursor_down()
        else:
            choices.action_cursor_up()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        label, text = self._choices[event.option_index]
        self.app.copy_to_clipboard(text)
        what = label if len(label) < _LABEL_CELLS else "line"
        # What was copied may be long, and the screen small.
        self.add_class("-copied")
        self.call_after_refresh(event.option_list.scroll_to_highlight)
        self.query_one("#copied", Static).update(
            Text.assemble(
                (f"The {what} was sent to the terminal's clipboard (OSC 52). ", ""),
                (
                    "If it did not arrive (tmux needs: set -g set-clipboard on), here it is:\n",
                    "dim",
                ),
                text,
            )
        )


def _heading(label: str) -> str:
    """A label before its text, or above it if it is a sentence."""
    return f"{label:<{_LABEL_CELLS}}" if len(label) < _LABEL_CELLS else f"{label}\n"
