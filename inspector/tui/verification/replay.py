"""`ReplayScreen`: a recorded verification, shown as it ran."""

from __future__ import annotations

from typing import Any

from rich.text import Text
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Input, Static

from inspector.checkpoint.text import printable
from inspector.errors import InspectError
from inspector.tui.background import Background
from inspector.tui.commands import command
from inspector.tui.kit.cell_text import clip
from inspector.tui.kit.key_bar import KeyBar
from inspector.tui.mesh.paint import stage_bar
from inspector.tui.verification.head import seconds
from inspector.tui.verification.playback import Playback, read_recording
from inspector.tui.verification.run import Run
from inspector.tui.verification.view import VerificationView

__all__ = ["ReplayScreen", "replay"]

_PAINT_S = 0.1


class ReplayScreen(Screen[None]):
    """The view of a verification, with a line that says where in the recording it is."""

    # `priority`: keys that the table below would take otherwise.
    BINDINGS = [
        command("space", "play", "Pause", "Hold the recording, or go on.", footer=True),
        command("plus,equals_sign", "speed(1)", "Faster", "Play it faster.", footer=True),
        command("minus", "speed(-1)", "Slower", "Play it slower."),
        command("right", "seek(1)", "Forward", "Go on by a twentieth.", priority=True),
        command("left", "seek(-1)", "Back", "Go back by a twentieth.", priority=True),
        command("end", "jump(True)", "End", "Go to the end.", footer=True, priority=True),
        command("home", "jump(False)", "Start", "Go to the start.", priority=True),
        command("escape", "back", "Back", "Leave what is open."),
    ]
    AUTO_FOCUS = "#verify-table"

    DEFAULT_CSS = """
    ReplayScreen > #replay-head { height: 1; padding: 0 1; background: $panel; }
    """

    def __init__(self, run: Run, title: str, *, can_go_back: bool = False) -> None:
        """Args: `title` is the recording's path, raw; `can_go_back`: there is a screen below."""
        super().__init__()
        self._run = run
        self._can_go_back = can_go_back
        self._title = printable(title, 200)
        self._said: str | None = None

    def compose(self) -> ComposeResult:
        yield Static("", markup=False, id="replay-head")
        yield VerificationView()
        yield KeyBar()

    async def on_mount(self) -> None:
        view = self.query_one(VerificationView)
        await view.prepare_filter()
        view.show_run(self._run)
        self.set_interval(_PAINT_S, self._paint)
        self._paint()

    @property
    def playback(self) -> Playback | None:
        """The recording, or None where a job is followed as it runs."""
        return self._run if isinstance(self._run, Playback) else None

    def _paint(self) -> None:
        head, playback = self.query_one("#replay-head", Static), self.playback
        width = max(0, head.size.width - 2)
        if playback is None:
            text = Text.assemble(("FOLLOWING  ", "bold"), self._title)
        else:
            moment = self._run.moment
            state = "PAUSED" if playback.is_paused else f"{playback.speed:g}x"
            state = "END" if playback.is_at_end else state
            share = moment.position_s / moment.end_s if moment.end_s else 1.0
            where = f" {seconds(moment.position_s)} of {seconds(moment.end_s)} "
            text = Text.assemble(("REPLAY ", "bold"), (f" {state} ", "bold reverse"), where)
            styles = {"bar": "note", "rest": "dim"}
            text.append_tokens((run, styles.get(name, "")) for run, name in stage_bar((share,), 20))
            room = width - text.cell_len - 2
            if room > 8:
                text.append(f"  {printable(self._title, room)}", "dim")
        clip(text, max(1, width))
        if text.plain != self._said:
            self._said = text.plain
            head.update(text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("play", "speed", "seek", "jump"):
            # Where a name is typed, the keys are its letters.
            return self.playback is not None and not isinstance(self.focused, Input)
        return True

    # Keys.

    def action_play(self) -> None:
        if self.playback is not None:
            self.playback.toggle()
            self._paint()

    def action_speed(self, steps: int) -> None:
        if self.playback is not None:
            self.playback.faster(steps)
            self._paint()

    def action_seek(self, twentieths: int) -> None:
        """Go forwards or back by twentieths of the recording."""
        if self.playback is not None:
            here = self.playback.position_s
            self.playback.seek(here + self.playback.end_s * twentieths / 20)

    def action_jump(self, to_end: bool) -> None:
        if self.playback is not None:
            self.playback.seek(self.playback.end_s if to_end else 0.0)

    def action_back(self) -> None:
        if not self.query_one(VerificationView).back() and self._can_go_back:
            self.app.pop_screen()

    def on_unmount(self) -> None:
        if self._can_go_back and self.playback is not None:
            self.playback.close()


def replay(screen: Screen[Any], folder: str) -> None:
    """Read a recording in the background, and show it as it ran, over `screen`."""

    def answered(folder: str, events: list[dict[str, Any]] | InspectError) -> None:
        if isinstance(events, InspectError):
            said = printable(f"{events.message} {events.hint}", 400)
            screen.notify(said, title="It cannot be replayed", severity="error", markup=False)
            return
        playback = Playback(events)
        screen.app.push_screen(ReplayScreen(playback, folder, can_go_back=True))
        playback.start()

    reading: Background[str] = Background(screen, answered, "reading a recording")
    reading.ask(folder, lambda stop: read_recording(folder))
