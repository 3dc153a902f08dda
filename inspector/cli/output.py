"""How commands write to stdout: data, whatever the terminal's encoding and width."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from typing import Any

__all__ = [
    "drop_stdout",
    "has_screen",
    "print_pieces",
    "terminal_width",
    "unreached",
    "write_lines",
]

# The summary is shown before a table is made, which may take seconds.
_PROMPT_PIECES = 32


def has_screen() -> bool:
    """Whether there is a terminal that can show the screen.

    Textual draws on stderr, reads stdin, and starts on a dumb terminal as well.
    """
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return all(stream and stream.isatty() for stream in streams) and os.environ.get(
        "TERM", ""
    ) not in (
        "",
        "dumb",
    )


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


def drop_stdout() -> None:
    """Let stdout lead nowhere: what is left in its buffer would fail once more at Python's end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def unreached() -> int:
    """Say that the answer is not all of it, since a storage did not answer; the exit code."""
    sys.stderr.write("hsdp-inspect: the storage did not answer for everything; run it again\n")
    return 2
