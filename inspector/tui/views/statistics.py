"""`StatisticsView`: every tensor's numbers summed up, ranked: NaN first, then odd norms."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.message import Message
from textual.widgets import Static

from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.errors import InspectError
from inspector.tui.reader import Reader
from inspector.tui.stats_sources import StatsSource, stats_columns
from inspector.tui.values_work import Known, WholeRun
from inspector.tui.views.base import View
from inspector.tui.widgets.table_source import NoRows
from inspector.tui.widgets.virtual_table import VirtualTable

if TYPE_CHECKING:
    from inspector.tui.session import Loaded
    from inspector.tui.widgets.task_line import TaskLine

__all__ = ["StatisticsView"]

_KINDS = (
    ("nan", "with NaN", "bold red"),
    ("inf", "with infinities", "bold red"),
    ("zero", "all zero", "yellow"),
    ("odd", "of an odd norm or value", "yellow"),
)


class StatisticsView(View):
    """A row for every tensor that was read."""

    DEFAULT_CSS = """
    StatisticsView #stats-summary { height: 1; padding: 0 1; color: $text-muted; }
    StatisticsView #stats-table { height: 1fr; }
    """

    class Chosen(Message):
        """Enter on a row: the user wants to see that tensor's numbers."""

        def __init__(self, fqn: str, index: tuple[int, ...] | None) -> None:
            super().__init__()
            self.fqn = fqn
            self.index = index

    class Arrived(Message):
        """A part of the run, or all of it, or why there is none."""

        def __init__(self, loaded: Hashable, answer: WholeRun | InspectError) -> None:
            super().__init__()
            self.loaded = loaded
            self.answer = answer

    def __init__(self, known: Known) -> None:
        super().__init__(id="stats")
        self._known = known
        self._table = VirtualTable(stats_columns(NoRows()), id="stats-table")
        self._source: StatsSource | None = None
        self._run: WholeRun | None = None
        self._began_s = 0.0
        self._runs = Reader(lambda key, answer: self.post_message(self.Arrived(key, answer)))

    def compose(self) -> ComposeResult:
        yield Static("", markup=False, id="stats-summary")
        yield self._table

    def on_unmount(self) -> None:
        self._runs.drop()

    @property
    def table(self) -> VirtualTable:
        return self._table

    @property
    def names(self) -> list[str]:
        return [] if self._source is None else self._source.row_names

    @property
    def is_reading(self) -> bool:
        """Whether tensors are being read."""
        return self._runs.is_busy

    def show(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._runs.drop()
        self._run = self._source = None
        self._table.set_source(NoRows())
        size = format_bytes(loaded.checkpoint.tensor_bytes)
        self._table.set_empty_text(
            f"u reads all {plural(loaded.checkpoint.num_tensors, 'tensor')} ({size}) and ranks them"
            if loaded.checkpoint.num_tensors
            else "There is no tensor in it"
        )
        self.query_one("#stats-summary", Static).update("")
        self.refilter()

    def toggle_run(self) -> None:
        """Read every tensor; while that runs, stop it."""
        loaded = self.loaded
        if loaded is None:
            return
        if self._runs.is_busy:
            self._runs.stop()
            return
        run = self._run = WholeRun(
            loaded, lambda run: self.post_message(self.Arrived(run.loaded, run))
        )
        self._began_s = time.monotonic()
        self._table.set_empty_text("Reading ...")
        self._runs.ask(loaded, run.read)

    def on_statistics_view_arrived(self, event: Arrived) -> None:
        event.stop()
        if event.loaded is not self.loaded:
            return
        if isinstance(event.answer, InspectError):
            self.notify(event.answer.message, title="No statistics", severity="error", markup=False)
            self._table.set_empty_text(f"It could not be read: {printable(event.answer.message)}")
            return
        self._take(event.answer)

    def _take(self, run: WholeRun) -> None:
        if run is not self._run or self.loaded is None:
            return
        self._known.add_run(run)
        row = self._table.cursor_row
        kept = self.names[row] if row and row < len(self.names) else None
        self._source = StatsSource(self.loaded.checkpoint, run.ranked, run.not_read)
        self._table.set_columns(stats_columns(self._source))
        self._table.set_source(self._source)
        self._table.set_empty_text("No name matches the filter")
        self.refilter()
        if kept is not None and kept in self.names:
            self._table.select_row(self.names.index(kept))
        self._show_summary(run)

    def _show_summary(self, run: WholeRun) -> None:
        from rich.text import Text

        num_read = sum(item.stats.num_read for item in run.ranked)
        text = Text(no_wrap=True, overflow="ellipsis")
        if not run.is_whole:
            so_far = "so far" if self._runs.is_busy else "Stopped: not every byte was read; so far"
            text.append(f"{so_far} ", "yellow")
        text.append(f"{plural(len(run.ranked), 'tensor')}, {plural(num_read, 'element')}")
        for kind, what, style in _KINDS:
            if count := sum(item.kind == kind for item in run.ranked):
                text.append("; ").append(f"{count:,} {what}", style)
        if run.not_read:
            text.append("; ").append(f"{len(run.not_read):,} not or not wholly read", "bold red")
        self.query_one("#stats-summary", Static).update(text)

    def show_task(self, line: TaskLine) -> bool:
        run = self._run
        if run is None or not self._runs.is_busy:
            return False
        line.show(
            "reading all",
            run.bytes_done,
            run.bytes_total,
            time.monotonic() - self._began_s,
            "stopping" if self._runs.is_stopping else "u stops",
        )
        return True

    def aim(self) -> tuple[str, tuple[int, ...] | None] | None:
        row = self._table.cursor_row
        if row is None or self._source is None:
            return None
        name = self._source.row_names[row]
        return name, self._source.first_bad(row)

    def on_virtual_table_highlighted(self, event: VirtualTable.Highlighted) -> None:
        event.stop()

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()
        aim = self.aim()
        if aim is not None:
            self.post_message(self.Chosen(*aim))

    def copy_choices(self) -> list[tuple[str, str]]:
        row = self._table.cursor_row
        if row is None or self._source is None:
            return []
        cells = []
        for column in stats_columns(self._source):
            cell = self._source.cell(row, column.key)
            cells.append(printable(cell[0] if isinstance(cell, tuple) else str(cell)))
        return [("name", printable(self._source.row_names[row])), ("row", "\t".join(cells))]
