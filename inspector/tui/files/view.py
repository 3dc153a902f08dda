"""`FilesView`: the data files, and what lies in the one under the cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Static

from inspector.checkpoint.dtypes import short_name
from inspector.checkpoint.model import Checkpoint, Tensor
from inspector.checkpoint.text import format_box, format_bytes, format_count, format_time, printable
from inspector.layout.contents import file_contents
from inspector.report.fitting import bar
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.row_order import SortKeys
from inspector.tui.kit.view import TableView
from inspector.tui.kit.virtual_table import Column, NoRows, TableSource, VirtualTable
from inspector.tui.session import Loaded

if TYPE_CHECKING:
    from inspector.checks.findings import Finding, Report
    from inspector.layout.contents import FileContents

__all__ = ["FilesView"]

_BAR_CELLS = 24


FILE_COLUMNS = (
    Column("path", "File", min_width=14, flex=1, cut="middle"),
    Column("rank", "Rank", width=5, align="right"),
    Column("size", "Size", width=10, align="right", descending_first=True),
    Column("bar", "of the largest", width=_BAR_CELLS, sortable=False, priority=1),
    Column("referenced", "Referenced", width=10, align="right", priority=2, descending_first=True),
    Column("payloads", "Payloads", width=9, align="right", descending_first=True),
    Column("modified", "Modified", width=19, priority=3),
)


class FileSource(TableSource):
    """The data files. A row is an index into `Checkpoint.files`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._largest = max((f.num_bytes or 0 for f in checkpoint.files), default=0)
        self.badges: dict[int, str] = {}

    @property
    def num_rows(self) -> int:
        return len(self.checkpoint.files)

    def cell(self, row: int, column_key: str) -> Cell:
        file = self.checkpoint.files[row]
        if column_key == "path":
            return file.path
        if column_key == "rank":
            return "?" if file.rank is None else str(file.rank)
        if column_key == "size":
            return (
                ("not there", "error") if file.num_bytes is None else format_bytes(file.num_bytes)
            )
        if column_key == "bar":
            share = (file.num_bytes or 0) / self._largest if self._largest else 0.0
            return (bar(share, _BAR_CELLS), "accent")
        if column_key == "referenced":
            return format_bytes(file.referenced_bytes)
        if column_key == "payloads":
            return format_count(file.num_payloads)
        return (format_time(file.modified_s), "dim")

    def sort_key(self, column_key: str) -> SortKeys | None:
        files = self.checkpoint.files
        if column_key == "path":
            return [f.path for f in files]
        numbers = {
            "rank": [-1 if f.rank is None else f.rank for f in files],
            "size": [-1 if f.num_bytes is None else f.num_bytes for f in files],
            "referenced": [f.referenced_bytes for f in files],
            "payloads": [f.num_payloads for f in files],
        }
        if column_key == "modified":
            return np.asarray([f.modified_s or 0.0 for f in files])
        return np.asarray(numbers[column_key]) if column_key in numbers else None

    def marker(self, row: int) -> str:
        return self.badges.get(row, "error" if self.checkpoint.files[row].num_bytes is None else "")


# Rows that are looked at to choose the widths.
_SAMPLE_ROWS = 100


def content_columns(source: ContentSource | None = None) -> tuple[Column, ...]:
    """Columns as wide as what stands in them: no offset is ever cut, the box goes first."""
    name, box, dtype, offset, length = 6, 3, 5, 6, 6
    if source is not None and source.num_rows:
        name, box = (source.widest(key, 3, 40, _SAMPLE_ROWS) for key in ("name", "box"))
        name, dtype = max(name, 6), source.widest("dtype", 5, 16, _SAMPLE_ROWS)
        offset = max(offset, len(str(max(source.contents.byte_offset))))
        length = max(length, len(str(max(source.contents.byte_length))))
    return (
        Column("offset", "Offset", width=offset, align="right"),
        Column("length", "Length", width=length, align="right", descending_first=True),
        Column("name", "Tensor", min_width=min(name, 24), flex=1, cut="middle"),
        Column(
            "box",
            "Box",
            min_width=min(box, 14),
            max_width=box,
            cut="middle",
            priority=2,
            sortable=False,
        ),
        Column("dtype", "Dtype", width=dtype, priority=1, sortable=False),
    )


