"""`CopyScreen`: what can be copied, in full, so that it can be taken by hand as well."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

__all__ = ["CopyScreen"]


class CopyScreen(ModalScreen[None]):
    """Choose a text; it goes to the clipboard by OSC 52, and stays on the screen."""

    DEFAULT_CSS = """
    CopyScreen { align: center middle; }
    CopyScreen > Vertical {
        width: 90%; max-width: 120; height: auto; max-height: 80%;
        padding: 1 2; background: $surface; border: round $primary;
    }
    CopyScreen OptionList, CopyScreen OptionList:focus {
        height: auto; max-height: 16; border: none; background: $surface; padding: 0;
    }
    CopyScreen #copied { height: auto; margin-top: 1; }
    """

    BINDINGS = [("escape", "dismiss", "Close"), ("q", "dismiss", "Close")]

    def __init__(self, choices: list[tuple[str, str]]) -> None:
        """Args: `choices` are labels and printable texts."""
        super().__init__()
        self._choices = choices

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static("Copy (enter), or select it with the mouse; esc closes", markup=False)
            yield OptionList(
                *(
                    Option(Text.assemble((f"{label:<12}", "dim"), text.replace("\t", "  ")))
                    for label, text in self._choices
                ),
                markup=False,
            )
            yield Static("", markup=False, id="copied")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        label, text = self._choices[event.option_index]
        self.app.copy_to_clipboard(text)
        self.query_one("#copied", Static).update(
            Text.assemble(
                (f"The {label} was sent to the terminal's clipboard (OSC 52). ", ""),
                (
                    "If it did not arrive (tmux needs: set -g set-clipboard on), here it is:\n",
                    "dim",
                ),
                text,
            )
        )
