"""Whether all that a checkpoint holds can be seen at all."""

from __future__ import annotations

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import plural, printable

__all__ = ["missing_parts"]


def missing_parts(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Files that should tell of further tensors and do not, in words; none for most.

    Of a safetensors checkpoint every file tells of its own tensors. Where one is not there or
    cannot be read, nobody knows what the whole would be: it is not to be called the same as
    another, nor sealed. Printable.
    """
    stored = checkpoint.stored
    if stored is None:
        return ()
    parts = []
    for path, number in stored.missing.items():
        what = "" if number is None else f", with {plural(number, 'tensor')}"
        parts.append(f"{printable(path, 120)} is not there{what}")
    parts += [f"{printable(u.path, 120)} cannot be read: {u.what}" for u in stored.unread]
    parts += [f"{printable(path, 120)} lies outside the folder" for path in stored.escapes]
    return tuple(parts)