class ContentSource(TableSource):
    """What lies in one data file, in byte order."""

    def __init__(self, checkpoint: Checkpoint, contents: FileContents) -> None:
        self.checkpoint = checkpoint
        self.contents = contents

    @property
    def num_rows(self) -> int:
        return len(self.contents.entry)

    def tensor(self, row: int) -> Tensor | None:
        entry = int(self.contents.entry[row])
        return self.checkpoint.tensors[entry] if entry < self.checkpoint.num_tensors else None

    def cell(self, row: int, column_key: str) -> Cell:
        if column_key == "offset":
            return str(self.contents.byte_offset[row])
        if column_key == "length":
            return str(self.contents.byte_length[row])
        tensor = self.tensor(row)
        if tensor is None:
            entry = int(self.contents.entry[row]) - self.checkpoint.num_tensors
            names: dict[str, Cell] = {
                "name": self.checkpoint.bytes_entries[entry].fqn,
                "dtype": ("bytes", "dim"),
            }
            return names.get(column_key, "")
        if column_key == "name":
            return tensor.fqn
        if column_key == "dtype":
            return short_name(tensor.dtype)
        chunk = int(self.contents.chunk[row])
        return format_box(tensor.offsets[chunk].tolist(), tensor.sizes[chunk].tolist())

    def sort_key(self, column_key: str) -> SortKeys | None:
        keys: dict[str, SortKeys] = {
            "offset": self.contents.byte_offset,
            "length": self.contents.byte_length,
            "name": self.contents.entry,
        }
        return keys.get(column_key)


_MAX_CHARS = 300


class FilesView(TableView):
    """Every data file."""

    DEFAULT_CSS = """
    FilesView #files-table { height: 1fr; }
    FilesView #contents { height: 1fr; border-top: hkey $panel; }
    FilesView #file-said { height: auto; max-height: 3; padding: 0 1; display: none; }
    FilesView #file-said.-said { display: block; }
    """

    def __init__(self) -> None:
        super().__init__(VirtualTable(FILE_COLUMNS, id="files-table", empty_text="..."), id="files")
        self._contents = VirtualTable(content_columns(), id="contents", empty_text="")
        #: What is wrong with each file, by row, the worst first.
        self._findings: dict[int, list[Finding]] = {}

    def compose(self) -> ComposeResult:
        yield self._table
        yield Static("", markup=False, id="file-said")
        yield self._contents

    def show(self, loaded: Loaded) -> None:
        row = self.table.cursor_row
        self.loaded = loaded
        self._names = [file.path for file in loaded.checkpoint.files]
        self._findings = {}
        self._table.set_empty_text(
            "No file name matches the filter" if self._names else "There is no data file"
        )
        self.table.set_source(FileSource(loaded.checkpoint))
        self.refilter()
        if row is not None:
            self.table.select_row(row)
        self._show_row(self.table.cursor_row)

    def show_report(self, report: Report) -> None:
        source = self._table.source
        if isinstance(source, FileSource):
            rows = {path: row for row, path in enumerate(self._names)}
            # Findings come by severity, so the first of a file is its worst.
            found: dict[int, list[Finding]] = {}
            for finding in report.findings:
                if finding.file in rows:
                    found.setdefault(rows[finding.file], []).append(finding)
            self._findings = found
            source.badges = {row: of_file[0].severity for row, of_file in found.items()}
            self._table.refresh_rows()
            self._say(self._table.cursor_row)

    def go_to(self, finding: Finding) -> bool:
        """Put the cursor on a finding's file; False if it is none of these."""
        if finding.file not in self._names:
            return False
        row = self._names.index(finding.file)
        if not self._table.select_row(row):
            self.back()
            self._table.select_row(row)
        return True

    def aim(self) -> tuple[str, tuple[int, ...] | None] | None:
        row = self._contents.cursor_row
        name = None if row is None else self._contents.source.cell(row, "name")
        return (name, None) if isinstance(name, str) else None

    def on_virtual_table_highlighted(self, event: VirtualTable.Highlighted) -> None:
        event.stop()
        if event.table is self.table:
            self._show_row(event.row if event.row >= 0 else None)

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()
        if event.table is self.table:
            self._contents.focus()

    def _say(self, row: int | None) -> None:
        """What is wrong with the file under the cursor; where several things are, the worst."""
        found = [] if row is None else self._findings.get(row, [])
        text = Text()
        if found:
            worst, more = found[0], len(found) - 1
            text.append(f"{worst.severity} {worst.code}: ", worst.severity)
            text.append(printable(worst.message, _MAX_CHARS))
            if more:
                text.append(f" (and {more:,} more: 3 lists them)", "dim")
        said = self.query_one("#file-said", Static)
        said.update(text)
        said.set_class(bool(found), "-said")

    def _show_row(self, row: int | None) -> None:
        if self.loaded is None:
            return
        self._say(row)
        if row is None:
            self._contents.set_empty_text("")
            self._contents.set_source(NoRows())
            return
        checkpoint = self.loaded.checkpoint
        empty = checkpoint.files[row].num_bytes == 0
        self._contents.set_empty_text(
            "An empty file: this rank had nothing to write, which is normal"
            if empty
            else "No entry of the metadata names this file: it is left from another save"
        )
        source = ContentSource(checkpoint, file_contents(checkpoint, row))
        self._contents.set_columns(content_columns(source))
        self._contents.set_source(source)

    def copy_choices(self) -> list[tuple[str, str]]:
        row = self.table.cursor_row
        if self.loaded is None or row is None:
            return []
        folder = printable(self.loaded.checkpoint.path)
        path = printable(self.loaded.checkpoint.files[row].path)
        return [("file name", path), ("file", f"{folder}/{path}"), ("checkpoint", folder)]
