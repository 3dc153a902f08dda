"""What changed in a checkpoint's folder since it was read: by sizes and times alone."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from inspector.checkpoint.dcp import METADATA, is_escape, rank_metadata
from inspector.checkpoint.model import Checkpoint, DataFile
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.checkpoint.text import plural, printable
from inspector.errors import StorageError

__all__ = ["changes", "is_same_save", "rewritten"]

_MAX_NAMED = 2
#: What a save writes; other files may come and go.
_SAVED = (".distcp", ".safetensors", ".metadata", ".metadata.tmp")


def is_same_save(a: Checkpoint, b: Checkpoint) -> bool:
    """Whether two readings of one folder found the same files, by their sizes and times."""
    return _seen(a) == _seen(b)


def _seen(checkpoint: Checkpoint) -> tuple[object, ...]:
    files = {file.path: (file.num_bytes, file.modified_s) for file in checkpoint.files}
    return files, checkpoint.metadata_bytes, checkpoint.metadata_modified_s


def changes(checkpoint: Checkpoint, storage: Storage) -> str:
    """What is not as it was read, in words: `.metadata, 2 data files are gone`; empty if nothing.

    Raises:
        StorageError: The folder cannot be listed (any more).
    """
    if not storage.has_listing:
        return _without_listing(checkpoint, storage)
    listing = storage.list()
    found = {entry.name: entry for entry in listing}
    parts = _metadata(checkpoint, listing)
    # What lies outside the folder is looked at by nobody.
    files = [file for file in checkpoint.files if not is_escape(file.path)]
    paths = [posixpath.normpath(file.path) for file in files]
    nested = [path for path in paths if path not in found]
    found.update(_found(nested, storage.stat_all(nested)) if nested else {})
    gone, other = [], []
    for file, path in zip(files, paths, strict=True):
        entry = found.get(path)
        if entry is None or entry.kind != "file":
            if file.num_bytes is not None:
                gone.append(file.path)
        elif _differs(file, entry):
            other.append(file.path)
    for entry in listing:
        before = checkpoint.folder_files.get(entry.name)
        if entry.name.endswith(".index.json") and before not in (None, entry.num_bytes):
            other.append(entry.name)
    known = {*paths, *checkpoint.folder_files, METADATA}
    new = [
        entry.name
        for entry in listing
        if entry.kind == "file" and entry.name.endswith(_SAVED) and entry.name not in known
    ]
    for names, what in ((gone, "gone"), (other, "changed"), (new, "new")):
        if names:
            parts.append(f"{_named(names)} {'is' if len(names) == 1 else 'are'} {what}")
    return ", ".join(parts)


def rewritten(checkpoint: Checkpoint, storage: Storage, files: Iterable[int]) -> list[int]:
    """Those of some data files, by index, that somebody wrote to since the checkpoint was read.

    A remote storage tells by itself (`storage.bounds.Tags`).
    """
    if storage.local_path("") is None:
        return []
    changed = []
    for index in files:
        file = checkpoint.files[index]
        if file.num_bytes is None or file.modified_s is None:
            continue
        try:
            now = storage.stat(file.path)
        except StorageError:
            now = None
        if now is None or (now.num_bytes, now.modified_s) != (file.num_bytes, file.modified_s):
            changed.append(index)
    return changed


def _without_listing(checkpoint: Checkpoint, storage: Storage) -> str:
    """Where each file costs a request of its own, the metadata stands for all of them."""
    if checkpoint.format != "dcp" or checkpoint.per_rank_metadata:
        return ""
    there = [entry for entry in storage.stat_all([METADATA]) if entry is not None]
    return ", ".join(_metadata(checkpoint, there))


def _metadata(checkpoint: Checkpoint, listing: list[Entry]) -> list[str]:
    if checkpoint.format != "dcp":
        return []  # Its headers lie in the data files.
    if checkpoint.per_rank_metadata:
        sources, name = list(rank_metadata(listing).values()), "the ranks' metadata"
    else:
        sources, name = [e for e in listing if e.name == METADATA], METADATA
    if not sources:
        return [f"{name} is gone"]
    times = [entry.modified_s for entry in sources if entry.modified_s is not None]
    before, now = checkpoint.metadata_modified_s, max(times, default=None)
    is_later = before is not None and now is not None and before != now
    sizes = [entry.num_bytes for entry in sources]
    # The number of a sole file; of several it counts what was read of them.
    is_resized = len(sizes) == 1 and sizes[0] not in (None, checkpoint.metadata_bytes)
    return [f"{name} changed"] if is_later or is_resized else []


def _found(paths: Iterable[str], entries: Iterable[Entry | None]) -> dict[str, Entry]:
    return {path: entry for path, entry in zip(paths, entries, strict=True) if entry is not None}


def _differs(file: DataFile, entry: Entry) -> bool:
    if file.num_bytes != entry.num_bytes:
        return True
    return None not in (file.modified_s, entry.modified_s) and file.modified_s != entry.modified_s


def _named(names: list[str]) -> str:
    shown = ", ".join(printable(name, 60) for name in names[:_MAX_NAMED])
    return shown if len(names) <= _MAX_NAMED else plural(len(names), "data file")
