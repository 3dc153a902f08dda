"""Start the screen on a recorded verification, or on one that runs elsewhere."""

from __future__ import annotations

from textual.screen import Screen

from inspector.tui.app import InspectApp
from inspector.tui.verification.playback import Playback, read_recording
from inspector.tui.verification.replay import ReplayScreen
from inspector.tui.verification.run import Following, Run
from inspector.verify.result import confirmed, exit_code

__all__ = ["ReplayApp", "run"]

_CLOSE_S = 1.0


def run(path: str, *, follow: bool = False) -> int:
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
