"""Bytes on storage -> `Checkpoint`. Imports neither torch nor textual."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inspector.checkpoint.child.isolated import Progress
    from inspector.checkpoint.model import Checkpoint

__all__ = ["open_checkpoint"]


def open_checkpoint(path: str, *, progress: Progress | None = None) -> Checkpoint:
    """Read the checkpoint at a path or URL.

    Args:
        path: The folder that holds `.metadata`, `__R.metadata` or safetensors files, or one of
            those files.
        progress: Called with (bytes done, bytes in all) while the metadata is read; returns
            True to cancel.

    Raises:
        InspectError: It cannot be read; the message says why, the hint what to do.
    """
    # Not at the top: the child process that unpickles imports this package without numpy.
    # lazy: who wants a part does without the rest
    from inspector.checkpoint.find.locate import folder_of, read_checkpoint

    return read_checkpoint(folder_of(path), progress=progress)
