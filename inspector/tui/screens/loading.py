"""`LoadingScreen`: a path being read, how far it is, and a way to stop."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import Footer, ProgressBar, Static

from inspector.checkpoint.text import format_bytes, printable
from inspector.tui.session import Loading, Outcome

__all__ = ["LoadingScreen"]


class LoadingScreen(Screen[Outcome]):
    """Dismissed with the outcome of the loading: a value, or an error."""

    DEFAULT_CSS = """
    LoadingScreen { align: center middle; }
    LoadingScreen > Vertical { width: 70%; max-width: 80; height: auto; }
    LoadingScreen Static { width: 1fr; text-align: center; }
    LoadingScreen ProgressBar { width: 1fr; margin: 1 0; }
    LoadingScreen ProgressBar Bar { width: 1fr; }
    """

    BINDINGS = [("escape,ctrl+c", "cancel", "Stop reading")]

    def __init__(self, loading: Loading) -> None:
        super().__init__()
        self._loading = loading
        self._is_dismissed = False

    @classmethod
    def of(cls, path: str, *, whole_folder: bool = True) -> LoadingScreen:
        """Start to read `path`."""
        return cls(Loading(path, whole_folder=whole_folder).start())

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(printable(self._loading.path), markup=False)
            yield ProgressBar(show_eta=False)
            yield Static("", markup=False, id="stage")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._timer = self.set_interval(0.05, self._poll)

    def _poll(self) -> None:
        loading = self._loading
        if not self.query("#stage"):
            return  # The app is on its way out.
        if loading.outcome is not None:
            # Once only: a second dismissal would take away the screen below.
            self._timer.stop()
            if not self._is_dismissed:
                self._is_dismissed = True
                self.dismiss(loading.outcome)
            return
        if loading.num_bytes:
            self.query_one(ProgressBar).update(total=loading.num_bytes, progress=loading.num_done)
        size = f", {format_bytes(loading.num_bytes)}" if loading.num_bytes else ""
        self.query_one("#stage", Static).update(f"{loading.stage}{size}")

    def action_cancel(self) -> None:
        self._loading.cancel()
        self.query_one("#stage", Static).update("stopping")
