"""What a bytes entry holds, where that is a plain value: a number, a text, a list or dict of them.

Read by the same scanner that looks for code: nothing is unpickled. What is not wholly made of
plain values is not shown in part, for half a value is a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing, nullcontext
from itertools import groupby
from typing import Any, NamedTuple

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.model import BytesEntry, Checkpoint
from inspector.checkpoint.payload.scan.feed import PickleError
from inspector.checkpoint.payload.scan.scan import scan
from inspector.checkpoint.payload.source import (
    DataHandle,
    PayloadError,
    RangeSource,
    Source,
    open_file,
)
from inspector.checkpoint.payload.zip import read_directory, small_record
from inspector.checkpoint.payload.zstd import unpacked
from inspector.checkpoint.storage.base import Storage
from inspector.errors import InspectError

__all__ = ["MAX_BYTES", "Literal", "entry_value", "open_value", "read_literal", "read_literals"]


#: Most bytes of a payload that is looked into.
MAX_BYTES = 64 << 10
_MAX_PICKLE_BYTES = 256 << 10
_MAX_ITEMS = 1000
_MAX_DEPTH = 20
_MAX_ENTRIES = 2000
_MAX_REMOTE_ENTRIES = 32


def open_value(source: Source) -> Any:
    """The value of a small zip payload, as constants and symbols; nothing is unpickled.

    Raises:
        PayloadError: It is none, or cannot be parsed, or is larger than a small one.
        StorageError: It cannot be read.
    """
    if not source.read(0, 4) == b"PK\x03\x04":
        raise PayloadError("it is no zip archive")
    records = read_directory(source)
    pickled = next((r for r in records if r.short_name == "data.pkl"), None)
    if pickled is None:
        raise PayloadError("a zip archive is there, but torch.save did not write it (no data.pkl)")
    try:
        return scan(small_record(source, pickled, _MAX_PICKLE_BYTES), keep=True).root
    except PickleError as error:
        raise PayloadError(f"its pickle cannot be read: {error}") from error


class Literal(NamedTuple):
    """A value; None is one, too."""

    value: Any


def entry_value(
    checkpoint: Checkpoint,
    storage: Storage,
    entry: BytesEntry,
    limit: int,
    file: DataHandle | None = None,
) -> Literal | None:
    """What the pickle of a bytes entry says, as `open_value`; None if that cannot be read.

    `limit` is how many bytes it may unpack to; `file` is its file, if that is open already.
    """
    if entry.file < 0 or is_escape(checkpoint.files[entry.file].path):
        return None
    path = checkpoint.files[entry.file].path
    try:
        with closing(open_file(storage, path)) if file is None else nullcontext(file) as opened:
            source = RangeSource(opened, entry.byte_offset, entry.byte_length)
            source.prefetch()
            return Literal(open_value(unpacked(source, entry.transforms, limit)))
    except InspectError:
        return None


def read_literal(
    checkpoint: Checkpoint, storage: Storage, entry: BytesEntry, file: DataHandle | None = None
) -> Literal | None:
    """The plain value that an entry holds; None if it holds another, or cannot be read."""
    if not 0 < entry.byte_length <= MAX_BYTES:
        return None
    found = entry_value(checkpoint, storage, entry, 4 * MAX_BYTES, file)
    return found if found is not None and _is_plain(found.value) else None


def read_literals(
    checkpoint: Checkpoint, storage: Storage, entries: Iterable[int] | None = None
) -> dict[int, Literal]:
    """Of some bytes entries those that hold plain values, by index; of very many, the first."""
    chosen = range(len(checkpoint.bytes_entries)) if entries is None else list(entries)
    is_local = storage.local_path("") is not None
    limit = _MAX_ENTRIES if is_local else _MAX_REMOTE_ENTRIES
    found: dict[int, Literal] = {}
    entry_of = checkpoint.bytes_entries
    for number, indices in groupby(list(chosen)[:limit], lambda index: entry_of[index].file):
        if number < 0 or is_escape(checkpoint.files[number].path):
            continue
        try:
            file = open_file(storage, checkpoint.files[number].path)
        except InspectError:
            continue
        with closing(file):
            for index in indices:
                literal = read_literal(checkpoint, storage, entry_of[index], file)
                if literal is not None:
                    found[index] = literal
    return found


def _is_plain(root: Any) -> bool:
    """Whether a scanned value is made of literals alone, not too many and not too deep."""
    pending, count = [(root, 0)], 0
    while pending:
        value, depth = pending.pop()
        count += 1
        if count > _MAX_ITEMS or depth > _MAX_DEPTH:
            return False
        kind = type(value)
        if kind in (list, tuple):
            pending += [(item, depth + 1) for item in value]
        elif kind is dict:
            pending += [(item, depth + 1) for pair in value.items() for item in pair]
        elif kind not in (int, float, str, bool, type(None)):
            return False
    return True
