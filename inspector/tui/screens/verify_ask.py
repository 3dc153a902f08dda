"""`AskScreen`: a question with a few answers, before something is stopped."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

__all__ = ["AskScreen"]


class AskScreen(ModalScreen[str]):
    """Dismissed with the id of the answer; escape is the last of them, which changes nothing."""

    DEFAULT_CSS = """
    AskScreen { align: center middle; }
    AskScreen > Vertical {
        width: 90%; max-width: 72; height: auto;
        padding: 1 2; background: $surface; border: round $warning;
    }
    AskScreen Static { width: 1fr; }
    AskScreen Horizontal { height: auto; margin-top: 1; }
    AskScreen Button { margin-right: 2; }
    """

    BINDINGS = [
        ("escape,n", "stay", "No"),
        ("y", "agree", "Yes"),
        ("left,h", "app.focus_previous", "Previous"),
        ("right,l", "app.focus_next", "Next"),
    ]

    def __init__(self, question: str, answers: list[tuple[str, str]]) -> None:
        """Args: `answers` are (id, label); `y` gives the first, escape the last."""
        super().__init__()
        self._question = question
        self._answers = answers

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(self._question, markup=False)
            with Horizontal():
                for index, (answer, label) in enumerate(self._answers):
                    variant = "warning" if index == 0 else "default"
                    yield Button(label, id=answer, variant=variant, compact=True)  # type: ignore[arg-type]

    def on_mount(self) -> None:
        # Enter by mistake must not stop hours of work.
        self.query(Button).last().focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        self.dismiss(event.button.id or self._answers[-1][0])

    def action_stay(self) -> None:
        self.dismiss(self._answers[-1][0])

    def action_agree(self) -> None:
        self.dismiss(self._answers[0][0])
