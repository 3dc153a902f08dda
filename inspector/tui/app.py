"""`InspectApp`: screens in and out; the commands that work everywhere."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from textual import events
from textual.app import App, SystemCommand
from textual.screen import Screen

from inspector.checkpoint.outside import is_inspected, note_inspected
from inspector.checkpoint.own_folders import place_outside
from inspector.checkpoint.text import printable
from inspector.checkpoint.workers import leave
from inspector.errors import Cancelled, InspectError
from inspector.tui.background import Collector, ScreenComplete, after
from inspector.tui.commands import command, is_closed
from inspector.tui.kit.cell_text import keep_units
from inspector.tui.kit.key_order import KeyDone, KeyOrder
from inspector.tui.preferences import Memory
from inspector.tui.screens.main import MainScreen
from inspector.tui.theme import DARK, LIGHT, THEMES, dress, own_name, theme_named

if TYPE_CHECKING:
    from textual.command import Provider
    from textual.dom import DOMNode
    from textual.driver import Driver
    from textual.theme import Theme

    from inspector.checkpoint.child.isolated import Child
    from inspector.tui.quick_escape import QuickEscape
    from inspector.tui.session import Loading
    from inspector.tui.tensors.preview import Preview
    from inspector.tui.verification.run import Verification

__all__ = ["InspectApp"]

#: What a terminal sends when it is closed, and what ends a process by default.
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGHUP", "SIGTERM") if hasattr(signal, name))
_PATIENCE_S = 5.0
#: As a shell tells of a process that a signal ended.
_BASE = 128


class Drawn(Protocol):
    """A terminal that is drawn on."""

    @property
    def is_drawn_on(self) -> bool:
        """Whether the terminal is the screen's now, and not the shell's."""

    def hand_back(self) -> None:
        """Restore it at once, by hand; from any thread."""


@contextmanager
def ending_in_order(
    leave: Callable[[int], object], terminal: Callable[[], Drawn | None]
) -> Iterator[None]:
    """Let the signals that end a process end the screen first, as long as the context is open.

    A signal that ends a process still ends it, whatever the screen is at. The first asks the app to
    leave, as `q` does but without a question; the second, and a while that was too long, take the
    short way: the terminal is restored by hand and the process is over. One that is ignored
    (`nohup`) stays ignored.

    Args:
        leave: Called in the main thread, between two instructions, with the exit code; asks the
            app to leave.
        terminal: The terminal, once there is one.
    """
    asked: list[threading.Timer] = []

    def end_now(number: int) -> None:
        drawn = terminal()
        if drawn is not None:
            drawn.hand_back()
        os._exit(_BASE + number)

    def take(number: int, frame: FrameType | None) -> None:
        drawn = terminal()
        if asked:
            end_now(number)
        elif drawn is None or not drawn.is_drawn_on:
            # In the shell's hands, it may not be written to; nor is there anything to restore.
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        else:
            patience = threading.Timer(_PATIENCE_S, end_now, (number,))
            patience.daemon = True
            patience.start()
            asked.append(patience)
            leave(_BASE + number)

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        taken = []
    for number in taken:
        signal.signal(number, take)
    try:
        yield
    finally:
        for patience in asked:
            patience.cancel()
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


_POLL_S = 0.01
_SWITCH_S = 0.001
#: What style sheets may name, by the theme's name.
_variables: dict[str, dict[str, str]] = {}


def _commands() -> type[Provider]:
    from inspector.tui.screens.palette import CommandsProvider

    return CommandsProvider


class InspectApp(App[int]):
    """The terminal UI. Its return value is the exit code.

    Args:
        path: What the user gave; empty if that is to be asked for.
        preview: The first frame, where there is one already.
        prefetched: The child process that already reads the metadata, or None.
        closed: Actions that there are none of, such as `commands.LOOK_ONLY`.
        memory: What the user chose before, and chooses; by default it is forgotten.
    """

    TITLE = "hsdp-inspect"
    # In full: of a subclass elsewhere Textual would look beside that.
    CSS_PATH = Path(__file__).with_name("inspector.tcss")
    _dressed_in = ""
    #: Seconds: a notice is a line or two.
    NOTIFICATION_TIMEOUT = 4
    COMMANDS = {_commands}
    BINDINGS = [
        command(
            "t", "toggle_theme", "Light or dark", "Switch between the dark and the light theme."
        ),
        command("question_mark,f1", "help", "Help", "What every key does.", footer=True),
        command(
            "ctrl+p,colon",
            "command_palette",
            "Commands",
            "Find any command by its name.",
            footer=True,
        ),
        command(
            "f12",
            "screenshot",
            "Screenshot",
            "Save the screen as an SVG picture in the current folder.",
        ),
        command(
            "ctrl+z", "suspend_process", "Suspend", "Back to the shell for a while; fg returns."
        ),
        command("q", "quit", "Quit", "Leave hsdp-inspect.", footer=True),
    ]

    def __init__(
        self,
        path: str,
        *,
        preview: Preview | None = None,
        prefetched: Child | None = None,
        closed: frozenset[str] = frozenset(),
        memory: Memory | None = None,
    ) -> None:
        super().__init__()
        keep_units()
        self.closed_actions = closed
        self._path = path
        self._preview = preview
        self._prefetched = prefetched
        self._key_order = KeyOrder(self)
        self._collector = Collector()
        self._loading: Loading | None = None
        self._failed = False
        self._is_last = False
        #: What was typed where a path was asked for; empty if none was.
        self._asked = ""
        #: The latest verification; it outlives the screen that started it.
        self.verification: Verification | None = None
        for theme in THEMES:
            self.register_theme(theme)
        self.memory = memory or Memory()
        chosen = theme_named(self.memory.now.theme)
        self.theme = DARK.name if chosen is None else chosen
        self._dressed_in = self.theme
        self.stylesheet.set_variables(self.get_css_variables())
        dress(self)

    def refresh_css(self, animate: bool = True) -> None:
        """As Textual does, but before there is a screen: its rules would be parsed for nothing.

        The first screen brings rules of its own, with which all of them are parsed.
        """
        if self.screen_stack:
            super().refresh_css(animate)
        else:
            self.stylesheet.update(self)

    def get_css_variables(self) -> dict[str, str]:
        """As Textual works them out, which it would for each that asks: once a theme."""
        if not self._dressed_in:
            return {}  # The theme is still to be chosen.
        known = _variables.get(self.theme)
        if known is None:
            known = _variables[self.theme] = super().get_css_variables()
        self.theme_variables = known
        return known

    def get_driver_class(self) -> type[Driver]:
        """Textual's own, but for the one of which something is quicker here."""
        found = super().get_driver_class()
        if found.__name__ != "LinuxDriver":
            return found
        from inspector.tui.quick_escape import QuickEscape

        return QuickEscape

    async def on_event(self, event: events.Event) -> None:
        """Hand on what comes from the terminal, one key after the other."""
        if isinstance(event, events.InputEvent):
            self._collector.put_off()
        if not isinstance(event, (events.Key, events.Paste)) or event.is_forwarded:
            await super().on_event(event)
        elif not self._key_order.holds(event):
            target = self._key_order.target(event)
            await super().on_event(event)
            if target is not None:
                self._key_order.follow(target)

    async def on_key_done(self, message: KeyDone) -> None:
        message.stop()
        await self._key_order.arrived(message)

    def get_default_screen(self) -> Screen[Any]:
        """The checkpoint itself, if there is something of it to show already."""
        if self._preview is None:
            return Screen(id="_default")
        return MainScreen(self._preview)

    def on_mount(self) -> None:
        self.theme_changed_signal.subscribe(self, self._dress_again)
        if self._preview is None:
            gc.freeze()
            gc.enable()
            self._open()

    def watch_app_focus(self, has_focus: bool) -> None:
        """Tell it to the screens that are there: what watches the app is kept by it for longer."""
        for screen in self.screen_stack if has_focus else ():
            if isinstance(screen, MainScreen):
                screen.look_when_back()

    def on_screen_complete(self, event: ScreenComplete) -> None:
        # Only after the first frame: what is imported now would have held it up.
        event.stop()
        # What lives now lives on: to look through it all takes longer than a key may wait.
        gc.freeze()
        gc.enable()
        screen = self.screen_stack[0]
        if isinstance(screen, MainScreen) and screen.loaded is None and self._loading is None:
            self._loading = self._start_loading()
            self._poll()

    def _start_loading(self) -> Loading:
        from inspector.tui.session import Loading

        prefetched, self._prefetched = self._prefetched, None
        return Loading(self._path, prefetched=prefetched).start()

    def _poll(self) -> None:
        """Wait for what the preview promised."""
        if self._loading is None:
            return
        if self._loading.outcome is None:
            after(self, _POLL_S, self._poll)
            return
        from inspector.tui.session import Loaded

        outcome, self._loading.outcome = self._loading.outcome, None
        screen = self.screen_stack[0]
        if isinstance(outcome, Loaded) and isinstance(screen, MainScreen):
            screen.show(outcome)
        else:
            self._show(outcome)

    def _open(self) -> None:
        if not self._path:
            self._ask_path(os.path.join(os.getcwd(), ""))
            return
        from inspector.tui.screens.loading import LoadingScreen

        self.push_screen(LoadingScreen(self._start_loading()), self._show)

    def _ask_path(self, value: str) -> None:
        from inspector.tui.folder.ask_path import AskPathScreen

        self._asked = value
        question = "Open a checkpoint, or a folder with checkpoints under it:"
        self.push_screen(AskPathScreen(question, value, does="opens"), self._answered)

    def _answered(self, path: str | None) -> None:
        from inspector.tui.folder.ask_path import expanded

        if not path:
            self.exit(2)  # Nothing was looked at.
            return
        self._asked, self._path = path, expanded(path)
        self._open()

    def _show(self, outcome: object) -> None:
        from inspector.tui.session import Folder, Loaded

        if isinstance(outcome, Loaded):
            self.push_screen(MainScreen(outcome))
        elif isinstance(outcome, Folder):
            from inspector.tui.folder.picker import PickerScreen

            self.push_screen(PickerScreen(outcome))
        elif isinstance(outcome, Cancelled) or outcome is None:
            if self._asked:
                self._ask_path(self._asked)
            else:
                self.exit(2)
        elif isinstance(outcome, InspectError):
            from inspector.tui.screens.error import ErrorScreen

            self._failed = True
            self.push_screen(
                ErrorScreen(outcome, can_go_back=bool(self._asked), path=self._path),
                self._after_error,
            )

    def _after_error(self, answer: str | None) -> None:
        if answer == "above":
            from inspector.tui.screens.error import folder_above

            self._path = folder_above(self._path)
        if answer in ("again", "above"):
            self._failed = False
            self._open()
        elif answer == "back":
            self._failed = False
            self._ask_path(self._asked)

    def _fatal_error(self) -> None:
        # Textual would print a traceback with every local variable; `run_to_end` raises it.
        self._close_messages_no_wait()

    def run_to_end(self) -> int | None:
        """Run until the user leaves; the exit code.

        Raises:
            Exception: A bug; the terminal is as it was before.
        """
        self._is_last = True
        # Checks run in a thread while keys are pressed: they are to let go of the interpreter soon.
        sys.setswitchinterval(_SWITCH_S)
        self._collector.begin()
        try:
            with ending_in_order(self._end_soon, self._terminal):
                code = self.run()
        finally:
            if self.verification is not None:
                from inspector.tui.verification.control import close

                close(self.verification)
            if not self.closed_actions:  # Who is served writes nothing here.
                self.memory.write()
        if self._exception is not None:
            raise self._exception
        return code

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return not is_closed(self, action) and super().check_action(action, parameters)

    def _terminal(self) -> QuickEscape | None:
        """The terminal that is drawn on, where it is one that can be given back by hand."""
        from inspector.tui.quick_escape import QuickEscape

        return self._driver if isinstance(self._driver, QuickEscape) else None

    def _end_soon(self, code: int) -> None:
        """Leave without a question; called by a signal, between any two instructions."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.exit, code)

    def action_suspend_process(self) -> None:
        """Back to the shell; when it comes back, everything is drawn anew."""
        super().action_suspend_process()
        self.call_later(self._redraw)

    def _redraw(self) -> None:
        self.screen.refresh(layout=True, repaint=True)
        self.refresh(layout=True, repaint=True)

    @property
    def exit_code(self) -> int:
        """What the command ends with if the user leaves now."""
        return 2 if self._failed else 0

    async def action_quit(self) -> None:
        run, code = self.verification, self.exit_code
        if run is None or not run.is_alive:
            self.exit(code)
            return
        from inspector.tui.verification.control import AskScreen, ask_to_leave

        if not isinstance(self.screen, AskScreen):
            ask_to_leave(self, run, lambda: self.exit(code))

    def on_unmount(self) -> None:
        if self._is_last:
            # Threads that wait for a remote storage would hold the process until it answers.
            leave()
        if self.verification is not None and self.verification.is_alive:
            self.verification.kill()  # `run_to_end` waits for it: the event loop is not to.

    def action_screenshot(self, filename: str | None = None, path: str | None = None) -> None:
        """Save the screen beside whatever is worked on, but never into what is inspected."""
        note_inspected(self._path)
        try:
            folder = place_outside() if is_inspected(Path.cwd()) else str(Path.cwd())
            saved = self.save_screenshot(filename, path or folder)
        except OSError as error:
            self.notify(f"The picture was not saved: {error.strerror}", severity="error")
        else:
            self.notify(printable(saved), title="The picture was saved", markup=False)

    def action_help(self) -> None:
        from inspector.tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen())

    def action_toggle_theme(self) -> None:
        self.theme = LIGHT.name if self.current_theme.dark else DARK.name

    def _dress_again(self, theme: Theme) -> None:
        if theme.name != self._dressed_in:
            self._dressed_in = theme.name
            dress(self, again=True)
            self.memory.take(theme=own_name(theme.name))

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every command that a key means on this screen now, then Textual's own."""
        told = set()
        for node, binding, _, about in screen.active_bindings.values():
            if about and binding.action not in told and binding.action != "command_palette":
                told.add(binding.action)
                title = f"{binding.description}  ({self.get_key_display(binding)})"
                yield SystemCommand(title, about, self._runner(binding.action, node))
        for own in super().get_system_commands(screen):
            if own.title in ("Theme", "Keys"):
                yield own

    def _runner(self, action: str, node: DOMNode) -> Callable[[], Awaitable[object]]:
        async def run() -> None:
            await self.run_action(action, default_namespace=node)

        return run
