"""What lies in one data file, in byte order; and which files could tell of more, and do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inspector.checkpoint.model import Checkpoint, Ints
from inspector.checkpoint.text import plural, printable

__all__ = ["FileContents", "file_contents", "missing_files", "missing_parts"]


@dataclass(frozen=True, slots=True, eq=False)
class FileContents:
    """The payloads of one file, sorted by where they start.

    Attributes:
        entry: Tensor index, or `num_tensors` + index of the bytes entry, shape (num_payloads,).
        chunk: Chunk number inside the tensor; 0 for a bytes entry.
        byte_offset, byte_length: Where each payload lies in the file.
    """

    entry: Ints
    chunk: Ints
    byte_offset: Ints
    byte_length: Ints


def file_contents(checkpoint: Checkpoint, file: int) -> FileContents:
    """Everything the metadata places in `checkpoint.files[file]`."""
    columns = checkpoint.columns
    chunks = np.flatnonzero(columns.file == file)
    tensors = np.searchsorted(columns.chunk_start, chunks, side="right") - 1
    entries = [
        (columns.num_tensors + i, entry.byte_offset, entry.byte_length)
        for i, entry in enumerate(checkpoint.bytes_entries)
        if entry.file == file
    ]
    extra = np.asarray(entries, np.int64).reshape(len(entries), 3)
    entry = np.concatenate([tensors, extra[:, 0]])
    chunk = np.concatenate(
        [chunks - columns.chunk_start[tensors], np.zeros(len(entries), np.int64)]
    )
    offset = np.concatenate([columns.byte_offset[chunks], extra[:, 1]])
    length = np.concatenate([columns.byte_length[chunks], extra[:, 2]])
    order = np.lexsort((entry, offset))
    return FileContents(entry[order], chunk[order], offset[order], length[order])


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
