"""`MainScreen`: a checkpoint: header, views, footer.

It opens in three steps, each of which is on the screen before the next begins: the table of
tensors; the rest of the screen; who wrote the checkpoint, which a thread works out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import ContentSwitcher

from inspector.tui.commands import bindings
from inspector.tui.messages import ScreenComplete, WriterFound
from inspector.tui.preview import Preview
from inspector.tui.views.base import View
from inspector.tui.views.tensors import TensorsView
from inspector.tui.widgets.checkpoint_header import CheckpointHeader
from inspector.tui.widgets.view_bar import ViewBar

if TYPE_CHECKING:
    from inspector.layout.written_by import WrittenBy
    from inspector.tui.session import Loaded

__all__ = ["MainScreen"]

_VIEWS = (("tensors", "1", "Tensors"), ("files", "2", "Files"))


class MainScreen(Screen[None]):
    """One checkpoint, open."""

    BINDINGS = bindings("main")
    AUTO_FOCUS = ""

    DEFAULT_CSS = "MainScreen #footer-place { dock: bottom; height: 1; background: $panel; }"

    def __init__(self, opened: Loaded | Preview, *, from_picker: bool = False) -> None:
        """Args: `opened` is the checkpoint, or a preview until `show` gives it."""
        super().__init__()
        self.opened = opened
        self.loaded: Loaded | None = None
        self.written_by: WrittenBy | None = None
        self._from_picker = from_picker
        self._completed = False

    def compose(self) -> ComposeResult:
        yield CheckpointHeader()
        yield ViewBar(_VIEWS)
        with ContentSwitcher(initial="tensors"):
            yield TensorsView()

    def on_mount(self) -> None:
        if isinstance(self.opened, Preview):
            self.query_one(CheckpointHeader).show_preview(self.opened.path, self.opened.facts)
            self.query_one(TensorsView).show_preview(self.opened)
        else:
            self.show(self.opened)
        self.action_show_view("tensors")
        self.call_after_refresh(self._complete)

    async def _complete(self) -> None:
        from textual.widgets import Footer

        from inspector.tui.views.files import FilesView

        files = FilesView()
        files.display = False
        await self.mount(Footer(show_command_palette=False))
        await self.query_one(ContentSwitcher).mount(files)
        await self.view.complete()
        self._completed = True
        if self.loaded is not None:
            files.show(self.loaded)
            self._start_finding_writer()
        self.post_message(ScreenComplete())

    def _start_finding_writer(self) -> None:
        self.run_worker(self._find_writer, thread=True, exit_on_error=False, group="writer")

    def show(self, loaded: Loaded) -> None:
        """Show a checkpoint; where the cursor's entry is in it too, the cursor stays on it."""
        self.loaded = loaded
        self.written_by = None
        self.query_one(CheckpointHeader).show(loaded.checkpoint)
        for view in self.query(View):
            view.show(loaded)
        if self._completed:
            self._start_finding_writer()

    def _find_writer(self) -> None:
        from inspector.layout.written_by import infer

        loaded = self.loaded
        if loaded is not None:
            self.post_message(WriterFound(loaded, infer(loaded.checkpoint)))

    def on_writer_found(self, event: WriterFound) -> None:
        event.stop()
        if event.loaded is not self.loaded:
            return  # Of a reading that was replaced meanwhile.
        self.written_by = event.written_by
        self.query_one(CheckpointHeader).show_writer(event.written_by)
        for view in self.query(View):
            view.show_writer(event.written_by)

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
            return  # A key pressed before the screen was complete.
        self.query_one(ContentSwitcher).current = view
        bar = self.query_one(ViewBar)
        bar.current = view
        bar.note = self.view.count_text
        self.view.table.focus()
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
        if action in ("zoom", "toggle_tree"):
            return not self.is_mounted or isinstance(self.view, TensorsView)
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
            self.notify(str(outcome), title="It could not be read", severity="error", markup=False)
        elif outcome is not None:
            self.show(cast("Loaded", outcome))
            self.notify("Read anew.")
