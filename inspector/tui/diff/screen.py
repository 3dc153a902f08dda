"""`DiffScreen`: two checkpoints, side by side; `open_pair` is the way to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.text import Text
from textual.app import App, ComposeResult
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.widgets import Static

from inspector.checkpoint.storage.base import parent_of
from inspector.checkpoint.text import printable
from inspector.diff.model import Diff
from inspector.errors import Cancelled, InspectError
from inspector.tui.background import Background
from inspector.tui.commands import command
from inspector.tui.diff.comparison import Comparison
from inspector.tui.diff.opening import ComparingValues, OpeningPair, PairOf
from inspector.tui.diff.sources import headline, side_line
from inspector.tui.diff.view import DiffView
from inspector.tui.folder.ask_path import AskPathScreen, expanded
from inspector.tui.kit.bars import TaskLine
from inspector.tui.kit.cell_text import clip
from inspector.tui.kit.key_bar import KeyBar
from inspector.tui.screens.error import ErrorScreen
from inspector.tui.screens.loading import LoadingScreen
from inspector.tui.session import Loaded

__all__ = ["DiffScreen", "compare_with", "open_pair"]

_PAINT_S = 0.1


def open_pair(app: App[Any], pair: PairOf, back: Callable[[], object] | None = None) -> None:
    """Read two checkpoints, and show how they differ; an error is told, and leads back.

    Args:
        app: Where.
        pair: What is to be compared.
        back: Called when an error was read; by default what was there before is seen again.
    """
    loading = OpeningPair(pair)

    def opened(outcome: object) -> None:
        if isinstance(outcome, Comparison):
            app.push_screen(DiffScreen(pair, outcome, can_go_back=True))
        elif isinstance(outcome, InspectError) and not isinstance(outcome, Cancelled):
            error = ErrorScreen(outcome, can_go_back=True, path=loading.reading)
            app.push_screen(error, answered)

    def answered(answer: str | None) -> None:
        if answer == "again":
            open_pair(app, pair, back)
        elif back is not None:
            back()

    app.push_screen(LoadingScreen(loading.start()), opened)


def compare_with(app: App[Any], loaded: Loaded) -> None:
    """Ask for the path of another checkpoint, and show how it differs from this one."""
    path = loaded.checkpoint.path
    parent = parent_of(path).rstrip("/") + "/"
    own = path.rstrip("/").rpartition("/")[2]
    if "?" in parent or printable(parent) != parent:
        parent = ""  # A query or a password is not to be on the screen.

    def ask(value: str) -> None:
        question = f"Compare {printable(path, 300)} (A) with (B):"
        app.push_screen(AskPathScreen(question, value, beside=own), compare)

    def compare(other: str | None) -> None:
        if other:
            open_pair(app, PairOf(loaded, expanded(other)), lambda: ask(other))

    ask(parent)


class DiffScreen(Screen[None]):
    """A comparison: its structure at once, the values when they are asked for."""

    DEFAULT_CSS = """
    DiffScreen > #diff-head { height: 3; padding: 0 1; background: $panel; }
    """

    BINDINGS = [
        command(
            "c",
            "compare",
            "Compare values",
            "Compare every value, whatever the shardings; again to stop.",
            footer=True,
        ),
        command(
            "m",
            "compare_one",
            "This tensor",
            "Compare the values of this tensor alone, and draw where they differ.",
            footer=True,
        ),
        command("r", "reload", "Reload", "Read both anew."),
        command("escape", "back", "Back", "Leave what is open: filter, verdict, zoom."),
    ]
    AUTO_FOCUS = "#diff-table"

    def __init__(
        self,
        pair: PairOf,
        comparison: Comparison,
        *,
        can_go_back: bool = False,
        with_values: bool = False,
    ) -> None:
        super().__init__()
        self._pair = pair
        self.comparison = comparison
        self._can_go_back = can_go_back
        self._with_values = with_values
        self._run: ComparingValues | None = None
        self._comparing = Background[ComparingValues](self, self._ended, "comparing")
        self._judged: tuple[Diff, Text] | None = None

    def compose(self) -> ComposeResult:
        yield Static("", markup=False, id="diff-head")
        yield DiffView(self.comparison)
        yield TaskLine()
        yield KeyBar()

    def on_mount(self) -> None:
        self._show_head()
        self.set_interval(_PAINT_S, self._paint)
        if self._with_values:
            self.call_after_refresh(self.action_compare)

    @property
    def view(self) -> DiffView:
        return self.query_one(DiffView)

    @property
    def is_comparing(self) -> bool:
        return self._run is not None

    @property
    def exit_code(self) -> int:
        """As of the text, for what was compared by now."""
        is_left = self._with_values and not self.comparison.values_compared
        return 2 if self.is_comparing or is_left else self.comparison.diff.exit_code

    @property
    def is_close(self) -> bool:
        """Whether everything was compared, and what differs is at most CLOSE."""
        return not self.is_comparing and self.comparison.diff.is_close

    def on_resize(self) -> None:
        self._show_head()

    def _show_head(self) -> None:
        width = max(self.size.width - 2, 20)
        if self._run is not None:
            verdict = Text(self._progress_said(), "bold", no_wrap=True)
        else:
            verdict = self._verdict()
        clip(verdict, width)
        lines = [side_line(self.comparison, n, width) for n in (0, 1)]
        # Of a fixed size: laying everything out anew ten times a second would cost.
        head = self.query_one("#diff-head", Static)
        head.update(Text("\n").join([*lines, verdict]), layout=False)

    def _verdict(self) -> Text:
        """The verdict over everything; worked out once for what is known."""
        diff = self.comparison.diff
        if self._judged is None or self._judged[0] is not diff:
            colors = {"same": "ok", "different": "error", "unknown": "warning"}
            color = colors[diff.verdict]
            if diff.verdict == "same" and not diff.values_compared:
                color = "bold"  # Green is for what was proven.
            self._judged = diff, Text(headline(self.comparison), color, no_wrap=True)
        return self._judged[1].copy()

    def _progress_said(self) -> str:
        run, counts = self._run, self.comparison.counts
        done = run.progress if run is not None else None
        said = "comparing values"
        if done is not None:
            said += f": {done.tensors_done:,} of {done.tensors_total:,} tensors"
        found = [
            f"{counts[verdict]:,} {verdict}"
            for verdict in ("NON_FINITE", "DIFFER", "CLOSE", "EXACT")
            if counts[verdict]
        ]
        return f"{said}; so far {', '.join(found)}" if found else said

    # Comparing values.

    def action_compare(self) -> None:
        if self._run is not None:
            self._comparing.stop()
            return
        todo = self.comparison.todo()
        if todo is None:
            self.comparison.all_compared()
            self._tell("Nothing is left to compare", headline(self.comparison), "information")
            self._show_head()
            return
        self._begin(ComparingValues(todo, self.comparison.tolerance, is_all=True))

    def action_compare_one(self) -> None:
        """Compare the values of the tensor at the cursor; or read its map."""
        if self._run is not None:
            self.notify("Values are being compared already; c stops that.")
            return
        if self.view.ask_for_map():
            return
        item = self.view.item
        todo = None if item is None else self.comparison.todo(only=item)
        if todo is None:
            self.notify("There is nothing left to compare of this row.")
            return
        self._begin(ComparingValues(todo, self.comparison.tolerance, is_all=False))

    def _begin(self, run: ComparingValues) -> None:
        self._run = run
        self._comparing.ask(run, run.read)
        self.view.expect_values()
        self._show_head()

    def _paint(self) -> None:
        run, line = self._run, self.query_one(TaskLine)
        if run is None:
            return
        changed = self.comparison.take(run.drain())
        if changed:
            self.view.rows_changed(changed)
        line.show("comparing values", run.progress, self._comparing, "c stops")
        self._show_head()

    def _ended(self, run: ComparingValues, outcome: Diff | InspectError) -> None:
        self._run = None
        self.query_one(TaskLine).hide()
        self.comparison.take(run.drain())
        if isinstance(outcome, InspectError):
            self.view.values_ended()
            self._tell("The values could not be compared", str(outcome), "error")
        else:
            if self.comparison.finish(outcome, is_all=run.is_all):
                self.view.show_comparison(self.comparison)
            else:
                self.view.values_ended()
            if outcome.is_cancelled:
                self._tell("Stopped", "Not everything was compared; c goes on.", "warning")
        self._show_head()

    def _tell(self, title: str, said: str, severity: SeverityLevel) -> None:
        self.notify(printable(said, 400), title=title, severity=severity, markup=False)

    # What else the keys do.

    def action_back(self) -> None:
        if not self.view.back() and self._can_go_back:
            self.app.pop_screen()

    def action_reload(self) -> None:
        self._comparing.stop()
        a, b = self._pair.paths
        again = PairOf(a, b, self._pair.filter_text, self._pair.tolerance)
        self.app.push_screen(LoadingScreen(OpeningPair(again).start()), self._reloaded)

    def _reloaded(self, outcome: object) -> None:
        if isinstance(outcome, Comparison):
            # What is still being compared is of files as they were.
            self._comparing.drop()
            self._run = None
            self.query_one(TaskLine).hide()
            self.comparison = outcome
            self.view.show_comparison(outcome)
            self._show_head()
            self.notify("Both were read anew.")
        elif isinstance(outcome, InspectError) and not isinstance(outcome, Cancelled):
            self._tell("It could not be read", str(outcome), "error")
