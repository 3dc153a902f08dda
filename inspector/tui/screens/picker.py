"""`PickerScreen`: the checkpoints of a folder, to choose one."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Footer, Static
from textual.worker import get_current_worker

from inspector.checkpoint.discover import newest
from inspector.checkpoint.storage import is_url
from inspector.checkpoint.text import plural, printable
from inspector.checks.folder import Judged
from inspector.tui.commands import bindings
from inspector.tui.messages import CheckpointJudged
from inspector.tui.session import Folder, Loaded
from inspector.tui.sources import FOUND_COLUMNS, FoundSource
from inspector.tui.widgets.virtual_table import VirtualTable

__all__ = ["PickerScreen"]


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
        self._judged: list[Judged] = []
        self._opening = ""

    def compose(self) -> ComposeResult:
        yield Static(markup=False, id="picker-head")
        yield VirtualTable(FOUND_COLUMNS, empty_text="No checkpoint is under this folder")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._show(self._folder)

    def _show(self, folder: Folder) -> None:
        self._folder = folder
        latest = newest(list(folder.found))
        self._say(f"newest complete: {latest.path or '.'}" if latest else "none is complete")
        table = self.query_one(VirtualTable)
        self._source = FoundSource(folder.found)
        table.set_source(self._source)
        if latest is not None:
            table.select_row(folder.found.index(latest))
        self._judged = []
        self.run_worker(self._judge, thread=True, exit_on_error=False, exclusive=True)

    def _judge(self) -> None:
        """In a thread: judge every checkpoint by its metadata and file sizes."""
        from inspector.checkpoint.storage import open_storage
        from inspector.checks.folder import check_folder

        worker, folder = get_current_worker(), self._folder
        # The progress callback is also how a reading is stopped when the screen goes away.
        judged = check_folder(
            open_storage(folder.path),
            found=folder.found,
            progress=lambda done, total: worker.is_cancelled,
        )
        for item in judged:
            if worker.is_cancelled:
                return
            self.post_message(CheckpointJudged(item))

    def on_checkpoint_judged(self, event: CheckpointJudged) -> None:
        from inspector.checks.folder import newest_sound

        event.stop()
        item = event.judged
        if item.found not in self._folder.found:
            return  # Of a folder that was read anew meanwhile.
        self._judged.append(item)
        verdict: str = "empty" if item.report.is_empty else item.report.verdict
        if item.found.format != "dcp":
            verdict = "not judged"
        self._source.verdicts[self._folder.found.index(item.found)] = verdict
        self.query_one(VirtualTable).refresh_rows()
        if len(self._judged) == len(self._folder.found):
            sound = newest_sound(self._judged)
            said = "none is sound" if sound is None else f"newest sound: {sound.found.path or '.'}"
            self._say(said)

    def _say(self, said: str) -> None:
        count = plural(len(self._folder.found), "checkpoint")
        path = printable(self._folder.path)
        self.query_one("#picker-head", Static).update(
            Text.assemble((path, "bold"), f"\n{count} · {printable(said)}")
        )

    def on_virtual_table_selected(self, event: VirtualTable.Selected) -> None:
        event.stop()
        self._open(event.row)

    def action_open_found(self) -> None:
        row = self.query_one(VirtualTable).cursor_row
        if row is not None:
            self._open(row)

    def _open(self, row: int) -> None:
        from inspector.tui.screens.loading import LoadingScreen

        item = self._folder.found[row]
        base = self._folder.path.rstrip("/") if is_url(self._folder.path) else self._folder.path
        path = f"{base.rstrip('/')}/{item.path}" if item.path else base
        self._opening = path
        self.app.push_screen(LoadingScreen.of(path, whole_folder=False), self._opened)

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
