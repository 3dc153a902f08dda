"""`FilesView`: the data files, and what lies in the one under the cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual.app import ComposeResult
from textual.widgets import Static

from inspector.checkpoint.text import printable
from inspector.layout.contents import file_contents
from inspector.tui.files.sources import FILE_COLUMNS, ContentSource, FileSource, content_columns
from inspector.tui.kit.view import TableView
from inspector.tui.kit.virtual_table import NoRows, VirtualTable
from inspector.tui.session import Loaded

if TYPE_CHECKING:
    from inspector.checks.findings import Finding, Report

__all__ = ["FilesView"]

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
