"""What commands share: how they read a checkpoint, write to stdout, and are told to end.

What goes to stdout is data, whatever the terminal's encoding and width.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from inspector.errors import InspectError, UsageError

if TYPE_CHECKING:
    from inspector.checkpoint.child.isolated import Child
    from inspector.checkpoint.model import Checkpoint
    from inspector.checkpoint.storage.base import Storage

__all__ = [
    "Destination",
    "command_line",
    "drop_stdout",
    "has_screen",
    "on_end",
    "only_own_commands",
    "prefetched",
    "print_pieces",
    "read_one",
    "terminal_width",
    "unreached",
    "write_file",
    "write_lines",
]

_ENDS = ("SIGINT", "SIGTERM", "SIGHUP")
# The summary is shown before a table is made, which may take seconds.
_PROMPT_PIECES = 32


@contextmanager
def prefetched(path: str) -> Iterator[Child | None]:
    """Metadata on its way while the rest is imported; whatever happens, its child ends."""
    from inspector.checkpoint.child.isolated import prefetch

    child = prefetch(path)
    try:
        yield child
    finally:
        if child is not None:
            child.stop()


def read_one(storage: Storage, child: Child | None = None) -> Checkpoint:
    """Read a checkpoint, with a line of progress on a terminal if it takes long."""
    from inspector.checkpoint.find.locate import read_checkpoint
    from inspector.report.progress import ReadingLine

    with ReadingLine(sys.stderr) as line:
        return read_checkpoint(storage, progress=line, prefetched=child)


@contextmanager
def on_end(
    told: Callable[[int, FrameType | None], object], names: Iterable[str] = _ENDS
) -> Iterator[None]:
    """While it lasts, signals that end a process call `told`; an ignored one (`nohup`) stays so."""
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, told)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def has_screen() -> bool:
    """Whether there is a terminal that can show the screen.

    Textual draws on stderr, reads stdin, and starts on a dumb terminal as well.
    """
    streams = (sys.stdin, sys.stdout, sys.stderr)
    is_terminal = all(stream and stream.isatty() for stream in streams)
    return is_terminal and os.environ.get("TERM", "") not in ("", "dumb")


def terminal_width() -> int | None:
    """Cells of the terminal, or None if stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_pieces(pieces: Iterable[str], end: str = "") -> None:
    """Write pieces of text to stdout, each with `end` after it.

    If the reader of a pipe goes away (`| head`), the rest is left out without a word: what the
    command has found out, and its exit code, do not hang on who reads it.
    """
    write_lines(f"{piece}{end}" for piece in pieces)


def write_lines(lines: Iterable[str]) -> bool:
    """Write text to stdout and flush it.

    Returns:
        False if nobody reads it any more; from then on stdout leads nowhere.
    """
    # A name may hold what the terminal's encoding lacks; it is shown escaped, not a crash.
    stream: Any = sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    try:
        for number, line in enumerate(lines):
            stream.write(line)
            if number < _PROMPT_PIECES:
                stream.flush()
        stream.flush()
    except BrokenPipeError:
        drop_stdout()
        return False
    return True


_COMMAND = re.compile(r"^(\s*):(?=:)", re.MULTILINE)
_OLD_COMMAND = re.compile(r"##(?=\[)")


class _NoCommands(io.TextIOWrapper):
    """A stream of which GitHub's runner takes no line for a command, whatever it holds.

    The runner obeys a line that begins with `::`, and the old form `##[` wherever it stands
    (actions/runner, ActionCommand.cs). The escapes mean the same characters in JSON.
    """

    _is_start = True
    has_commands = False

    def write(self, text: str) -> int:
        if not self.has_commands:
            text = _OLD_COMMAND.sub(r"#\\u0023", text)
            begun = "" if self._is_start else "-"
            text = _COMMAND.sub(r"\1\\u003a", begun + text)[len(begun) :]
        line = text.rpartition("\n")[2]
        self._is_start = not line.strip() and (self._is_start or "\n" in text)
        return super().write(text)


def only_own_commands() -> None:
    """Where GitHub's runner reads what is written, let no name from a checkpoint command it."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, _NoCommands):
            own = _NoCommands(
                stream.detach(),
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering or name == "stderr",
            )
            setattr(sys, name, own)


def drop_stdout() -> None:
    """Let stdout lead nowhere: what is left in its buffer would fail once more at Python's end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def unreached() -> int:
    """Say that the answer is not all of it, since a storage did not answer; the exit code."""
    sys.stderr.write("hsdp-inspect: the storage did not answer for everything; run it again\n")
    return 2


def command_line() -> str:
    """The command line that runs, as a shell takes it, with what may be a secret hidden."""
    from inspector.checkpoint.text import redact

    return " ".join(["hsdp-inspect", *(shlex.quote(redact(arg)) for arg in sys.argv[1:])])


class Destination:
    """Where a command's answer goes: to stdout, or into the file that `--output` names.

    Raises:
        UsageError: The file lies in what is looked at, or cannot be one.
    """

    def __init__(self, output: str | None, paths: Iterable[str]) -> None:
        self._output = output
        if output is None:
            return
        from inspector.checkpoint.outside import refuse_inside, without_scheme
        from inspector.checkpoint.text import printable

        if not output or os.path.isdir(output):
            raise UsageError(f"--output {printable(output)!r} is no file", "--output takes a file")
        closed = []
        for path in map(without_scheme, paths):
            # Of a file in a checkpoint (`.metadata`, one of safetensors) the folder is meant.
            places = (path, os.path.realpath(path)) if os.path.isfile(path) else ()
            closed += [os.path.dirname(place) or "." for place in places] or [path]
        refuse_inside("--output", output, closed)

    @property
    def width(self) -> int | None:
        """Cells of the terminal that it goes to; None if it goes to none."""
        return terminal_width() if self._output is None else None

    def write(self, pieces: Iterable[str], end: str = "", *, has_commands: bool = False) -> None:
        """Give the answer, each piece with `end` after it.

        Raises:
            InspectError: The file cannot be written.
        """
        if self._output is None:
            if has_commands and isinstance(sys.stdout, _NoCommands):
                sys.stdout.has_commands = True
            print_pieces(pieces, end)
        else:
            write_file("the answer", self._output, (piece + end for piece in pieces))


def write_file(what: str, path: str, pieces: Iterable[str]) -> None:
    """Write text into a file; other names of a file that was there keep what they have.

    Raises:
        InspectError: It cannot be written.
    """
    from inspector.checkpoint.text import printable

    try:
        if os.path.isfile(path) and not os.path.islink(path) and os.stat(path).st_nlink > 1:
            os.unlink(path)
        with open(path, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(pieces)
    except OSError as error:
        raise InspectError(
            f"{what} cannot be written to {printable(path)}: {error.strerror}"
        ) from error
