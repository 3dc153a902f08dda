"""`LoadingScreen`: a path being read, how far it is, its first entries, and a way to stop."""

from __future__ import annotations

import gc
import time
from dataclasses import replace
from importlib import import_module
from threading import Thread

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import ProgressBar, Static

from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.tui.background import after
from inspector.tui.kit.key_bar import KeyBar
from inspector.tui.kit.virtual_table import VirtualTable
from inspector.tui.session import Loaded, Loading, Outcome
from inspector.tui.tensors.preview import EarlyRows
from inspector.tui.tensors.view import entry_columns

__all__ = ["LoadingScreen"]

_POLL_S = 0.01
_POLLS_A_PAINT = 8
# After so long it is a large checkpoint; between two modules a key has its turn.
_AHEAD_S = 0.5
_AHEAD_PAUSE_S = 0.03
# What is shown next, and what a key may ask for meanwhile; what takes long in pieces.
_NEXT = (
    "inspector.tui.screens.help",
    "numpy.ma",  # what numpy imports when it first looks for what is unique
    "inspector.tui.tensors.sources",
    "inspector.layout.writer.written_by",
    "inspector.tui.tensors.detail",
    "inspector.tui.tensors.tree",
    "inspector.tui.kit.lines",
    "inspector.tui.values.work",
    "inspector.tui.files.view",
    "inspector.checks.judge",
    "inspector.tui.findings.view",
    "inspector.tui.mesh.paint",
    "inspector.verify.machine",
    "inspector.verify.preflight",
    "inspector.verify.job.launcher",
    "inspector.tui.verification.control",
    "inspector.tui.verification.view",
    "inspector.tui.plan.view",
    "inspector.tui.values.view",
    "inspector.tui.values.statistics",
)


def _import_ahead() -> None:
    """Import the views while another process reads; the first keys need not wait for it then."""
    for name in _NEXT:
        import_module(name)
        # What was imported lives on: to look through all of it takes longer than a key may wait.
        gc.freeze()
        time.sleep(_AHEAD_PAUSE_S)


class LoadingScreen(Screen[Outcome]):
    """Dismissed with the outcome of the loading: a value, or an error."""

    DEFAULT_CSS = """
    LoadingScreen { align: center middle; }
    LoadingScreen > Vertical { width: 70%; max-width: 80; height: auto; }
    LoadingScreen Static { width: 1fr; text-align: center; }
    LoadingScreen ProgressBar { width: 1fr; margin: 1 0; }
    LoadingScreen ProgressBar Bar { width: 1fr; }
    LoadingScreen VirtualTable { height: 1fr; margin-top: 1; }
    LoadingScreen.-early { align: center top; }
    """

    BINDINGS = [("escape,ctrl+c", "cancel", "Stop reading")]

    def __init__(self, loading: Loading) -> None:
        super().__init__()
        self._loading = loading
        self._is_dismissed = False
        self._stage = ""
        self._polls = 0
        self._early = EarlyRows()
        self._table: VirtualTable | None = None

    @classmethod
    def of(cls, path: str, *, whole_folder: bool = True) -> LoadingScreen:
        """Start to read `path`."""
        return cls(Loading(path, whole_folder=whole_folder).start())

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(printable(self._loading.path), markup=False)
            yield ProgressBar(show_eta=False)
            yield Static("", markup=False, id="stage")
        yield KeyBar()

    def on_mount(self) -> None:
        self._timer = self.set_interval(_POLL_S, self._poll)
        after(self, _AHEAD_S, self._look_ahead)

    def _look_ahead(self) -> None:
        if self._loading.outcome is None and not self._is_dismissed:
            Thread(target=_import_ahead, name="import-ahead", daemon=True).start()

    def _poll(self) -> None:
        loading = self._loading
        if self._is_dismissed:
            return
        if loading.outcome is not None:
            if self.app.screen is not self:
                return  # A dialog stands over it: that is what would be taken away.
            # Once only: a second dismissal would take away the screen below.
            self._timer.stop()
            self._is_dismissed = True
            # The next screen's alone: this one may outlive it, as what the collector is not to
            # look through any more.
            outcome, loading.outcome = loading.outcome, None
            if isinstance(outcome, Loaded) and self._table is not None and self._table.cursor:
                # The cursor was moved: where it is, it goes on.
                outcome = replace(outcome, at=self._early.entries[self._table.cursor].fqn)
            self.dismiss(outcome)
            return
        self._polls += 1
        if self._polls % _POLLS_A_PAINT or not self.query("#stage"):
            return  # Not yet; or the app is on its way out.
        if loading.num_bytes:
            self.query_one(ProgressBar).update(total=loading.num_bytes, progress=loading.num_done)
        if len(loading.early) > self._early.num_rows:
            self._show_early()
        size = f", {format_bytes(loading.num_bytes)}" if loading.num_bytes else ""
        stage = f"{loading.stage}{size}"
        if self._early.num_rows:
            count = plural(self._early.num_rows, "entry", "entries")
            stage += f": the first {count}; nothing is checked yet"
        if stage != self._stage:
            self._stage = stage
            self.query_one("#stage", Static).update(stage)

    def _show_early(self) -> None:
        """Show the entries that are known by now; the cursor stays where it is."""
        self._early.entries = self._loading.early
        if self._table is not None:
            self._table.set_filter(None)
            return
        columns = entry_columns(self._early, placements_known=False)
        self._table = VirtualTable(columns, self._early, id="early")
        self.add_class("-early")
        self.mount(self._table, before=self.query_one(KeyBar))
        self._table.focus()

    def action_cancel(self) -> None:
        self._loading.cancel()
        self.query_one("#stage", Static).update("stopping")
