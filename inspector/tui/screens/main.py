"""`MainScreen`: a checkpoint: header, views, footer.

It opens in steps, each of which is on the screen before the next begins: the table of tensors; the
rest of their view; the other views, one by one; who wrote the checkpoint and whether it is sound,
which a thread works out.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from textual.app import ComposeResult
from textual.css.query import NoMatches
from textual.widget import MountError
from textual.widgets import ContentSwitcher

from inspector.checkpoint.text import printable
from inspector.errors import InspectError, StorageError
from inspector.tui.background import Background, ScreenComplete, Stop
from inspector.tui.commands import CHECK_BYTES, command, is_closed
from inspector.tui.kit.bars import TaskLine, ViewBar
from inspector.tui.kit.view import TableView, View
from inspector.tui.screens.header import CheckpointHeader
from inspector.tui.screens.lookout import Lookout, OpenScreen, let_go_of
from inspector.tui.screens.trail import Trail
from inspector.tui.screens.views import VIEW_COMMANDS, VIEWS, first_view, import_panes, other_views
from inspector.tui.tensors.preview import Preview
from inspector.tui.tensors.view import TensorsView, sort_ahead, trie_ahead

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.widget import Widget

    from inspector.checks.findings import Report
    from inspector.layout.writer.written_by import WrittenBy
    from inspector.tui.findings.standing import Standing
    from inspector.tui.findings.view import FindingsView
    from inspector.tui.plan.view import LoadPlanView
    from inspector.tui.session import Loaded
    from inspector.tui.tensors.sources import EntrySource
    from inspector.tui.values.statistics import StatisticsView
    from inspector.tui.values.view import ValuesView
    from inspector.tui.verification.control import Host
    from inspector.tui.verification.records import RecordsPane
    from inspector.tui.verification.run import Run
    from inspector.tui.verification.view import VerificationView

__all__ = ["MainScreen"]

_OF_FINDINGS = frozenset({"step_finding(1)"})
_OF_STATISTICS = frozenset({"statistics"})
_PAINT_S = 0.1
_TURN_S = 0.001
#: The keys that came while the first frame was drawn are on the screen before it goes on.
_FIRST_TURN_S = 0.02


class MainScreen(OpenScreen):
    """One checkpoint, open: it holds what is open and switches views; what they do is theirs."""

    BINDINGS = [
        *VIEW_COMMANDS,
        command(
            "i",
            "info",
            "Summary",
            "What this checkpoint is, who wrote it, and the evidence for both.",
        ),
        command(
            "u",
            "statistics",
            "Read all",
            "Read the numbers of every tensor: NaN, norms, ranked; again to stop.",
            footer=True,
        ),
        command(
            "n",
            "step_finding(1)",
            "Next finding",
            "Go to the next finding, where it is.",
            footer=True,
        ),
        command(
            CHECK_BYTES,
            "check_bytes",
            "Check bytes",
            "Read every stored byte: its checksum, the seal beside it, NaN; again to stop.",
            footer=True,
        ),
        command(
            "v",
            "verify",
            "Verify",
            "Load it under a mesh with torchrun, and compare every bit; asks first.",
            footer=True,
        ),
        command("D", "compare_with", "Compare with", "Say how another checkpoint differs from it."),
        command("N", "step_finding(-1)", "Previous finding", "Go to the finding before."),
        command("r", "reload", "Reload", "Read the checkpoint anew."),
        command("escape", "back", "Back", "Leave what is open: filter, zoom, checkpoint."),
    ]
    AUTO_FOCUS = ""

    def __init__(self, opened: Loaded | Preview, *, from_picker: bool = False) -> None:
        """Args: `opened` is the checkpoint, or a preview until `show` gives it."""
        super().__init__()
        self.opened = opened
        self.loaded: Loaded | None = None
        self.written_by: WrittenBy | None = None
        self._from_picker = from_picker
        self._completed = False
        #: What was asked for before all is there that it needs.
        self._asked: Callable[[], object] | None = None
        self._standing: Standing | None = None
        #: Those that are there already. Ten times a second is too often to search the DOM for them.
        self._views: list[View] = []
        self._wanted = ""
        self._judging: Background[Loaded] = Background(self, self._judged, "checking")
        self._lookout = Lookout(self)
        self._trail = Trail(self)

    def compose(self) -> ComposeResult:
        yield CheckpointHeader()
        yield ViewBar(VIEWS)
        with ContentSwitcher(initial="tensors"):
            self._views.append(tensors := TensorsView())
            yield tensors
        yield TaskLine()

    def on_mount(self) -> None:
        if isinstance(self.opened, Preview):
            self.query_one(CheckpointHeader).show_preview(self.opened.path, self.opened.facts)
            self.query_one(TensorsView).show_preview(self.opened)
        else:
            self.show(self.opened)
        self.action_show_view("tensors")
        self._wanted = first_view(cast("Host", self.app).memory)
        self.watch(self, "focused", self._keep_focus, init=False)
        self.call_after_refresh(self._begin)

    def _keep_focus(self, focused: Widget | None) -> None:
        """The keys of a view are its own: something of it must have the focus."""
        if focused is None and self.is_current:
            self.call_later(self._focus_view)

    def _focus_view(self) -> None:
        if self.focused is None and self.is_current:
            self.view.take_focus()

    def _begin(self) -> None:
        # A task of its own: keys go by way of this screen's messages, and are not to wait for it.
        self.run_worker(self._complete(), name="opening")

    async def _complete(self) -> None:
        """Add all that the first frame did without; after each piece, keys have their turn."""
        try:
            await asyncio.sleep(_FIRST_TURN_S)
            await import_panes()
            await self._complete_tensors()
            async for view in other_views():
                await asyncio.sleep(_TURN_S)
                await self._add_view(view)
        except (MountError, NoMatches):
            return  # The screen is being left already.
        self._completed = True
        if self.loaded is not None:
            self._show_verification()
            self._judge()
        self.set_interval(_PAINT_S, self._paint_task)
        if self._wanted:
            self.action_show_view(self._wanted)
        self._do_asked()
        self.post_message(ScreenComplete())

    async def _complete_tensors(self) -> None:
        from inspector.tui.kit.key_bar import KeyBar

        view = self.query_one(TensorsView)
        await self.mount(KeyBar())
        await view.prepare_filter()
        await view.complete()

    async def _add_view(self, view: View) -> None:
        view.display = False
        await self.query_one(ContentSwitcher).mount(view)
        if isinstance(view, TableView):
            await view.prepare_filter()
        self._views.append(view)
        if self.loaded is not None:
            view.show(self.loaded)

    def show(self, loaded: Loaded) -> None:
        """Show a checkpoint; where the cursor's entry is in it too, the cursor stays on it."""
        gc.freeze()  # What was read lives on: not to be looked through while keys wait.
        self.opened = self.loaded = loaded
        self.written_by = None
        self._standing = None
        self._trail.begin()
        self._lookout.drop()
        self.query_one(CheckpointHeader).show(loaded.checkpoint)
        self._show_count()
        for view in self._views:
            view.show(loaded)
        if self._completed:
            self._show_verification()
            self._judge()
            self._do_asked()

    # Who wrote it, and whether it is sound.

    def _judge(self) -> None:
        loaded, source = self.loaded, self.query_one(TensorsView).source
        if loaded is not None and source is not None:
            self._judging.ask(loaded, partial(self._work_out, loaded, source))

    def _work_out(self, loaded: Loaded, source: EntrySource, stop: Stop) -> Report:
        """In a thread, which tells what it has by and by."""
        from inspector.layout.writer.written_by import infer
        from inspector.tui.findings.checking import judge_loaded

        # One after the other: keys have the interpreter to share with one thread, not three.
        trie = trie_ahead(source)
        if trie is not None:
            self.call_later(self.query_one(TensorsView).show_trie, source, trie)
        written_by = infer(loaded.checkpoint)
        source.find_stages(written_by)
        self.call_later(self._show_writer, loaded, written_by)
        sort_ahead(source)
        # What `check` would say of it; a folder that cannot be read any more is said here, too.
        return judge_loaded(loaded, written_by)

    def _show_writer(self, loaded: Loaded, written_by: WrittenBy) -> None:
        if loaded is not self.loaded:
            return  # Of a reading that was replaced meanwhile.
        self.written_by = written_by
        self.query_one(CheckpointHeader).show_writer(written_by)
        for view in self._views:
            view.show_writer(written_by)

    def _judged(self, loaded: Loaded, outcome: Report | InspectError) -> None:
        if isinstance(outcome, InspectError):
            said, hint = printable(outcome.message, 300), printable(outcome.hint, 300)
            title = "A check failed"
            self.notify(f"{said}\n{hint}", title=title, severity="error", markup=False)
            if isinstance(outcome, StorageError) and loaded is self.loaded:
                self._lookout.lose(outcome)
        elif loaded is self.loaded and not self.standing.is_deep:
            self.stand(checked=outcome)
            self._trail.lead_to_damage()
            gc.freeze()  # So does what was worked out.

    # What is known of it.

    @property
    def standing(self) -> Standing:
        if self._standing is None:
            from inspector.tui.findings.standing import Standing

            self._standing = Standing()
        return self._standing

    def stand(self, **known: Any) -> None:
        """Take what is known now, and show it: one list in every view, one verdict above."""
        standing = self._standing = replace(self.standing, **known)
        self.query_one(CheckpointHeader).show_standing(standing)
        report = standing.report
        if report is not None:
            for view in self._views:
                view.show_report(report)
        self._show_count()
        self.refresh_bindings()

    def _show_count(self) -> None:
        self.query_one(ViewBar).show_count("findings", *self.standing.count)

    @property
    def quiet_actions(self) -> frozenset[str]:
        """Commands that work and mean nothing now: the footer leaves them out."""
        report, written_by = self.standing.report, self.written_by
        quiet = frozenset() if report is not None and report.findings else _OF_FINDINGS
        if self.view.id != "stats":
            quiet |= _OF_STATISTICS
        has_axes = written_by is not None and (written_by.layout or written_by.partition)
        return quiet if has_axes else quiet | {"step_axis"}

    def on_findings_view_deepened(self, event: FindingsView.Deepened) -> None:
        event.stop()
        self._paint_task()  # It has ended: its line goes with the word of what was found.
        result = event.result
        if event.loaded is not self.loaded:
            return
        if result.loaded is not None:
            self.show(result.loaded)
        self.stand(
            checked=result.report,
            is_deep=True,
            was_stopped=result.was_stopped,
            is_lost=result.is_lost,
            changes="",
        )

    def on_statistics_view_found(self, event: StatisticsView.Found) -> None:
        event.stop()
        self._paint_task()
        if event.loaded is self.loaded:
            self.stand(valued=event.findings)

    def on_checkpoint_header_badge_clicked(self) -> None:
        self.action_show_view("findings")

    # Views.

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
        self._trail.forget()
        if self._completed:
            cast("Host", self.app).memory.take(view=view)
        if view == "values":
            self._aim_values()
        self.query_one(ContentSwitcher).current = view
        bar = self.query_one(ViewBar)
        bar.current = view
        bar.note = self.view.count_text
        self.view.take_focus()
        self.refresh_bindings()

    def _aim_values(self) -> None:
        """Before the numbers are shown: those of what is under the cursor."""
        here, tensors = self.view, self.query_one(TensorsView)
        values = cast("ValuesView", self.query_one("#values"))
        aim = here.aim()
        if aim is None and not values.fqn:
            # From a view that has no tensor under its cursor: the one in the list of tensors.
            here = tensors
            aim = here.aim()
        if aim is not None and here is not values:
            values.choose(here, aim, tensors)

    def on_values_view_left(self, event: ValuesView.Left) -> None:
        event.stop()
        self.action_show_view(event.chooser)

    def on_statistics_view_chosen(self, event: StatisticsView.Chosen) -> None:
        event.stop()
        self.action_show_view("values")

    def action_back(self) -> None:
        if not self.view.back() and not self._trail.back() and self._from_picker:
            self.app.pop_screen()
            let_go_of(weakref.ref(self))

    def _paint_task(self) -> None:
        """Show what a view reads in the background, or nothing."""
        line = self.query_one(TaskLine)
        if not any(view.show_task(line) for view in self._views):
            line.hide()
        self.query_one(ViewBar).show_word("verify", *self.verification.word)

    # What can be asked from every view.

    def action_info(self) -> None:
        from inspector.tui.screens.dialogs import InfoScreen

        if self.loaded is None or self.written_by is None:
            self.notify("Who wrote it is still being worked out.")
        else:
            self.app.push_screen(InfoScreen(self.loaded.checkpoint, self.written_by))

    def action_check_bytes(self) -> None:
        """Start reading every byte; while it runs, stop it."""
        if self._is_ready(self.action_check_bytes):
            cast("FindingsView", self.query_one("#findings")).toggle_deep()

    def action_statistics(self) -> None:
        """Show the statistics, and start to read every tensor; while that runs, stop it."""
        if self._is_ready(self.action_statistics):
            self.action_show_view("stats")
            cast("StatisticsView", self.query_one("#stats")).toggle_run()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not is_closed(self.app, action) and super().check_action(action, parameters)

    def action_verify(self) -> None:
        if self._is_ready(self.action_verify):
            self._begin_verification()

    def _is_ready(self, action: Callable[[], object]) -> bool:
        """Whether all is there that an action needs; if not, it is called when it is."""
        is_ready = self._completed and self.loaded is not None
        self._asked = None if is_ready else action
        return is_ready

    def _do_asked(self) -> None:
        if self._asked is not None:
            self._asked()

    def _begin_verification(self, mesh: str = "", filter_text: str = "") -> None:
        # The form opens at once, for keys that come in the same burst.
        if self.verification.begin(mesh, filter_text):
            self._lookout.look(reads=True)

    @property
    def verification(self) -> VerificationView:
        """The view of verifications."""
        return cast("VerificationView", self.query_one("#verify"))

    def on_load_plan_view_verify_asked(self, event: LoadPlanView.VerifyAsked) -> None:
        event.stop()
        self._begin_verification(event.mesh, event.filter_text)

    def on_verification_view_began(self, event: VerificationView.Began) -> None:
        event.stop()
        self._mark_verified(event.run)
        self.action_show_view("verify")

    def on_records_pane_chosen(self, event: RecordsPane.Chosen) -> None:
        from inspector.tui.verification.replay import replay

        event.stop()
        if event.record is not None:
            replay(self, str(event.record.folder))

    def on_verification_view_ended(self, event: VerificationView.Ended) -> None:
        event.stop()
        self._mark_verified(event.run)
        self.refresh_bindings()

    def _show_verification(self) -> None:
        """Show the app's verification, if it is of this checkpoint."""
        view = self.verification
        view.show_running()
        if view.run is not None and view.run.is_over:
            self._mark_verified(view.run)

    def _mark_verified(self, run: Run) -> None:
        from inspector.tui.verification.control import findings_of, proof_of

        snapshot = run.moment.snapshot
        is_of_this = self.verification.is_of_what_is_shown
        self.stand(
            verified=tuple(findings_of(snapshot)) if is_of_this else (),
            proved=proof_of(snapshot) if is_of_this else "",
        )

    def action_compare_with(self) -> None:
        """Ask for the path of another checkpoint, and show how it differs."""
        if self.loaded is not None:
            from inspector.tui.diff.screen import compare_with

            compare_with(self.app, self.loaded)

    # Findings.

    def on_findings_view_chosen(self, event: FindingsView.Chosen) -> None:
        event.stop()
        self._trail.follow(event.finding)

    def action_step_finding(self, steps: int) -> None:
        """Go to the next finding, or to the one before."""
        if self._is_ready(partial(self.action_step_finding, steps)):
            self._trail.step(steps)

    # What lies under the screen.

    def look_when_back(self) -> None:
        """The terminal has the focus again: much may have happened meanwhile."""
        self._lookout.look(reads=False)

    def action_reload(self) -> None:
        self._lookout.read_anew()
