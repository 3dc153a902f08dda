"""`PickerScreen`: the checkpoints of a folder, to choose one."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Footer, Static

from inspector.checkpoint.discover import newest
from inspector.checkpoint.storage import is_url
from inspector.checkpoint.text import plural, printable
from inspector.tui.commands import bindings
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

    def compose(self) -> ComposeResult:
        yield Static(markup=False, id="picker-head")
        yield VirtualTable(FOUND_COLUMNS, empty_text="No checkpoint is under this folder")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._show(self._folder)

    def _show(self, folder: Folder) -> None:
        self._folder = folder
        latest = newest(list(folder.found))
        said = f"newest complete: {printable(latest.path or '.')}" if latest else "none is complete"
        self.query_one("#picker-head", Static).update(
            Text.assemble(
                (printable(folder.path), "bold"),
                f"\n{plural(len(folder.found), 'checkpoint')} · {said}",
            )
        )
        table = self.query_one(VirtualTable)
        table.set_source(FoundSource(folder.found))
        if latest is not None:
            table.select_row(folder.found.index(latest))

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
        self.app.push_screen(LoadingScreen.of(path, whole_folder=False), self._opened)

    def _opened(self, outcome: object) -> None:
        from inspector.errors import Cancelled, InspectError
        from inspector.tui.screens.error import ErrorScreen
        from inspector.tui.screens.main import MainScreen

        if isinstance(outcome, Loaded):
            self.app.push_screen(MainScreen(outcome, from_picker=True))
        elif isinstance(outcome, InspectError) and not isinstance(outcome, Cancelled):
            self.app.push_screen(ErrorScreen(outcome, can_go_back=True), self._after_error)

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
