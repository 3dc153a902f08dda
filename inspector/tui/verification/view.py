"""`VerificationView`: a verification as it happens: ranks, entries with their verdicts, logs.

The rule this module keeps: ten times a second it takes the run's latest moment, if that is a new
one, and never waits for it. What is not on the screen is not drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Static

from inspector.checkpoint.find.changes import is_same_save
from inspector.checkpoint.text import printable
from inspector.tui.commands import command, is_closed
from inspector.tui.kit.virtual_table import VirtualTable
from inspector.tui.mesh.paint import MeshGrid
from inspector.tui.mesh.rank_grid import MeshView
from inspector.tui.verification.control import ask_to_cancel, begin, copies_of, glyph_of, path_of
from inspector.tui.verification.figures import RankProgress, Rates, mesh_of, rank_figures, totals
from inspector.tui.verification.head import VerifyHead, verdict_text
from inspector.tui.verification.log_pane import LogPane
from inspector.tui.verification.records import CLOSED, RecordsPane
from inspector.tui.verification.run import ALL, Moment, Run, Verification
from inspector.tui.verification.setup import VerifySetupScreen
from inspector.tui.verification.sources import (
    RANK_COLUMNS,
    VERDICT_COLUMNS,
    RankSource,
    VerdictSource,
    log_lines,
)

if TYPE_CHECKING:
    from inspector.checkpoint.model import Ints
    from inspector.layout.writer.written_by import WrittenBy
    from inspector.tui.session import Loaded
    from inspector.tui.verification.control import Host
    from inspector.verify.preflight import Preflight

__all__ = ["VerificationView"]

_PAINT_S = 0.1
_WIDE_CELLS = 120
_ROOMY_LINES = 34
_HEAD_LINES = 4
#: What the tables below the mesh get at least.
_LEAST_LINES = 6
#: From this many names on, the filter is not run again for each that comes.
_MANY_NAMES = 5000


class VerificationView(MeshView):
    """The live view; the same for a job, a recording and a job that others run."""

    DEFAULT_CSS = """
    VerificationView MeshGrid { margin: 1 1 0 1; }
    VerificationView #verify-lower { height: 1fr; margin-top: 1; }
    VerificationView #verify-left { width: 3fr; height: 1fr; }
    VerificationView #verify-right { width: 2fr; height: 1fr; }
    VerificationView #verify-table { height: 1fr; min-height: 3; }
    VerificationView #verify-ranks { height: 1fr; min-height: 4; }
    VerificationView #verify-log { height: 1fr; }
    VerificationView #verify-right { border-left: vkey $panel; }
    VerificationView #verify-detail-scroll {
        height: auto; max-height: 50%; padding: 0 1; border-top: hkey $panel; display: none;
        scrollbar-size-vertical: 1;
    }
    VerificationView.-detail #verify-detail-scroll { display: block; }
    VerificationView #verify-detail { width: 1fr; height: auto; }
    VerificationView #verify-records { display: none; }
    VerificationView.-records #verify-records { display: block; }
    VerificationView.-records VerifyHead, VerificationView.-records MeshGrid { display: none; }
    VerificationView.-records #verify-lower { display: none; }
    VerificationView.-narrow #verify-right { display: none; border-left: none; }
    VerificationView.-narrow.-output #verify-right { display: block; }
    VerificationView.-narrow.-output #verify-left { display: none; }
    VerificationView.-short MeshGrid { margin: 0 1; }
    VerificationView.-short #verify-lower { margin-top: 0; }
    """

    BINDINGS = [
        command("space", "pause", "Pause", "Hold the display; the job runs on.", footer=True),
        command("x", "cancel_job", "Stop job", "Stop the verification; asks first.", footer=True),
        command(
            "o", "output", "Ranks", "The ranks one by one, and what they printed.", footer=True
        ),
    ]

    @dataclass
    class Began(Message):
        """A run was started, or is looked for while it runs."""

        run: Run

    @dataclass
    class Ended(Message):
        """The run has ended; its moment holds the result."""

        run: Run

    def __init__(self) -> None:
        empty = "No verdict has come yet"
        table = VirtualTable(VERDICT_COLUMNS, id="verify-table", empty_text=empty)
        super().__init__(table, id="verify")
        self.add_class("-records")
        self.run: Run | None = None
        self.is_paused = False
        self._written_by: WrittenBy | None = None
        self._records = RecordsPane(id="verify-records")
        self._worded: tuple[Moment | None, tuple[str, str]] = None, ("", "")
        self._source = VerdictSource()
        self._rank_source = RankSource()
        self._rates = Rates()
        self._shown: Moment | None = None
        self._ranks: tuple[RankProgress, ...] = ()
        self._has_told = False
        self._wants_output = False
        self._wants_detail = self._is_wrong = False

    def compose(self) -> ComposeResult:
        yield self._records
        yield VerifyHead(id="verify-head")
        yield MeshGrid(id="verify-mesh")
        with Horizontal(id="verify-lower"):
            with Vertical(id="verify-left"):
                yield self._table
                with VerticalScroll(id="verify-detail-scroll", can_focus=False):
                    yield Static("", markup=False, id="verify-detail")
            with Vertical(id="verify-right"):
                yield VirtualTable(RANK_COLUMNS, id="verify-ranks")
                yield LogPane(id="verify-log")

    def on_mount(self) -> None:
        self.set_interval(_PAINT_S, self._tick)

    @property
    def table(self) -> VirtualTable:
        return self._records.table if self.lists else self._table

    @property
    def word(self) -> tuple[str, str]:
        """How far the job of this checkpoint is, or its verdict, and a style; empty for none."""
        run = self.run
        if not isinstance(run, Verification) or not self.is_of_what_is_shown:
            return "", ""
        if run.moment is not self._worded[0] or run.error is not None:
            self._worded = run.moment, glyph_of(run)
        return self._worded[1]

    @property
    def lists(self) -> bool:
        """Whether the runs are listed, instead of one being shown."""
        return self.has_class("-records")

    def _list(self, lists: bool) -> None:
        """List the runs of this checkpoint, or show the one that is being looked at."""
        if lists != self.lists:
            self.set_class(lists, "-records")
            self.refresh_bindings()
        if lists and self.loaded is not None and self.is_on_screen:
            live = self.run if isinstance(self.run, Verification) else None
            self._records.look(path_of(self.loaded), self.loaded.checkpoint, live)

    def on_records_pane_chosen(self, event: RecordsPane.Chosen) -> None:
        if event.record is None:  # Another is replayed by the screen, over this one.
            event.stop()
            self._list(False)
            self.take_focus()
            self._tick()

    @property
    def names(self) -> list[str]:
        return [] if self.lists else self._source.row_names

    def show(self, loaded: Loaded) -> None:
        self.loaded, self._written_by = loaded, None
        self._records.forget()
        self._list(self.lists)

    def show_writer(self, written_by: WrittenBy) -> None:
        self._written_by = written_by
        if isinstance(self.app.screen, VerifySetupScreen):
            self.app.screen.know(written_by)

    # Starting one.

    def begin(self, mesh: str = "", filter_text: str = "") -> bool:
        """Ask what is to run, and run it; or say what runs already. True if it asks.

        Args:
            mesh: Stands in the form already; empty for the one that suits.
            filter_text: Likewise, the names that are to be loaded.
        """
        host = cast("Host", self.app)
        running = host.verification
        if is_closed(self.app, "verify"):
            self.notify(CLOSED)
        elif running is not None and running.is_alive:
            if self.run is running:
                self.post_message(self.Began(running))
                self.notify("A verification is running; x stops it.")
            else:
                path = printable(running.path, 200)
                self.notify(f"A verification of {path} is running.", markup=False)
        elif self.loaded is not None:
            mesh = mesh or host.memory.now.mesh
            setup = VerifySetupScreen(self.loaded.checkpoint, self._written_by, mesh, filter_text)
            self.app.push_screen(setup, self._start)
            return True
        return False

    def replace(self, loaded: Loaded) -> None:
        """The checkpoint changed while the form was open: it is to be about what is there now."""
        if isinstance(self.app.screen, VerifySetupScreen):
            self.app.screen.replace(loaded.checkpoint)

    def give_up(self) -> None:
        """The checkpoint is not there any more: nothing can be verified."""
        if isinstance(self.app.screen, VerifySetupScreen):
            self.app.screen.dismiss(None)

    @property
    def is_of_what_is_shown(self) -> bool:
        """Whether the run was of the very save that is on the screen."""
        run, loaded = self.run, self.loaded
        if not isinstance(run, Verification) or loaded is None:
            return False
        return run.checkpoint is None or is_same_save(run.checkpoint, loaded.checkpoint)

    def _start(self, plan: Preflight | None) -> None:
        if plan is not None:
            host = cast("Host", self.app)
            host.memory.take(mesh=plan.spec.mesh)
            run = host.verification = begin(self.app, plan)
            run.checkpoint = None if self.loaded is None else self.loaded.checkpoint
            self.show_run(run)
            self.post_message(self.Began(run))

    def show_running(self) -> None:
        """Show the app's verification, if it is of this checkpoint."""
        run = cast("Host", self.app).verification
        if run is not None and (self.loaded is None or run.path != path_of(self.loaded)):
            run = None
        if run is not self.run:
            self.show_run(run)

    def show_run(self, run: Run | None) -> None:
        """Show another run, or that there is none."""
        self.run = run
        self.is_paused = False
        self._source, self._rank_source, self._rates = VerdictSource(), RankSource(), Rates()
        self._shown, self._ranks, self._has_told = None, (), False
        self._worded = None, ("", "")
        self._wants_detail = self._is_wrong = False
        self._list(run is None)
        self._table.set_empty_text("No verdict has come yet")
        self._table.set_source(self._source)
        self._arrange()
        self.refilter()
        self._tick()

    # Ten times a second.

    def _tick(self) -> None:
        run = self.run
        if run is None:
            return
        moment = run.moment
        if run.is_over and not self._has_told:
            self._has_told = True
            self.is_paused = False
            self._table.set_empty_text("It ended before any entry was compared")
            self.post_message(self.Ended(run))
        if not self.is_on_screen:
            return
        if self.lists:
            self._records.tick()
        elif self.is_paused:
            self._paint_head(self._shown or moment)
        elif moment is not self._shown:
            self._paint(moment)
        else:
            self._paint_head(moment)

    @property
    def is_on_screen(self) -> bool:
        """Whether anybody can see it."""
        return self.display and self.size.width > 0

    def on_show(self) -> None:
        self._list(self.lists)
        self._tick()

    def _paint(self, moment: Moment) -> None:
        run, snapshot = self.run, moment.snapshot
        if run is None:
            return
        before, self._shown = self._shown, moment
        self._ranks = rank_figures(snapshot, self._rates.feed(snapshot))
        self._paint_head(moment)
        grid = self.query_one(MeshGrid)
        grid.show(mesh_of(snapshot), self._ranks)
        self._paint_ranks(moment)
        if self._is_wrong != bool(snapshot.num_bad):
            self._is_wrong = bool(snapshot.num_bad)
            self._arrange()
        if before is None or before.snapshot.tensors is not snapshot.tensors:
            self._paint_table(moment, before)
        self._paint_log(moment)

    def _paint_head(self, moment: Moment) -> None:
        run = self.run
        if run is None:
            return
        word, report = "", ""
        if self.is_paused:
            word = "paused"
        if isinstance(run, Verification):
            if run.is_stopping:
                word = "stopping"
            report = run.folder if run.is_over else ""
        now_t = moment.now_t if self.is_paused else run.now_t()
        head = self.query_one(VerifyHead)
        if run.error is not None:
            head.update(printable(f"{run.error.message}\n{run.error.hint}".strip(), 600))
            return
        head.show(
            moment.snapshot, totals(moment.snapshot, self._ranks, now_t), word=word, report=report
        )

    def _paint_ranks(self, moment: Moment) -> None:
        table = self.query_one("#verify-ranks", VirtualTable)
        if self._rank_source.update(moment.snapshot, self._ranks):
            table.set_source(self._rank_source)
            table.styles.max_height = self._rank_source.num_rows + 1
        else:
            table.refresh_rows()

    def _paint_table(self, moment: Moment, before: Moment | None) -> None:
        table = self._table
        at_top = table.cursor == 0
        is_other = self._source.update(moment.snapshot)
        ended = moment.snapshot.result is not None
        was_bad = -1 if before is None else before.snapshot.num_bad
        is_filtered = self._line is not None and bool(self._line.value.strip())
        few = len(self._source.row_names) < _MANY_NAMES
        urgent = ended or few or moment.snapshot.num_bad != was_bad
        if is_other and (urgent or not is_filtered):
            self.refilter()
            if at_top:
                table.move_cursor(0)
        elif before is None or self._has_changed(moment, before):
            table.refresh_rows()
        self._paint_detail(table.cursor_row)

    def _has_changed(self, moment: Moment, before: Moment) -> bool:
        """Whether a row that shows has news: the others need not be drawn."""
        table, names = self._table, self._source.row_names
        top = round(table.scroll_y)
        now, then = moment.snapshot.tensors, before.snapshot.tensors
        rows = table.rows[top : top + table.page_lines + 1]
        return any(now[names[row]] is not then.get(names[row]) for row in rows)

    def narrowed(self, rows: Ints | None) -> Ints | None:
        return self._source.order(rows)

    def _paint_log(self, moment: Moment) -> None:
        run = self.run
        if run is None:
            return
        watched = run.watched
        if isinstance(watched, int):
            title = f"rank {watched}: what it printed"
        else:
            title = "what torchrun and the ranks printed"
        self.query_one(LogPane).show(
            title, list(log_lines(moment, watched)), "nothing so far, which is a good sign"
        )

    # What is chosen.

    def watch_rank(self, rank: int | None) -> None:
        """Show the lines of a rank, or of everybody."""
        run = self.run
        self.query_one(MeshGrid).choose(rank)
        if run is not None:
            run.watch(ALL if rank is None else rank)
            self._paint_log(run.moment)

    def on_mesh_grid_chosen(self, event: MeshGrid.Chosen) -> None:
        event.stop()
        self.query_one("#verify-ranks", VirtualTable).select_row(event.rank + 1)
        self.watch_rank(event.rank)

    def on_virtual_table_highlighted(self, event: VirtualTable.Highlighted) -> None:
        event.stop()
        row = event.row if event.row >= 0 else None
        if event.table is self._table:
            self._paint_detail(row)
        elif row is not None and event.table.has_focus:
            self.watch_rank(RankSource.rank_of(row))

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()
        if event.table is self._table:
            self._wants_detail = not self._wants_detail
            self._arrange()
            self._paint_detail(event.row)
        else:
            self.query_one(LogPane).focus()

    def _paint_detail(self, row: int | None) -> None:
        is_there = row is not None and row < self._source.num_rows
        if self.has_class("-detail"):
            view = self._source.view(row) if is_there and row is not None else None
            self.query_one("#verify-detail", Static).update(verdict_text(view))

    # Keys.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        run = self.run
        if action == "filter" and self.lists:
            return False
        if action == "output":
            return run is not None and not self.lists
        if action in ("pause", "cancel_job"):
            return isinstance(run, Verification) and not run.is_over
        return super().check_action(action, parameters)

    def action_cancel_job(self) -> None:
        """Ask whether to stop the job."""
        if isinstance(self.run, Verification) and self.run.is_alive:
            ask_to_cancel(self.app, self.run)
        else:
            self.notify("No verification is running.")

    def action_pause(self) -> None:
        """Hold the display, or let it go on; the job runs all the same."""
        if self.run is not None and not self.run.is_over:
            self.is_paused = not self.is_paused
            self._tick()

    def action_output(self) -> None:
        """Go to the ranks and what they printed, or back."""
        ranks = self.query_one("#verify-ranks", VirtualTable)
        log = self.query_one(LogPane)
        is_there = ranks.has_focus or log.has_focus
        self._wants_output = not is_there
        self._arrange()
        (ranks if self._wants_output else self._table).focus()

    def back(self) -> bool:
        if super().back():
            return True
        if self._wants_output or self._wants_detail:
            self._wants_output = self._wants_detail = False
            self._arrange()
            self._table.focus()
            return True
        if self.lists or self.loaded is None:
            return False
        self._list(True)
        self.take_focus()
        return True

    def on_resize(self) -> None:
        self._arrange()
        self.call_after_refresh(self._tick)

    def _arrange(self) -> None:
        width, height = self.size.width, self.size.height
        narrow, roomy = width < _WIDE_CELLS, height >= _ROOMY_LINES
        self.set_class(narrow, "-narrow")
        self.set_class(narrow and self._wants_output, "-output")
        self.set_class(height < _ROOMY_LINES, "-short")
        # On a large screen the detail is always there, and on a small one where something is wrong:
        # why is not to take a key. Enter takes it away.
        self.set_class(self._wants_detail is not (roomy or self._is_wrong), "-detail")
        if height:
            room = height - _HEAD_LINES
            lines = max(8, room // 2) if height < _ROOMY_LINES else room - height // 2
            self.query_one(MeshGrid).max_lines = max(1, min(lines, room - _LEAST_LINES))

    def copy_choices(self) -> list[tuple[str, str]]:
        if self.lists:
            return self._records.copy_choices()
        choices = []
        row = self._table.cursor_row
        if row is not None and row < self._source.num_rows:
            view = self._source.view(row)
            choices.append(("name", printable(view.fqn)))
            choices.append(("verdict", verdict_text(view).plain.replace("\n", " | ")))
        return choices + copies_of(self.run)
