"""`DiffApp`: the app with one screen, a comparison."""

from __future__ import annotations

from textual.screen import Screen

from inspector.checkpoint.child.isolated import Child
from inspector.checkpoint.outside import note_inspected
from inspector.tui.app import InspectApp
from inspector.tui.diff.comparison import Comparison
from inspector.tui.diff.opening import OpeningPair, PairOf
from inspector.tui.diff.screen import DiffScreen
from inspector.tui.screens.loading import LoadingScreen

__all__ = ["DiffApp"]


class DiffApp(InspectApp):
    """Two checkpoints, side by side."""

    def __init__(
        self,
        pair: PairOf,
        *,
        with_values: bool = False,
        allow_close: bool = False,
        prefetched: tuple[Child | None, Child | None] | None = None,
    ) -> None:
        super().__init__(pair.paths[0])
        self._pair = pair
        self._with_values = with_values
        self._allow_close = allow_close
        self._children = prefetched

    def get_default_screen(self) -> Screen[None]:
        """Nothing, until both are read."""
        return Screen(id="_default")

    def _open(self) -> None:
        children, self._children = self._children, None
        opening = OpeningPair(self._pair, children)

        def opened(outcome: object) -> None:
            if isinstance(outcome, Comparison):
                self.push_screen(DiffScreen(self._pair, outcome, with_values=self._with_values))
            else:
                self._path = opening.reading
                self._show(outcome)

        self.push_screen(LoadingScreen(opening.start()), opened)

    @property
    def exit_code(self) -> int:
        """As of the text; 2 where nothing was compared."""
        for screen in self.screen_stack:
            if isinstance(screen, DiffScreen):
                return 0 if self._allow_close and screen.is_close else screen.exit_code
        return 2

    def action_screenshot(self, filename: str | None = None, path: str | None = None) -> None:
        """Save the screen, but into neither of the two."""
        for side in self._pair.paths:
            note_inspected(side)
        super().action_screenshot(filename, path)
