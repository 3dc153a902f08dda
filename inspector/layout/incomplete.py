"""Whether all that a checkpoint holds can be seen at all."""

from __future__ import annotations

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import plural, printable

__all__ = ["missing_files", "missing_parts"]


def missing_parts(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Files that should tell of further tensors and do not, in words; none for most.

    Of a safetensors checkpoint every file tells of its own tensors. Where one is not there or
    cannot be read, nobody knows what the whole would be: it is not to be called the same as
    another, nor sealed. Printable.
    """
    return tuple(f"{printable(path, 120)} {why}" for path, why in missing_files(checkpoint))


def missing_files(checkpoint: Checkpoint) -> tuple[tuple[str, str], ...]:
    """The same as pairs: the file's raw path, and what is wrong with it, printable."""
    stored = checkpoint.stored
    if stored is None:
        return ()
    parts = []
    for path, number in stored.missing.items():
        what = "" if number is None else f", with {plural(number, 'tensor')}"
        parts.append((path, f"is not there{what}"))
    parts += [(unread.path, f"cannot be read: {unread.what}") for unread in stored.unread]
    parts += [(path, "lies outside the folder") for path in stored.escapes]
    return tuple(parts)
