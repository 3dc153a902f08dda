"""Starting and ending the processes that unpickle; and one that serves many small files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

__all__ = ["PACKAGE", "Server", "close", "kill", "start"]

#: Where the child finds the package `inspector`.
PACKAGE = str(Path(__file__).parents[2])

_CHILD = Path(__file__).with_name("child.py")
_PIPE_BYTES = 1 << 20

_current = threading.local()


class Server:
    """A process that answers one request after another, each in a fork of itself.

    Started when it is first needed, so that a thousand small files do not take a thousand
    interpreters. Used by the thread that entered it, and by one `ChildProcess` at a time;
    where there is no fork, by none.
    """

    def __init__(self) -> None:
        self._idle: subprocess.Popen[bytes] | None = None
        self._is_open = False

    @staticmethod
    def current() -> Server | None:
        """The one that this thread entered, or None."""
        return getattr(_current, "server", None)

    def __enter__(self) -> Server:
        self._is_open = hasattr(os, "fork")
        _current.server = self
        return self

    def __exit__(self, *error: object) -> None:
        self._is_open = False
        if Server.current() is self:
            _current.server = None
        if self._idle is not None:
            _end(self._idle)
            self._idle = None

    def take(self) -> subprocess.Popen[bytes] | None:
        """The process, until it is given back."""
        if not self._is_open:
            return None
        process, self._idle = self._idle, None
        if process is not None and process.poll() is not None:
            _end(process)
            process = None
        return process or start("serve", PACKAGE)

    def give_back(self, process: subprocess.Popen[bytes]) -> None:
        """It has answered, and can be asked again."""
        if self._is_open and self._idle is None:
            self._idle = process
        else:
            _end(process)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    """A new child process; with `serve` and `PACKAGE`, one for a `Server`."""
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and file
        [sys.executable, "-I", "-S", str(_CHILD), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if arguments else subprocess.PIPE,
        # Ctrl+C goes to the front end alone, which then ends the child. Its forks are with it in
        # one group.
        start_new_session=True,
    )
    if process.stdout is not None:
        _widen(process.stdout.fileno())
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that answered its last request."""
    kill(process)
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            close(pipe)
    process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its forks, unless it is over."""
    if process.poll() is not None:
        return
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
            return
        except OSError:
            pass  # Not there, or not yet a group: then itself.
    process.kill()


def close(pipe: IO[bytes]) -> None:
    """Close a pipe, whether or not anybody is at its other end."""
    try:
        pipe.close()
    except OSError:
        pass  # What was not written to a dead process.


def _widen(fd: int) -> None:
    """Let a pipe hold more, where the system can."""
    try:
        import fcntl

        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        pass
