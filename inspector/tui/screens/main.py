"""`MainScreen`: a checkpoint: header, views, footer.

It opens in steps, each of which is on the screen before the next begins: the table of tensors; the
rest of their view; the other views, one by one; who wrote the checkpoint and whether it is sound,
which a thread works out.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.widgets import ContentSwitcher, Input
from textual.worker import Worker, WorkerState

from inspector.checkpoint.text import printable
from inspector.tui.commands import VIEWS, bindings
from inspector.tui.kit.bars import TaskLine, ViewBar
from inspector.tui.kit.view import View
from inspector.tui.messages import ReportReady, ScreenComplete, WriterFound
from inspector.tui.preview import Preview
from inspector.tui.screens.comparing import ComparingScreen
from inspector.tui.screens.header import CheckpointHeader
from inspector.tui.tensors.view import TensorsView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from textual.notifications import SeverityLevel

    from inspector.checks.findings import Finding, Report
    from inspector.layout.writer.written_by import WrittenBy
    from inspector.tui.files.view import FilesView
    from inspector.tui.findings.checking import DeepCheck
    from inspector.tui.findings.view import FindingsView
    from inspector.tui.session import Loaded

__all__ = ["MainScreen"]

_VIEWS = (
    ("tensors", "1", "Tensors"),
    ("files", "2", "Files"),
    ("findings", "3", "Findings"),
    ("verify", "4", "Verify"),
    ("plan", "5", "Load plan"),
    ("values", "6", "Values"),
    ("stats", "7", "Stats"),
)
_PAINT_S = 0.1
_TURN_S = 0.001


def _other_views() -> Iterator[View]:
    """The views that are not the first frame's, each imported and made when it is asked for."""
    from inspector.tui.files.view import FilesView

    yield FilesView()
    from inspector.tui.findings.view import FindingsView

    yield FindingsView()
    from inspector.tui.verification.view import VerificationView

    yield VerificationView()
    from inspector.tui.plan.view import LoadPlanView

    yield LoadPlanView()
    from inspector.tui.values.view import ValuesView
    from inspector.tui.values.work import Known

    known = Known()
    yield ValuesView(known)
    from inspector.tui.values.statistics import StatisticsView

    yield StatisticsView(known)


