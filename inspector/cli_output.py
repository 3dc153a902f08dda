"""How commands write to stdout: data, whatever the terminal's encoding and width."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from typing import Any

__all__ = ["print_pieces", "terminal_width"]


def terminal_width() -> int | None:
    """Cells of the terminal, or None if stdout is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_pieces(pieces: Iterable[str], end: str = "") -> None:
    """Write pieces of text to stdout, each with `end` after it."""
    # A name may hold what the terminal's encoding lacks; it is shown escaped, not a crash.
    stream: Any = sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    for piece in pieces:
        stream.write(piece + end)
