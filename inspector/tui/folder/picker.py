"""`PickerScreen`: the checkpoints of a folder, to choose one."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from inspector.checkpoint.find import Found, newest
from inspector.checkpoint.storage.local import is_url
from inspector.checkpoint.text import plural, printable
from inspector.checks.run import Judged
from inspector.tui.commands import bindings
from inspector.tui.kit.key_bar import KeyBar
from inspector.tui.kit.view import View
from inspector.tui.kit.virtual_table import VirtualTable, sort_table
from inspector.tui.messages import CheckpointJudged
from inspector.tui.screens.sources import FOUND_COLUMNS, FoundSource
from inspector.tui.session import Folder, Loaded

__all__ = ["PickerScreen"]


class FoundView(View):
    """The table, and its filter."""

    def __init__(self) -> None:
        super().__init__(id="found")
        self._table = VirtualTable(
            FOUND_COLUMNS,
            empty_text="No checkpoint is under this folder, or none matches the filter",
        )
        self._names: list[str] = []

    def compose(self) -> ComposeResult:
        yield self._table

    async def on_mount(self) -> None:
        await self.prepare_filter()

    @property
    def table(self) -> VirtualTable:
        return self._table

    @property
    def names(self) -> list[str]:
        return self._names

    def show_found(self, source: FoundSource) -> None:
        """Show the checkpoints of a folder, as far as the filter lets them."""
        self._names = [item.path or "." for item in source.found]
        self.table.set_source(source)
        self.refilter()


class PickerScreen(Screen[None]):
    """Step, state, size and time of every checkpoint under a folder."""

    DEFAULT_CSS = """
    PickerScreen > #picker-head { height: 2; padding: 0 1; background: $panel; }
    """

    BINDINGS = bindings("picker")
    AUTO_FOCUS = "VirtualTable"

    def __init__(self, folder: Folder) -> None:
        super().__init__()
        self._folder = folder
        self._source = FoundSource(folder.found)
        self._numbers: dict[Found, int] = {}
        self._list = FoundView()
        self._judged: list[Judged] = []
        self._opening = ""
        self._said = ""

    def compose(self) -> ComposeResult:
        yield Static(markup=False, id="picker-head")
        yield self._list
        yield KeyBar()

    def on_mount(self) -> None:
        self._show(self._folder)

    def _show(self, folder: Folder) -> None:
        self._folder = folder
        latest = newest(list(folder.found))
        self._say(f"newest complete: {latest.path or '.'}" if latest else "none is complete")
        table = self.query_one(VirtualTable)
        self._source = FoundSource(folder.found)
        self._numbers = {found: number for number, found in enumerate(folder.found)}
        self._list.show_found(self._source)
        if latest is not None:
            table.select_row(folder.found.index(latest))
        self._judged = []
        self.run_worker(self._judge, thread=True, exit_on_error=False, exclusive=True)

    def _judge(self) -> None:
        """In a thread: judge every checkpoint by its metadata and file sizes."""
        from inspector.checkpoint.storage.local import open_storage
        from inspector.checkpoint.workers import until
        from inspector.checks.run import check_folder

        worker, folder = get_current_worker(), self._folder
        # The progress callback is also how a reading is stopped when the screen goes away.
        judged = check_folder(
            open_storage(folder.path),
            found=folder.found,
            progress=lambda done, total: worker.is_cancelled,
        )
        with until(lambda: worker.is_cancelled):
            for item in judged:
                if worker.is_cancelled:
                    return
                self.post_message(CheckpointJudged(item))

    def on_checkpoint_judged(self, event: CheckpointJudged) -> None:
        from inspector.checks.run import newest_sound

        event.stop()
        item = event.judged
        number = self._numbers.get(item.found)
        if number is None:
            return  # Of a folder that was read anew meanwhile.
        self._judged.append(item)
        verdict: str = "empty" if item.report.is_empty else item.report.verdict
        self._source.verdicts[number] = verdict
        self.query_one(VirtualTable).refresh_rows()
        if len(self._judged) == len(self._folder.found):
            sound = newest_sound(self._judged)
            said = "none is sound" if sound is None else f"newest sound: {sound.found.path or '.'}"
            self._say(said)

    def _say(self, said: str) -> None:
        self._said = said
        self._draw_head()

    def _draw_head(self) -> None:
        facts = [plural(len(self._folder.found), "checkpoint")]
        if self._list.table.num_lines < len(self._folder.found):
            facts[0] = f"{self._list.count_text} checkpoints"
        marked = self._source.marked
        if marked is None:
            facts.append(printable(self._said))
        else:
            name = printable(self._folder.found[marked].path or ".", 80)
            facts.append(f"A is {name}; d compares it with the one under the cursor, B")
        path = Text(printable(self._folder.path), "bold")
        text = Text("\n").join([path, Text(" · ".join(facts))])
        self.query_one("#picker-head", Static).update(text)

    def on_view_counted(self, event: View.Counted) -> None:
        event.stop()
        self._draw_head()

    # Keys.

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "filter":
            # While a line is being typed, the key is a character of it.
            return not isinstance(self.focused, Input)
        return True

    def action_filter(self) -> None:
        self._list.begin_filter()

    def action_sort(self, reverse: bool) -> None:
        sort_table(self, self._list.table, reverse=reverse)

    def action_back(self) -> None:
        if not self._list.back() and self._source.marked is not None:
            self._mark(None)

    def action_mark(self) -> None:
        """Mark the checkpoint under the cursor as the one to compare others with, or not."""
        row = self._list.table.cursor_row
        self._mark(None if row == self._source.marked else row)

    def _mark(self, row: int | None) -> None:
        self._source.marked = row
        self._list.table.refresh_rows()
        self._draw_head()

    def action_compare(self) -> None:
        """Compare the marked checkpoint with the one under the cursor."""
        marked, row = self._source.marked, self._list.table.cursor_row
        if row is None:
            return
        if marked is None:
            self._mark(row)
            self.notify("It is marked as A: now go to another, and press d again.")
            return
        if marked == row:
            self.notify("This is the marked one: go to another.")
            return
        from inspector.tui.diff.opening import PairOf
        from inspector.tui.diff.screen import open_pair

        open_pair(self.app, PairOf(self._path_of(marked), self._path_of(row)))

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()
        self._open(event.row)

    def action_open_found(self) -> None:
        row = self.query_one(VirtualTable).cursor_row
        if row is not None:
            self._open(row)

    def _open(self, row: int) -> None:
        from inspector.tui.screens.loading import LoadingScreen

        path = self._opening = self._path_of(row)
        self.app.push_screen(LoadingScreen.of(path, whole_folder=False), self._opened)

    def _path_of(self, row: int) -> str:
        item = self._folder.found[row]
        base = self._folder.path.rstrip("/") if is_url(self._folder.path) else self._folder.path
        return f"{base.rstrip('/')}/{item.path}" if item.path else base

    def _opened(self, outcome: object) -> None:
        from inspector.errors import Cancelled, InspectError
        from inspector.tui.screens.error import ErrorScreen
        from inspector.tui.screens.main import MainScreen

        if isinstance(outcome, Loaded):
            self.app.push_screen(MainScreen(outcome, from_picker=True))
        elif isinstance(outcome, InspectError) and not isinstance(outcome, Cancelled):
            error = ErrorScreen(outcome, can_go_back=True, path=self._opening)
            self.app.push_screen(error, self._after_error)

    def _after_error(self, answer: str | None) -> None:
        if answer == "again":
            self.action_open_found()

    def action_reload(self) -> None:
        from inspector.tui.screens.loading import LoadingScreen

        self.app.push_screen(LoadingScreen.of(self._folder.path), self._reloaded)

    def _reloaded(self, outcome: object) -> None:
        if isinstance(outcome, Folder):
            self._show(outcome)
            self.notify("Looked through the folder anew.")