class MainScreen(ComparingScreen):
    """One checkpoint, open."""

    BINDINGS = bindings("main")
    AUTO_FOCUS = ""

    def __init__(self, opened: Loaded | Preview, *, from_picker: bool = False) -> None:
        """Args: `opened` is the checkpoint, or a preview until `show` gives it."""
        super().__init__()
        self.opened = opened
        self.loaded: Loaded | None = None
        self.written_by: WrittenBy | None = None
        self._from_picker = from_picker
        self._completed = False
        self._report: Report | None = None
        self._deep: DeepCheck | None = None
        self._stepped = False
        self._missing: Iterator[View] = iter(())
        self._wanted = ""

    def compose(self) -> ComposeResult:
        yield CheckpointHeader()
        yield ViewBar(_VIEWS)
        with ContentSwitcher(initial="tensors"):
            yield TensorsView()
        yield TaskLine()

    def on_mount(self) -> None:
        if isinstance(self.opened, Preview):
            self.query_one(CheckpointHeader).show_preview(self.opened.path, self.opened.facts)
            self.query_one(TensorsView).show_preview(self.opened)
        else:
            self.show(self.opened)
        self.action_show_view("tensors")
        self.call_after_refresh(self._complete)

    async def _complete(self) -> None:
        from inspector.tui.kit.key_bar import KeyBar

        view = self.query_one(TensorsView)
        with self.app.batch_update():  # One repaint, and not one for each widget.
            await self.mount(KeyBar())
            await view.complete()
            await view.prepare_filter()
        self._missing = _other_views()
        self.set_timer(_TURN_S, self._add_view)

    async def _add_view(self) -> None:
        """Add the next of the other views; after each, keys have their turn."""
        view = next(self._missing, None)
        if view is not None:
            view.display = False
            await self.query_one(ContentSwitcher).mount(view)
            await view.prepare_filter()
            if self.loaded is not None:
                view.show(self.loaded)
            self.set_timer(_TURN_S, self._add_view)
            return
        self._completed = True
        if self.loaded is not None:
            self.show_verification()
            self._start_finding_writer()
        self.set_interval(_PAINT_S, self._paint_task)
        if self._wanted:
            self.action_show_view(self._wanted)
        self.post_message(ScreenComplete())

    def _start_finding_writer(self) -> None:
        self.run_worker(self._find_writer, thread=True, exit_on_error=False, group="writer")

    def show(self, loaded: Loaded) -> None:
        """Show a checkpoint; where the cursor's entry is in it too, the cursor stays on it."""
        self.loaded = loaded
        self.written_by = None
        self._report = None
        self._stepped = False
        self._stop_deep()
        self.query_one(CheckpointHeader).show(loaded.checkpoint)
        for view in self.query(View):
            view.show(loaded)
        if self._completed:
            self.show_verification()
            self._start_finding_writer()

    def _find_writer(self) -> None:
        from inspector.layout.writer.written_by import infer
        from inspector.tui.findings.checking import judge_loaded

        loaded = self.loaded
        if loaded is not None:
            # One after the other: keys have the interpreter to share with one thread, not three.
            tensors = self.query_one(TensorsView)
            tensors.make_tree()
            written_by = infer(loaded.checkpoint)
            self.post_message(WriterFound(loaded, written_by))
            tensors.sort_ahead()
            self.post_message(ReportReady(loaded, judge_loaded(loaded, written_by), False))

    def on_writer_found(self, event: WriterFound) -> None:
        event.stop()
        if event.loaded is not self.loaded:
            return  # Of a reading that was replaced meanwhile.
        self.written_by = event.written_by
        self.query_one(CheckpointHeader).show_writer(event.written_by)
        for view in self.query(View):
            view.show_writer(event.written_by)

    def on_report_ready(self, event: ReportReady) -> None:
        event.stop()
        if event.loaded is not self.loaded:
            return
        self._report = event.report
        self.query_one(CheckpointHeader).show_report(event.report)
        for view in self.query(View):
            view.show_report(event.report)
        if event.is_deep:
            self._tell_deep(event.report)
            self._deep = None

    def _tell_deep(self, report: Report) -> None:
        from inspector.report.check import verdict_sentence

        stopped = self._deep is None or self._deep.is_stopping
        severity: SeverityLevel = "information" if report.verdict == "sound" else "error"
        title = "Stopped: not every byte was read" if stopped else "Every byte was read"
        if report.checked.not_checked and not stopped:
            title = "What could be read was read, which is not every byte"
        self.notify(verdict_sentence(report), title=title, severity=severity, markup=False)

    @property
    def is_complete(self) -> bool:
        return self._completed

    @property
    def view(self) -> View:
        """The open view."""
        return self.query_one(f"#{self.query_one(ContentSwitcher).current}", View)

    def on_view_counted(self, event: View.Counted) -> None:
        event.stop()
        if event.view is self.view:
            self.query_one(ViewBar).note = event.text

    def on_view_bar_chosen(self, event: ViewBar.Chosen) -> None:
        self.action_show_view(event.view)

    def action_show_view(self, view: str) -> None:
        if not self.query(f"#{view}"):
            self._wanted = view  # When the screen is complete.
            return
        self._wanted = ""
        if view == "values":
            self.aim_values()
        self.query_one(ContentSwitcher).current = view
        bar = self.query_one(ViewBar)
        bar.current = view
        bar.note = self.view.count_text
        self.view.take_focus()
        self.refresh_bindings()

    def action_filter(self) -> None:
        self.view.begin_filter()

    def action_zoom(self) -> None:
        if isinstance(self.view, TensorsView):
            self.view.zoom()

    def action_toggle_tree(self) -> None:
        if isinstance(self.view, TensorsView):
            self.view.toggle_tree()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in VIEWS and self.is_mounted and self.view.id not in VIEWS[action]:
            return False
        if action == "filter":
            # While a line is being typed, the key is a character of it.
            return not isinstance(self.focused, Input)
        if action == "values":
            return self.can_value(str(parameters[0]))
        if action in ("zoom", "toggle_tree"):
            return not self.is_mounted or isinstance(self.view, TensorsView)
        if action.startswith("plan_"):
            return self.is_planning
        if action in ("pause", "cancel_job", "output"):
            return self.is_mounted and self.view.id == "verify" and self.can_verify(action)
        return True

    def action_back(self) -> None:
        if not self.view.back() and self._from_picker:
            self.app.pop_screen()

    def action_info(self) -> None:
        from inspector.tui.screens.info import InfoScreen

        if self.loaded is None or self.written_by is None:
            self.notify("Who wrote it is still being worked out.")
        else:
            self.app.push_screen(InfoScreen(self.loaded.checkpoint, self.written_by))

    def action_check_bytes(self) -> None:
        """Start reading every byte; while it runs, stop it."""
        if self._deep is not None:
            self._deep.stop()
            return
        if self.loaded is None or self._report is None:
            self.notify("The checks of the metadata are still running.")
            return
        from inspector.tui.findings.checking import DeepCheck

        self._deep = DeepCheck(self.loaded, self._report)
        self.run_worker(self._read_every_byte, thread=True, exit_on_error=False, group="deep")

    def _read_every_byte(self) -> None:
        deep = self._deep
        if deep is not None:
            self.post_message(ReportReady(deep.loaded, deep.run(), True))

    def _stop_deep(self) -> None:
        if self._deep is not None:
            self._deep.stop()
            self._deep = None

    def _paint_task(self) -> None:
        line, deep = self.query_one(TaskLine), self._deep
        if deep is None:
            self.show_view_task(line)
            return
        done = deep.progress
        line.show(
            "checking every byte",
            0 if done is None else done.bytes_done,
            0 if done is None else done.bytes_total,
            time.monotonic() - deep.started_s,
            "stopping" if deep.is_stopping else "c stops",
        )

    def on_unmount(self) -> None:
        self._stop_deep()

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR:
            self._deep = None
            error = event.worker.error
            self.notify(
                printable(f"{type(error).__name__}: {error}", 300),
                title="A check failed; this is a bug",
                severity="error",
                markup=False,
            )

    def on_findings_view_chosen(self, event: FindingsView.Chosen) -> None:
        event.stop()
        if not self.show_values_of(event.finding):
            self._go_to(event.finding)

    def _go_to(self, finding: Finding) -> None:
        """Show where a finding is: its tensor, its file, or else the finding itself."""
        self._stepped = True
        if self.query_one(TensorsView).go_to(finding):
            self.action_show_view("tensors")
        elif cast("FilesView", self.query_one("#files")).go_to(finding):
            self.action_show_view("files")
        else:
            self.action_show_view("findings")

    def action_next_finding(self) -> None:
        self._step_finding(1)

    def action_previous_finding(self) -> None:
        self._step_finding(-1)

    def _step_finding(self, steps: int) -> None:
        found = self.query("#findings")
        if not found:
            return
        findings = cast("FindingsView", found.first())
        # The first step goes to the finding under the cursor, not past it.
        finding = findings.step(steps if self._stepped else 0)
        if finding is None:
            self.notify("There is no finding." if self._report else "The checks are still running.")
        else:
            self._go_to(finding)

    def action_copy(self) -> None:
        from inspector.tui.screens.copy import CopyScreen

        choices = self.view.copy_choices()
        if choices:
            self.app.push_screen(CopyScreen(choices))
        else:
            self.notify("There is nothing under the cursor to copy.", severity="warning")

    def action_reload(self) -> None:
        from inspector.tui.screens.loading import LoadingScreen

        if self.loaded is None:
            return
        path = self.loaded.checkpoint.path
        self.app.push_screen(LoadingScreen.of(path, whole_folder=False), self._reloaded)

    def _reloaded(self, outcome: object) -> None:
        if isinstance(outcome, Exception):
            self.query_one(CheckpointHeader).show_stale()
            self.notify(str(outcome), title="It could not be read", severity="error", markup=False)
        elif outcome is not None:
            self.show(cast("Loaded", outcome))
            self.notify("Read anew.")
