"""`InfoScreen`: the summary that `show` prints, with all of its evidence."""

from __future__ import annotations

from textual.app import ComposeResult

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import printable
from inspector.layout.writer.written_by import WrittenBy
from inspector.report.text import summary_facts
from inspector.tui.kit.lines import FactSheet, Reader
from inspector.tui.kit.pane import Dialog

__all__ = ["InfoScreen"]


class InfoScreen(Dialog[None]):
    """What the checkpoint is, and how that is known."""

    DEFAULT_CSS = """
    InfoScreen { align: center middle; }
    InfoScreen > Reader {
        width: 90%; max-width: 120; height: auto; max-height: 90%;
        padding: 1 2; background: $surface; border: round $primary;
    }
    """

    BINDINGS = [("escape,q,i", "dismiss", "Close")]

    def __init__(self, checkpoint: Checkpoint, written_by: WrittenBy) -> None:
        super().__init__()
        self._checkpoint = checkpoint
        self._written_by = written_by

    def compose(self) -> ComposeResult:
        facts = summary_facts(self._checkpoint, self._written_by)
        path = printable(self._checkpoint.path)
        with Reader():
            yield FactSheet("bold", "", sections=[("", [("path", path), *facts])])
