"""The checkpoints of a folder as rows of a table. Pure; no widget."""

from __future__ import annotations

import numpy as np

from inspector.checkpoint.find.step_folders import Found
from inspector.checkpoint.text import format_bytes, format_time
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.columns import Column
from inspector.tui.kit.row_order import SortKeys
from inspector.tui.kit.virtual_table import TableSource

__all__ = ["FOUND_COLUMNS", "FoundSource"]


FOUND_COLUMNS = (
    Column("path", "Checkpoint", min_width=16, flex=1, cut="middle"),
    Column("step", "Step", min_width=6, max_width=12, align="right", descending_first=True),
    Column("state", "State", width=10),
    Column("verdict", "Verdict", width=14),
    Column("size", "Size", width=10, align="right", descending_first=True),
    Column("files", "Files", width=6, align="right", priority=2, descending_first=True),
    Column("modified", "Modified", width=19, priority=1, descending_first=True),
    Column("detail", "", min_width=12, max_width=50, priority=3, sortable=False),
)


_STATE_STYLES = {"complete": "ok", "unfinished": "warning", "unreadable": "error"}
#: Green is for what was read: here metadata and file sizes alone were.
_VERDICT_STYLES = {"sound": "", "damaged": "error", "suspicious": "error", "unreadable": "error"}


class FoundSource(TableSource):
    """The checkpoints of a folder, and their verdicts as they come in."""

    def __init__(self, found: tuple[Found, ...]) -> None:
        self.found = found
        self.verdicts: dict[int, str] = {}
        #: What is wrong with the step that a row is a part of.
        self.notes: dict[int, str] = {}
        #: The row that another is to be compared with.
        self.marked: int | None = None

    @property
    def num_rows(self) -> int:
        return len(self.found)

    def cell(self, row: int, column_key: str) -> Cell:
        item = self.found[row]
        cells: dict[str, Cell] = {
            "path": (f"[A] {item.path or '.'}", "accent")
            if row == self.marked
            else item.path or ".",
            "step": "" if item.step is None else str(item.step),
            "state": (item.state, _STATE_STYLES.get(item.state, "")),
            "verdict": self._verdict(row),
            "size": format_bytes(item.num_bytes),
            "files": str(item.num_files),
            "modified": (format_time(item.modified_s), "dim"),
            "detail": (item.detail or self.notes.get(row, ""), "dim"),
        }
        return cells[column_key]

    def sort_key(self, column_key: str) -> SortKeys | None:
        found = self.found
        if column_key == "path":
            return [item.path for item in found]
        if column_key == "state":
            return [item.state for item in found]
        if column_key == "verdict":
            return [self.verdicts.get(row, "") for row in range(len(found))]
        numbers = {
            "step": [-1 if item.step is None else item.step for item in found],
            "size": [item.num_bytes for item in found],
            "files": [item.num_files for item in found],
            "modified": [item.modified_s or 0.0 for item in found],
        }
        return np.asarray(numbers[column_key]) if column_key in numbers else None

    def _verdict(self, row: int) -> Cell:
        verdict = self.verdicts.get(row)
        if verdict is None:
            return ("...", "dim")
        # As the badge of an open one says it: nothing else was read.
        said = "metadata sound" if verdict == "sound" else verdict
        return (said, _VERDICT_STYLES.get(verdict, "dim"))

    def marker(self, row: int) -> str:
        if self.verdicts.get(row) in ("damaged", "suspicious", "unreadable"):
            return "error"
        return {"unfinished": "warning", "unreadable": "error"}.get(self.found[row].state, "")
