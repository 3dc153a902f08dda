"""Start the screen on a path: reading begins before Textual is even imported."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from inspector.checkpoint.isolated import Child

__all__ = ["run"]

# A checkpoint that is read within this time is on the very first frame.
_PATIENCE_S = 0.1


def run(path: str) -> int:
    """Open the screen on `path`; the exit code when it is left."""
    # The child unpickles on one core while this process imports Textual and numpy on another.
    # A thread could not: importing holds the interpreter's lock.
    prefetched = _prefetch(path)
    from inspector.tui.app import InspectApp
    from inspector.tui.session import Loading

    loading = Loading(path, prefetched=prefetched).start()
    loading.wait(_PATIENCE_S)
    code = InspectApp(loading).run()
    return 2 if code is None else code


def _prefetch(path: str) -> Child | None:
    """A child that reads the metadata of a local checkpoint; None if there is none to read."""
    metadata = str(Path(path, ".metadata"))
    try:
        info = os.stat(metadata)
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(info.st_mode) or not info.st_size:
        return None

    return Child([metadata], [None], info.st_size)
