"""The checks as threads run them: a report, and a progress that a screen can ask for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from inspector.checks.findings import Report
from inspector.checks.judge import judge, merge
from inspector.checks.payload.payloads import PayloadProgress, check_payloads
from inspector.layout.writer.written_by import WrittenBy
from inspector.tui.session import Loaded

__all__ = ["DeepCheck", "judge_loaded"]


def judge_loaded(loaded: Loaded, written_by: WrittenBy) -> Report:
    """What metadata and file sizes say."""
    return judge(loaded.checkpoint, loaded.storage, written_by=written_by)


class DeepCheck:
    """Reading every stored byte of a checkpoint; asked now and then how far it is.

    Args:
        loaded: The checkpoint.
        report: What is known without reading.
        values: Also look for NaN and infinite values.
    """

    def __init__(self, loaded: Loaded, report: Report, *, values: bool = True) -> None:
        self.loaded = loaded
        self.progress: PayloadProgress | None = None
        self.started_s = time.monotonic()
        #: Whether it was told to stop before it was done.
        self.was_stopped = False
        self._report = report
        self._values = values

    def run(self, stop: Callable[[], bool]) -> Report:
        """Read everything; blocks. The report with what was found, and what was left out.

        Args:
            stop: Asked now and then; True ends it with what was found by then.
        """

        def take(progress: PayloadProgress) -> bool:
            self.progress = progress
            self.was_stopped = stop()
            return self.was_stopped

        found = check_payloads(
            self.loaded.checkpoint, self.loaded.storage, values=self._values, progress=take
        )
        not_read = [n for n in self._report.checked.not_checked if "--deep" not in n.why]
        checked = replace(self._report.checked, not_checked=tuple(not_read))
        return merge(replace(self._report, checked=checked), found.findings, found.checked)
