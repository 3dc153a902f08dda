"""Apps with one screen: a comparison; a verification that is recorded, or runs elsewhere."""

from __future__ import annotations

from textual.screen import Screen

from inspector.checkpoint.child.isolated import Child
from inspector.checkpoint.outside import note_inspected
from inspector.tui.app import InspectApp
from inspector.tui.diff.comparison import Comparison
from inspector.tui.diff.opening import OpeningPair, PairOf
from inspector.tui.diff.screen import DiffScreen
from inspector.tui.screens.loading import LoadingScreen
from inspector.tui.verification.playback import Playback, read_recording
from inspector.tui.verification.replay import ReplayScreen
from inspector.tui.verification.run import Following, Run
from inspector.verify.result import confirmed, exit_code

__all__ = ["DiffApp", "ReplayApp", "run_replay"]

_CLOSE_S = 1.0


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


def run_replay(path: str, *, follow: bool = False) -> int:
    """Show a recording until the user leaves.

    Args:
        path: `events.jsonl`, a run folder, or a folder of ranks' events.
        follow: The job runs: show its events as they come.

    Returns:
        The exit code of the job that was recorded; 2 if it did not come to its end.

    Raises:
        StorageError: It cannot be read.
        UsageError: There are no events in it.
    """
    shown: Run = Following(path) if follow else Playback(read_recording(path))
    code = ReplayApp(shown, path).run_to_end()
    if shown.error is not None:
        raise shown.error
    if code:
        return code
    if isinstance(shown, Playback):
        # The verdict is the recording's, however far it was watched.
        shown.seek(shown.end_s)
    return exit_code(confirmed(shown.moment.snapshot))


class ReplayApp(InspectApp):
    """The app with one screen: a run."""

    def __init__(self, run: Run, path: str) -> None:
        super().__init__(path)
        self._run = run

    def get_default_screen(self) -> Screen[None]:
        """The run."""
        return ReplayScreen(self._run, self._path)

    def _open(self) -> None:
        # There is no checkpoint to open: it plays.
        self._run.start()

    def on_unmount(self) -> None:
        """End its thread."""
        if isinstance(self._run, Playback):
            self._run.close()
            self._run.join(_CLOSE_S)
