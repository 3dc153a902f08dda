"""`ComparingScreen`: what the main screen does about other checkpoints, and about its tables."""

from __future__ import annotations

import os

from inspector.checkpoint.text import printable
from inspector.tui.kit.virtual_table import sort_table
from inspector.tui.screens.valuing import ValuingScreen

__all__ = ["ComparingScreen"]


class ComparingScreen(ValuingScreen):
    """A screen from which its checkpoint is compared with another."""

    def action_sort(self, reverse: bool) -> None:
        sort_table(self, self.view.table, reverse=reverse)

    def action_compare_with(self) -> None:
        """Ask for the path of another checkpoint, and show how it differs."""
        if self.loaded is None:
            return
        from inspector.checkpoint.storage.base import parent_of
        from inspector.tui.folder.ask_path import AskPathScreen

        path = self.loaded.checkpoint.path
        shown = printable(path, 300)
        parent = parent_of(path).rstrip("/") + "/"
        if "?" in parent or printable(parent) != parent:
            parent = ""  # A query or a password is not to be on the screen.
        question = f"Compare {shown} (A) with (B):"
        self.app.push_screen(AskPathScreen(question, parent), self._compare)

    def _compare(self, path: str | None) -> None:
        if not path or self.loaded is None:
            return
        from inspector.checkpoint.storage.base import is_url
        from inspector.tui.diff.opening import PairOf
        from inspector.tui.diff.screen import open_pair

        if not is_url(path):
            path = os.path.expanduser(path)
        open_pair(self.app, PairOf(self.loaded, path))
