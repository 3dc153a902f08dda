"""`Terminal`: the command in a pseudo-terminal, and the picture that a terminal makes of it.

Nothing here waits for a time: what is waited for is a condition, and the picture is said where it
does not come.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import pyte

from tests.conftest import ROOT

__all__ = ["LEFT_ON", "Terminal"]

LIMIT_S = 300.0
_QUIET_S = 0.03
#: Something that moves never comes to rest: it holds if it is seen so many times in a row.
_HELD = 20

#: What a program turns on in a terminal and has to turn off again: alternate screen, mouse
#: reporting, bracketed paste, reports of the focus.
LEFT_ON = (1049, 1000, 1003, 1006, 1015, 2004, 1004)


class _Picture(pyte.Screen):
    """A screen that passes over what this emulator does not know: the keyboard protocol's words."""

    def report_device_status(self, *args: Any, **flags: Any) -> None:
        pass

    def set_margins(self, *args: Any, **flags: Any) -> None:
        if not flags.get("private"):
            super().set_margins(*args, **flags)

    def select_graphic_rendition(self, *attrs: int, private: bool = False) -> None:
        if not private:
            super().select_graphic_rendition(*attrs)


class Terminal:
    """A process whose terminal this is.

    Args:
        arguments: Of `hsdp-inspect`, or of Python where `module` is empty.
        size: Columns and rows.
        env: Added to the environment; a value of None takes the variable away.
        module: What is run.
    """

    def __init__(
        self,
        *arguments: object,
        size: tuple[int, int] = (80, 24),
        env: Mapping[str, str | None] | None = None,
        module: Sequence[str] = ("-m", "inspector"),
    ) -> None:
        self._screen = _Picture(*size)
        self._stream = pyte.ByteStream(self._screen)
        #: All that was written.
        self.written = b""
        self.status: int | None = None
        surroundings: dict[str, str | None] = {
            **os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor",
            "TEXTUAL_ANIMATIONS": "none",
            # readline, which pytest imports, may have left the size of another terminal.
            "COLUMNS": None, "LINES": None, **(env or {}),
        }  # fmt: skip
        command = [sys.executable, *module, *map(str, arguments)]
        self.fd, other = pty.openpty()
        #: As a shell left it.
        self.attributes = termios.tcgetattr(other)
        self._resize(size)
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, str(ROOT / "tests" / "helpers" / "in_terminal.py"), *command],
            {name: value for name, value in surroundings.items() if value is not None},
            file_actions=[(os.POSIX_SPAWN_DUP2, other, n) for n in (0, 1, 2)],
            setsid=True,
        )
        #: Kept open, so that what is set in the terminal can be asked after its end.
        self.other = other

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            _, self.status = os.waitpid(self.pid, 0)
        for fd in (self.fd, self.other):
            if fd >= 0:
                os.close(fd)
        self.fd = self.other = -1

    # What is typed.

    def send(self, keys: str) -> None:
        """Type."""
        os.write(self.fd, keys.encode())

    def _resize(self, size: tuple[int, int]) -> None:
        packed = struct.pack("HHHH", size[1], size[0], 0, 0)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, packed)

    def resize(self, size: tuple[int, int]) -> None:
        """Give the window another size: columns and rows."""
        self._screen.resize(size[1], size[0])
        self._resize(size)
        if self.status is None:
            os.kill(self.pid, signal.SIGWINCH)

    def hang_up(self) -> None:
        """Close the window."""
        for fd in (self.fd, self.other):
            os.close(fd)
        self.fd = self.other = -1

    # What is seen.

    @property
    def lines(self) -> list[str]:
        """The picture, line by line."""
        return list(self._screen.display)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def size(self) -> tuple[int, int]:
        return self._screen.columns, self._screen.lines

    def cell(self, x: int, y: int) -> Any:
        """A character with its colours (`fg`, `bg`), `bold` and `reverse`."""
        return self._screen.buffer[y][x]

    @property
    def is_raw(self) -> bool:
        """Whether what is typed is neither echoed nor held until enter."""
        lflag = termios.tcgetattr(self.other)[3]
        return not lflag & (termios.ECHO | termios.ICANON)

    def look(self, wait_s: float = 0.1) -> bool:
        """Take what was written meanwhile; whether there was something."""
        if not select.select([self.fd], [], [], wait_s)[0]:
            return False
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError:
            return False
        self.written += data
        self._stream.feed(data)
        return bool(data)

    def until(
        self,
        shows: Callable[[], object],
        limit_s: float = LIMIT_S,
        faults: Callable[[], object] = lambda: "it never came to be",
    ) -> None:
        """Wait for something to be on the screen.

        Args:
            shows: Whether it is.
            limit_s: How long at most, seconds.
            faults: What to say if it is not.

        Raises:
            AssertionError: It never was; says what was there instead.
        """
        end = time.monotonic() + limit_s
        held = 0
        while held < _HELD:
            # What was read may be half of a picture: it is whole when nothing more comes.
            if shows():
                held = held + 1 if self.look(_QUIET_S) else _HELD
                continue
            held = 0
            assert time.monotonic() < end, f"{faults()}:\n{self.text}"
            self.look()

    def is_stopped(self) -> bool:
        """Whether the process was stopped since this was asked last (`^Z`)."""
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        return bool(pid) and os.WIFSTOPPED(status)

    def ended(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the process; its exit code, negative where a signal ended it."""
        end = time.monotonic() + limit_s
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
                break
            assert time.monotonic() < end, f"it did not end:\n{self.text}"
            if self.fd >= 0:
                self.look()
            else:
                time.sleep(0.02)
        while self.fd >= 0 and self.look(0.0):
            pass
        return os.waitstatus_to_exitcode(self.status)

    def left_on(self) -> list[int]:
        """The modes that were turned on and not off again, by what was written."""
        on: set[int] = set()
        for mode in LEFT_ON:
            ups = self.written.rfind(b"\x1b[?%dh" % mode)
            downs = self.written.rfind(b"\x1b[?%dl" % mode)
            if ups > downs:
                on.add(mode)
        return sorted(on)
