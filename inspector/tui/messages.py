"""What threads tell the screens: values, in messages; a thread touches no widget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.message import Message

if TYPE_CHECKING:
    from inspector.checks.findings import Report
    from inspector.checks.run import Judged
    from inspector.layout.writer.written_by import WrittenBy
    from inspector.tui.session import Loaded

__all__ = ["CheckpointJudged", "ReportReady", "ScreenComplete", "WriterFound"]


class ScreenComplete(Message):
    """The main screen has all of its parts; what it waited for may begin."""


class WriterFound(Message):
    """Who wrote `loaded` was worked out."""

    def __init__(self, loaded: Loaded, written_by: WrittenBy) -> None:
        super().__init__()
        self.loaded = loaded
        self.written_by = written_by


class ReportReady(Message):
    """The checks of `loaded` are done; `is_deep` if every byte was read."""

    def __init__(self, loaded: Loaded, report: Report, is_deep: bool) -> None:
        super().__init__()
        self.loaded = loaded
        self.report = report
        self.is_deep = is_deep


class CheckpointJudged(Message):
    """One checkpoint of a folder was judged."""

    def __init__(self, judged: Judged) -> None:
        super().__init__()
        self.judged = judged
