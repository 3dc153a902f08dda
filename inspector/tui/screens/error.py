"""`ErrorScreen`: what the command line would have said, on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Static

from inspector.checkpoint.text import printable
from inspector.errors import InspectError, MetadataError, NotACheckpointError
from inspector.tui.background import Background
from inspector.tui.commands import command
from inspector.tui.kit.key_bar import KeyBar

if TYPE_CHECKING:
    from inspector.checks.findings import Report

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

    BINDINGS = [
        command("r", "reload", "Try again", "Read it anew.", footer=True),
        command("escape", "back", "Back", "Back to the folder's checkpoints.", footer=True),
    ]

    def __init__(self, error: InspectError, *, can_go_back: bool, path: str = "") -> None:
        super().__init__()
        self.error = error
        self._path = path
        self._can_go_back = can_go_back

    def compose(self) -> ComposeResult:
        text = Text.assemble(("Cannot open it\n\n", "bold"), printable(self.error.message))
        if self.error.hint:
            text.append(f"\n\n{printable(self.error.hint)}", "dim")
        with Vertical():
            yield Static(text, markup=False)
            yield Static("", markup=False, id="more")
        yield KeyBar()

    def on_mount(self) -> None:
        if self._path and isinstance(self.error, (MetadataError, NotACheckpointError)):
            from inspector.checks.judge import check

            # What the checks make of a folder that cannot be opened.
            judging = Background[None](self, self._judged, "checking")
            judging.ask(None, lambda stop: check(self._path))

    def _judged(self, _: None, report: Report | InspectError) -> None:
        if isinstance(report, InspectError):
            return  # The error that is shown says all there is to say.
        text = Text()
        for finding in report.findings:
            if finding.message == self.error.message:
                continue
            text.append(f"\n\n{finding.code}  ", "bold")
            text.append(printable(finding.message))
            if finding.hint:
                text.append(f"\ndo: {printable(finding.hint)}", "dim")
        self.query_one("#more", Static).update(text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return self._can_go_back if action == "back" else True

    def action_reload(self) -> None:
        self.dismiss("again")

    def action_back(self) -> None:
        self.dismiss("back")
