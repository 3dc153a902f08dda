"""`ReadsPane`: what one rank of a plan reads; below it, the tensors that leave ranks empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Static

from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.errors import InspectError
from inspector.tui.background import Background
from inspector.tui.kit.virtual_table import NoRows, VirtualTable
from inspector.tui.plan.sources import EmptySource, ReadSource, empty_columns, read_columns

if TYPE_CHECKING:
    from inspector.tui.plan.desk import Planned

__all__ = ["ReadsPane"]


class ReadsPane(Vertical):
    """The reads of a rank come when they are known: there may be a million."""

    DEFAULT_CSS = """
    ReadsPane { width: 1fr; height: 1fr; border-left: vkey $panel; }
    ReadsPane #plan-reads-title {
        height: auto; padding: 0 1; background: $panel; color: $text-muted;
    }
    ReadsPane #plan-empty { border-top: hkey $panel; }
    """

    def __init__(self) -> None:
        super().__init__(id="plan-right")
        #: The reads of one rank.
        self.reads = VirtualTable(
            read_columns(has_stages=False), id="plan-reads", empty_text="It reads nothing"
        )
        #: The tensors that leave ranks empty.
        self.empty = VirtualTable(empty_columns(has_stages=False), id="plan-empty")
        self._planned: Planned | None = None
        self._rank = 0
        self._reading = Background[None](self, self._reads_ready, "reads of a rank")

    def compose(self) -> ComposeResult:
        yield Static("", markup=False, id="plan-reads-title")
        yield self.reads
        yield self.empty

    def show(self, planned: Planned) -> None:
        """Show the tensors that a plan leaves empty; `show_rank` follows."""
        before, self._planned = self._planned, planned
        has_stages = planned.stages is not None
        if before is None or has_stages != (before.stages is not None):
            self.reads.set_columns(read_columns(has_stages=has_stages))
            self.empty.set_columns(empty_columns(has_stages=has_stages))
        self.empty.set_empty_text("No tensor leaves a rank without an element")
        self.empty.set_source(EmptySource(planned.plan, planned.stages))

    def show_rank(self, rank: int) -> None:
        """Show the reads of a rank of the plan."""
        planned = self._planned
        if planned is None:
            return
        self._rank = rank
        plan, stages = planned.plan, planned.stages
        shown = self.reads.source
        if isinstance(shown, ReadSource) and shown.is_of(plan, rank, stages):
            return
        figures = plan.ranks
        self.query_one("#plan-reads-title", Static).update(
            f"rank {rank}: {plural(int(figures.num_reads[rank]), 'read')}, "
            f"{format_bytes(int(figures.bytes_read[rank]))} from "
            f"{plural(int(figures.num_files[rank]), 'file')}"
        )
        self.reads.set_empty_text("")
        self.reads.set_source(NoRows())
        self._reading.ask(None, lambda stop: ReadSource(plan, rank, plan.read_rows(rank), stages))

    def _reads_ready(self, _: None, source: ReadSource | InspectError) -> None:
        planned = self._planned
        if isinstance(source, InspectError):
            self.reads.set_empty_text(printable(source.message, 300))
        elif planned is not None and source.is_of(planned.plan, self._rank, planned.stages):
            self.reads.set_empty_text("It reads nothing")
            self.reads.set_source(source)

    def aim(self) -> tuple[str, tuple[int, ...] | None] | None:
        """What is read, or left empty, under the cursor of the table with the keys."""
        for table in (self.reads, self.empty):
            row, source = table.cursor_row, table.source
            if row is None or not table.has_focus:
                continue
            if isinstance(source, ReadSource):
                return source.read(row).fqn, source.corner(row)
            if isinstance(source, EmptySource):
                return source.tensors[row].fqn, None
        return None

    def copy_choices(self) -> list[tuple[str, str]]:
        """The read under the cursor, and its file."""
        row, source = self.reads.cursor_row, self.reads.source
        if row is None or not isinstance(source, ReadSource):
            return []
        read = source.read(row)
        return [
            ("read", f"{printable(read.fqn)} {source.box_text(row)}"),
            ("file", printable(read.file or "stored nowhere")),
        ]
