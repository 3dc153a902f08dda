"""`AskPathScreen`: a line to type a path into."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

__all__ = ["AskPathScreen"]


class AskPathScreen(ModalScreen[str]):
    """Dismissed with the path, or with nothing."""

    DEFAULT_CSS = """
    AskPathScreen { align: center middle; }
    AskPathScreen > Vertical {
        width: 90%; max-width: 100; height: auto;
        padding: 1 2; background: $surface; border: round $primary;
    }
    AskPathScreen Static { width: 1fr; }
    AskPathScreen Input, AskPathScreen Input:focus {
        height: 1; border: none; padding: 0 1; margin: 1 0; background: $boost;
    }
    AskPathScreen #path-hint { color: $text-muted; }
    """

    BINDINGS = [("escape", "cancel", "Cancel")]

    def __init__(self, question: str, value: str = "") -> None:
        """Args: `question` is printable; `value` stands in the line already."""
        super().__init__()
        self._question = question
        self._value = value

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._question, markup=False)
            yield Input(
                self._value, placeholder="a checkpoint folder, or a URL", select_on_focus=False
            )
            yield Static("enter compares · esc cancels", markup=False, id="path-hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.dismiss(event.value.strip())

    def action_cancel(self) -> None:
        self.dismiss("")
