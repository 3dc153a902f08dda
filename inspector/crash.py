"""An error that nobody foresaw -> words for the user; its traceback is kept.

A thread has nobody above it, and a screen has no place for a traceback: it lies in a file that the
words name, and `--debug` prints it at the end.
"""

from __future__ import annotations

import sys
import time

from inspector.checkpoint.outside import is_inspected
from inspector.checkpoint.text import printable
from inspector.errors import InspectError

__all__ = ["internal_error", "kept_tracebacks"]

_kept: list[str] = []


def internal_error(error: Exception) -> InspectError:
    """What is said of it: one line, and where its traceback lies."""
    # lazy: its patterns take a millisecond, and hardly anybody ever needs them
    from inspector.redaction import redact_secrets, traceback_text

    said = traceback_text(error)
    _kept.append(said)
    where = _keep(said)
    return InspectError(
        f"internal error: {printable(redact_secrets(f'{type(error).__name__}: {error}'), 300)}",
        "this is a bug: please report it; "
        + (f"its traceback is in {where}" if where else "--debug shows where it happened"),
    )


def kept_tracebacks() -> tuple[str, ...]:
    """Every traceback so far, without secrets."""
    return tuple(_kept)


def _keep(said: str) -> str:
    """The file that holds it now; empty if it could not be written."""
    from platformdirs import user_state_path  # lazy: hardly anybody ever needs it

    try:
        folder = user_state_path("hsdp-inspect", appauthor=False)
        if is_inspected(folder):
            return ""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / "last-error.txt"
        version = sys.version.split()[0]
        path.write_text(f"{time.strftime('%F %T')}, Python {version}\n{said}", "utf-8")
    except (OSError, UnicodeError):
        return ""
    return printable(str(path))
