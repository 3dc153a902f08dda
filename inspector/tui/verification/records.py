"""`RecordsPane`: the recorded verifications of a checkpoint, and the one that runs."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text
from textual.app import ComposeResult
from textual.message import Message
from textual.widgets import Static

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_time, plural, printable
from inspector.errors import InspectError
from inspector.report.verify_text import meshes_text
from inspector.tui.background import Background
from inspector.tui.commands import is_closed
from inspector.tui.kit.cell_text import Cell
from inspector.tui.kit.view import ColumnPane
from inspector.tui.kit.virtual_table import Column, TableSource, VirtualTable
from inspector.tui.verification.control import standing_of
from inspector.tui.verification.head import seconds
from inspector.tui.verification.run import Run
from inspector.verify.job.records import RecordedRun, records_of

__all__ = ["CLOSED", "RECORD_COLUMNS", "RecordSource", "RecordsPane", "saved_s"]

_NONE = (
    "v  loads this checkpoint with torchrun under a mesh you choose, compares every bit with what "
    "is stored, saves it, loads it again under a second mesh, and compares again."
)

#: A moment without its seconds.
_WHEN_CELLS = 16
CLOSED = "Nothing is verified from here: the screen was served without --allow-verify."

RECORD_COLUMNS = (
    Column("when", "When", width=_WHEN_CELLS, sortable=False),
    Column("mesh", "Mesh", min_width=8, flex=1, sortable=False),
    Column("verdict", "Verdict", width=10, sortable=False),
    Column("took", "Took", width=8, align="right", sortable=False, priority=1),
    Column("save", "Of", width=13, sortable=False, priority=2),
    Column("filter", "Only names with", min_width=15, max_width=30, sortable=False, priority=3),
)
_STYLES = {"differs": "error", "unreadable": "error", "failed": "error", "": "dim"}


def saved_s(checkpoint: Checkpoint) -> float:
    """When a checkpoint was written last, in seconds since the epoch; 0 where nobody says."""
    times = [file.modified_s or 0.0 for file in checkpoint.files]
    return max([checkpoint.metadata_modified_s or 0.0, *times])


class RecordSource(TableSource):
    """The run that is shown live, if there is one, then the recorded ones, newest first.

    Args:
        records: The recorded ones.
        saved_at_s: When the checkpoint was written; a run before that was of another save.
        live: The live one.
    """

    def __init__(
        self, records: list[RecordedRun], saved_at_s: float = 0.0, live: Run | None = None
    ) -> None:
        # The live one is recorded as well.
        run = "" if live is None else str(live.moment.snapshot.spec.get("run", ""))
        self.records = [record for record in records if not run or record.run != run]
        self.live = live
        self._saved_at_s = saved_at_s

    @property
    def num_rows(self) -> int:
        return len(self.records) + (self.live is not None)

    def record(self, row: int) -> RecordedRun | None:
        """The record of a row; None for the live run."""
        row -= self.live is not None
        return None if row < 0 else self.records[row]

    def cell(self, row: int, column_key: str) -> Cell:
        record = self.record(row)
        if record is None:
            return self._live_cell(column_key)
        # Not green: the recording is believed only when it is played, and this may be a later save.
        verdict, is_older = record.verdict or "no result", record.started_s < self._saved_at_s
        cells: dict[str, Cell] = {
            "when": format_time(record.started_s)[:_WHEN_CELLS],
            "mesh": meshes_text(record.mesh, list(record.then)),
            "verdict": (verdict, _STYLES.get(record.verdict, "strong")),
            "took": "" if record.elapsed_s is None else seconds(record.elapsed_s),
            "save": ("an older save", "warning") if is_older else "this save",
            "filter": (record.filter, "dim"),
        }
        return cells[column_key]

    def _live_cell(self, column_key: str) -> Cell:
        live = self.live
        assert live is not None  # noqa: S101 - its row is there only with it
        spec = live.moment.snapshot.spec
        cells: dict[str, Cell] = {
            "when": ("now", "strong"),
            "mesh": meshes_text(str(spec.get("mesh", "")), list(map(str, spec.get("then") or ()))),
            "verdict": standing_of(live) or ("starting", "accent"),
            "filter": (str(spec.get("filter") or ""), "dim"),
        }
        return cells.get(column_key, "")

    def marker(self, row: int) -> str:
        record = self.record(row)
        return "error" if record is not None and _STYLES.get(record.verdict) == "error" else ""


class RecordsPane(ColumnPane):
    """A line that says what there is, and the table."""

    DEFAULT_CSS = """
    RecordsPane > #records-said { height: auto; padding: 1 2; color: $text-muted; }
    """

    @dataclass
    class Chosen(Message):
        """Enter on a row: a record, or None for the live run."""

        record: RecordedRun | None

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.table = VirtualTable(RECORD_COLUMNS, id="records-table", empty_text="")
        self._said = Static("", markup=False, id="records-said")
        self._reading: Background[str] = Background(self, self._has_read, "recorded runs")
        self._records: list[RecordedRun] = []
        self._saved_at_s = 0.0
        self._live: Run | None = None

    def compose(self) -> ComposeResult:
        yield self._said
        yield self.table

    def on_mount(self) -> None:
        self._show()

    def look(self, path: str, checkpoint: Checkpoint, live: Run | None) -> None:
        """Look for the runs of a checkpoint, anew."""
        self._saved_at_s, self._live = saved_s(checkpoint), live
        self._reading.ask(path, lambda stop: records_of(path, stop))
        self._show()

    def forget(self) -> None:
        """Another checkpoint is shown: nothing is known of its runs."""
        self._reading.drop()
        self._records, self._live = [], None
        self._show()

    def _has_read(self, path: str, records: list[RecordedRun] | InspectError) -> None:
        if isinstance(records, list):
            self._records = records
            self._show()

    def _show(self) -> None:
        row = self.table.cursor_row
        source = RecordSource(self._records, self._saved_at_s, self._live)
        self.table.set_source(source)
        if row is not None and row < source.num_rows:
            self.table.select_row(row)
        self.table.display = bool(source.num_rows)
        count = len(source.records)
        if count:
            said = f"{plural(count, 'recorded run')} of this checkpoint: "
            text = Text.assemble(said, ("enter", "bold"), " replays", *self._another(" runs one."))
        elif source.num_rows:
            text = Text.assemble(("enter", "bold"), " shows it", *self._another(" runs another."))
        else:
            said = CLOSED if is_closed(self.app, "verify") else _NONE
            text = Text(f"No verification of it is recorded.\n\n{said}")
        self._said.update(text)

    def _another(self, does: str) -> list[tuple[str, str] | str]:
        return ["."] if is_closed(self.app, "verify") else [", ", ("v", "bold"), does]

    def copy_choices(self) -> list[tuple[str, str]]:
        """What can be copied of the run under the cursor."""
        source, row = self.table.source, self.table.cursor_row
        record = (
            source.record(row) if isinstance(source, RecordSource) and row is not None else None
        )
        return [] if record is None else [("run folder", printable(str(record.folder)))]

    def tick(self) -> None:
        """The live run has gone on."""
        if self._live is not None and self.table.display:
            self.table.refresh_rows()

    def on_virtual_table_highlighted(self, event: VirtualTable.Highlighted) -> None:
        event.stop()

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()
        source = self.table.source
        if isinstance(source, RecordSource):
            self.post_message(self.Chosen(source.record(event.row)))
