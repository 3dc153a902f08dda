"""`StatisticsView`: every tensor's numbers summed up, ranked: NaN first, then odd norms."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.message import Message
from textual.widgets import Static

from inspector.checkpoint.dtypes import short_name
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_bytes, format_shape, natural_keys, plural, printable
from inspector.errors import InspectError
from inspector.report.stats import format_number
from inspector.tui.background import Background
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.row_order import SortKeys
from inspector.tui.kit.view import TableView
from inspector.tui.kit.virtual_table import Column, NoRows, TableSource, VirtualTable
from inspector.tui.values.work import Known, WholeRun
from inspector.values.nonfinite import NonFinite
from inspector.values.ranking import Ranked
from inspector.values.stats import NotRead

if TYPE_CHECKING:
    from inspector.checks.findings import Finding
    from inspector.tui.kit.bars import TaskLine
    from inspector.tui.session import Loaded

__all__ = ["StatisticsView", "StatsSource", "stats_columns"]

_NUMBERS = (
    Column("shape", "Shape", min_width=8, max_width=20, cut="middle", priority=8),
    Column("dtype", "Dtype", min_width=5, max_width=9, priority=9),
    Column("low", "Min", width=10, align="right", priority=4),
    Column("high", "Max", width=10, align="right", priority=3, descending_first=True),
    Column("mean", "Mean", width=10, align="right", priority=6, descending_first=True),
    Column("std", "Std", width=9, align="right", priority=5, descending_first=True),
    Column("rms", "Rms", width=9, align="right", priority=2, descending_first=True),
    Column("l2", "L2", width=9, align="right", priority=7, descending_first=True),
    Column("zeros", "Zeros", width=11, align="right", priority=10, descending_first=True),
)
# Rows that are looked at to choose the widths; notes stand in the first ones.
_SAMPLE_ROWS = 300
_BADGES = {"nan": "error", "inf": "error", "zero": "warning", "odd": "warning", "": ""}
_STYLES = {"nan": "error", "inf": "error", "zero": "warning", "odd": "warning", "": "dim"}


class StatsSource(TableSource):
    """One row a tensor: NaN and infinities first, then what could not be read, then by oddness."""

    def __init__(
        self, checkpoint: Checkpoint, ranked: Sequence[Ranked], not_read: Sequence[NotRead]
    ) -> None:
        self._checkpoint = checkpoint
        self._not_read = {item.index: item for item in not_read}
        bad = [item for item in ranked if item.kind in ("nan", "inf")]
        rest = [item for item in ranked if item.kind not in ("nan", "inf")]
        seen = {item.stats.index for item in ranked}
        unread = [index for index in self._not_read if index not in seen]
        self._rows: list[tuple[int, Ranked | None]] = [
            *((item.stats.index, item) for item in bad),
            *((index, None) for index in unread),
            *((item.stats.index, item) for item in rest),
        ]
        fqns = checkpoint.columns.fqns
        #: Raw name of each row.
        self.row_names: list[str] = [fqns[index] for index, _ in self._rows]

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    def first_bad(self, row: int) -> tuple[int, ...] | None:
        """The index of the first NaN of a row's tensor, or else of the first infinity, if any."""
        item = self._rows[row][1]
        if item is None:
            return None
        return item.stats.first_nan if item.stats.num_nan else item.stats.first_inf

    def cell(self, row: int, column_key: str) -> Cell:
        index, item = self._rows[row]
        if column_key == "name":
            return self.row_names[row]
        if column_key == "note":
            return self._note(index, item)
        if column_key == "shape":
            return format_shape(self._checkpoint.tensors[index].shape)
        if column_key == "dtype":
            dtype = short_name(self._checkpoint.tensors[index].dtype)
            return f"|{dtype}|" if item is not None and item.stats.is_complex else dtype
        if item is None:
            return ""
        number = _number(item, column_key)
        return format_number(None if isinstance(number, float) and math.isnan(number) else number)

    def _note(self, index: int, item: Ranked | None) -> Cell:
        missing = self._not_read.get(index)
        if item is not None and item.kind:
            return (item.reason, _STYLES[item.kind])
        if missing is not None:
            num = missing.num_elements
            some = (
                plural(num, "element") if num < self._checkpoint.tensors[index].num_elements else ""
            )
            return (f"{some} not read: {missing.why}".lstrip(), "error")
        return (item.reason, "dim") if item is not None else ""

    def sort_key(self, column_key: str) -> SortKeys | None:
        if column_key == "name":
            return natural_keys(self.row_names)
        tensors = self._checkpoint.tensors
        if column_key == "shape":
            return np.array([float(tensors[i].num_elements) for i, _ in self._rows])
        if column_key == "dtype":
            return [tensors[i].dtype for i, _ in self._rows]
        if column_key == "note":
            return None
        numbers = [math.nan if r is None else _number(r, column_key) for _, r in self._rows]
        return np.array([math.nan if n is None else float(n) for n in numbers], np.float64)

    def marker(self, row: int) -> str:
        index, item = self._rows[row]
        badge = "" if item is None else _BADGES[item.kind]
        return badge or ("error" if index in self._not_read else "")


def stats_columns(source: TableSource) -> tuple[Column, ...]:
    """The columns, as wide as what stands in them."""

    def width(key: str, least: int, most: int) -> int:
        rows = range(min(source.num_rows, _SAMPLE_ROWS))
        return max(least, min(most, max((len(source.text(row, key)) for row in rows), default=0)))

    name, note = width("name", 24, 48), width("note", 4, 80)
    return (
        Column("name", "Tensor", min_width=min(name, 32), flex=3, max_width=name, cut="middle"),
        # What is wrong goes before any number.
        Column(
            "note",
            "Note",
            min_width=min(note, 36),
            flex=2,
            max_width=note,
            priority=1,
            sortable=False,
        ),
        *_NUMBERS,
    )


def _number(item: Ranked, key: str) -> float | int | None:
    stats = item.stats
    numbers = {
        "low": stats.low,
        "high": stats.high,
        "mean": stats.mean,
        "std": stats.std,
        "rms": stats.rms,
        "l2": stats.l2,
        "zeros": stats.num_zero,
    }
    return numbers[key]


_KINDS = (
    ("nan", "with NaN", "error"),
    ("inf", "with infinities", "error"),
    ("zero", "all zero", "warning"),
    ("odd", "of an odd norm or value", "warning"),
)


class StatisticsView(TableView):
    """A row for every tensor that was read."""

    DEFAULT_CSS = """
    StatisticsView #stats-summary { height: 1; padding: 0 1; color: $text-muted; }
    StatisticsView #stats-table { height: 1fr; }
    """

    @dataclass
    class Chosen(Message):
        """Enter on a row: the user wants to see that tensor's numbers."""

        fqn: str
        index: tuple[int, ...] | None

    @dataclass
    class Found(Message):
        """All tensors were read, or as many as there was time for: what is wrong with values."""

        loaded: Loaded
        findings: tuple[Finding, ...]

    def __init__(self, known: Known) -> None:
        table = VirtualTable(stats_columns(NoRows()), id="stats-table", empty_text="...")
        super().__init__(table, id="stats")
        self._known = known
        self._source: StatsSource | None = None
        self._run: WholeRun | None = None
        self._runs = Background[Hashable](self, self._arrived, "statistics")

    def compose(self) -> ComposeResult:
        yield Static("", markup=False, id="stats-summary")
        yield self._table

    @property
    def is_reading(self) -> bool:
        return self._runs.is_busy

    def show(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._runs.drop()
        self._run = self._source = None
        self._names = []
        self._table.set_source(NoRows())
        size = format_bytes(loaded.checkpoint.tensor_bytes)
        self._table.set_empty_text(
            f"u reads all {plural(loaded.checkpoint.num_tensors, 'tensor')} ({size}) and ranks them"
            if loaded.checkpoint.num_tensors
            else "There is no tensor in it"
        )
        self.query_one("#stats-summary", Static).display = False  # Until there is something to say.
        self.refilter()

    def toggle_run(self) -> None:
        """Read every tensor; while that runs, stop it."""
        loaded = self.loaded
        if loaded is None:
            return
        if self._runs.is_busy:
            self._runs.stop()
            return
        # A part of it comes from the thread: by a message, as everything that threads tell.
        run = self._run = WholeRun(
            loaded, lambda run: self.call_later(self._arrived, run.loaded, run)
        )
        self._table.set_empty_text("Reading ...")
        self._runs.ask(loaded, run.read)

    def _arrived(self, loaded: Hashable, answer: WholeRun | InspectError) -> None:
        """A part of the run, or all of it, or why there is none."""
        if loaded is not self.loaded:
            return
        is_over = not self._runs.is_busy
        if isinstance(answer, InspectError):
            self.notify(answer.message, title="No statistics", severity="error", markup=False)
            self._table.set_empty_text(f"It could not be read: {printable(answer.message)}")
            return
        self._take(answer)
        if is_over and answer is self._run:
            self.post_message(self.Found(answer.loaded, tuple(_findings(answer))))

    def _take(self, run: WholeRun) -> None:
        if run is not self._run or self.loaded is None:
            return
        self._known.add_run(run)
        row = self._table.cursor_row
        kept = self.names[row] if row and row < len(self.names) else None
        self._source = StatsSource(self.loaded.checkpoint, run.ranked, run.not_read)
        self._names = self._source.row_names
        self._table.set_columns(stats_columns(self._source))
        self._table.set_source(self._source)
        self._table.set_empty_text("No name matches the filter")
        self.refilter()
        if kept is not None and kept in self.names:
            self._table.select_row(self.names.index(kept))
        self._show_summary(run)

    def _show_summary(self, run: WholeRun) -> None:
        num_read = sum(item.stats.num_read for item in run.ranked)
        text = Text(no_wrap=True, overflow="ellipsis")
        if not run.is_whole:
            so_far = "so far" if self._runs.is_busy else "Stopped: not every byte was read; so far"
            text.append(f"{so_far} ", "warning")
        text.append(f"{plural(len(run.ranked), 'tensor')}, {plural(num_read, 'element')}")
        for kind, what, style in _KINDS:
            if count := sum(item.kind == kind for item in run.ranked):
                text.append("; ").append(f"{count:,} {what}", style)
        if run.not_read:
            text.append("; ").append(f"{len(run.not_read):,} not or not wholly read", "error")
        summary = self.query_one("#stats-summary", Static)
        summary.update(text)
        summary.display = True

    def show_task(self, line: TaskLine) -> bool:
        run = self._run
        if run is None or not self._runs.is_busy:
            return False
        line.show("reading all", run.progress, self._runs, "u stops")
        return True

    def aim(self) -> tuple[str, tuple[int, ...] | None] | None:
        row = self._table.cursor_row
        if row is None or self._source is None:
            return None
        name = self._source.row_names[row]
        return name, self._source.first_bad(row)

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()
        aim = self.aim()
        if aim is not None:
            self.post_message(self.Chosen(*aim))

    def copy_choices(self) -> list[tuple[str, str]]:
        row = self._table.cursor_row
        if row is None or self._source is None:
            return []
        columns = stats_columns(self._source)
        cells = [printable(self._source.text(row, column.key)) for column in columns]
        return [("name", printable(self._source.row_names[row])), ("row", "\t".join(cells))]


def _findings(run: WholeRun) -> Iterator[Finding]:
    """What is wrong with the values that were read, in the words of `check --values`."""
    # lazy: when something is found
    from inspector.checks.payload.judgement import file_at, value_findings

    checkpoint = run.loaded.checkpoint
    numbers = {fqn: index for index, fqn in enumerate(checkpoint.columns.fqns)}
    for stats in (item.stats for item in run.ranked):
        if stats.num_nan or stats.num_inf:
            found = NonFinite(stats.num_nan, stats.num_inf, stats.first_nan, stats.first_inf)
            tensor = checkpoint.columns.tensor(numbers[stats.fqn])
            yield from value_findings(tensor, found, file_at(checkpoint, tensor))
