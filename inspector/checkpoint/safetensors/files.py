"""The index and the headers of a set of safetensors files, fetched and bounded.

The rule this module keeps: a file is read in one request or two, several at a time, and what one
file lacks does not hide the others.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.safetensors.header import (
    MAX_HEADER_BYTES,
    Header,
    HeaderError,
    Unread,
    bounded_json,
    header_bytes,
    parse_header,
)
from inspector.checkpoint.safetensors.sets import FileSet
from inspector.checkpoint.signatures import foreign_kind
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.checkpoint.text import plural
from inspector.errors import StorageError

__all__ = ["Files", "IndexFile", "find_files", "headers", "read_index"]

# Room for the headers of most files, so that one request gets all of it.
_FIRST_BYTES = 64 << 10
_WORKERS = 8
# Headers that are fetched, and not parsed yet.
_AHEAD = 32


@dataclass(frozen=True, slots=True)
class IndexFile:
    """`NAME.safetensors.index.json`: the file of each tensor, and the bytes of all."""

    weight_map: dict[str, str] = field(default_factory=dict)
    total_size: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Files:
    """The data files of a set.

    Attributes:
        paths: Those that are there, in order.
        entries: Each with its entry.
        missing: Those that are not, with how many tensors the index places in each.
        escapes: Those outside the folder, which are not opened.
    """

    paths: list[str]
    entries: dict[str, Entry]
    missing: dict[str, int | None]
    escapes: list[str] = field(default_factory=list)


def read_index(storage: Storage, entry: Entry) -> IndexFile:
    """The index file, or why it is none."""
    try:
        if (entry.num_bytes or 0) > MAX_HEADER_BYTES:
            raise HeaderError(f"it has {entry.num_bytes:,} bytes, more than an index can have")
        fields = bounded_json(storage.read(entry.name, 0, MAX_HEADER_BYTES))
    except HeaderError as error:
        return IndexFile(problem=str(error))
    except StorageError as error:
        return IndexFile(problem=error.message)
    weight_map = fields.get("weight_map") if type(fields) is dict else None
    if type(weight_map) is not dict or any(type(v) is not str for v in weight_map.values()):
        return IndexFile(problem="it has no weight_map from names to files")
    about = fields.get("metadata")
    size = about.get("total_size") if type(about) is dict else None
    # Some tools wrote it as a float.
    if type(size) is float and size.is_integer():
        size = int(size)
    return IndexFile(weight_map, size if type(size) is int else None)


def find_files(storage: Storage, listing: list[Entry], chosen: FileSet, index: IndexFile) -> Files:
    """Where the data files of a set are: those its index names, else those of its names."""
    known = {entry.name: entry for entry in listing}
    if not index.weight_map:
        missing: dict[str, int | None] = dict.fromkeys(chosen.missing)
        return Files(list(chosen.files), {n: known[n] for n in chosen.files}, missing)
    counts: dict[str, int] = {}
    for path in index.weight_map.values():
        counts[path] = counts.get(path, 0) + 1
    files = Files([], {}, {})
    if not storage.has_listing:
        known |= {e.name: e for e in storage.stat_all(counts) if e is not None}
    listed = {""}
    for path in sorted(counts):
        if is_escape(path) or not path:
            files.escapes.append(path)
            continue
        place = posixpath.normpath(path)
        folder = posixpath.dirname(place)
        if folder not in listed and place not in known:
            listed.add(folder)
            try:
                known |= {f"{folder}/{e.name}": e for e in storage.list(folder)}
            except StorageError:
                pass  # Its files are missing, and told so.
        if place in known:
            files.paths.append(path)
            files.entries[path] = known[place]
        else:
            files.missing[path] = counts[path]
    return files


def headers(storage: Storage, files: Files) -> Iterator[tuple[str, Header | Unread]]:
    """Every file with its header, in order; fetched several at once, parsed one by one."""
    rest = iter(files.paths)
    pending: list[tuple[str, Future[bytes | Unread]]] = []
    with ThreadPoolExecutor(min(_WORKERS, len(files.paths)) or 1) as pool:
        try:
            while True:
                while len(pending) < _AHEAD and (path := next(rest, None)) is not None:
                    pending.append((path, pool.submit(_fetch, storage, path, files.entries[path])))
                if not pending:
                    return
                path, future = pending.pop(0)
                text = future.result()
                yield path, text if isinstance(text, Unread) else _parsed(path, text)
        finally:
            for _, future in pending:
                future.cancel()


def _fetch(storage: Storage, path: str, entry: Entry) -> bytes | Unread:
    """A file's header as bytes of JSON."""
    if entry.kind != "file":
        return Unread(path, "file-unreadable", entry.problem or "it is a folder")
    try:
        start = storage.read(path, 0, _FIRST_BYTES)
        if len(start) < 8:
            what = "it is empty" if not start else f"it ends after {plural(len(start), 'byte')}"
            return Unread(path, "file-truncated", what)
        try:
            length = header_bytes(start)
        except HeaderError:
            return _no_header(path, start)
        num_bytes = entry.num_bytes
        if num_bytes is not None and 8 + length > num_bytes:
            what = f"{num_bytes:,} bytes, but its header alone needs {8 + length:,}"
            return Unread(path, "file-truncated", what)
        text = start[8 : 8 + length]
        if len(text) < length:
            text += storage.read(path, len(start), 8 + length - len(start))
    except StorageError as error:
        return Unread(path, "file-unreadable", error.message, error.hint)
    if len(text) < length:
        return Unread(path, "file-truncated", "it ends before its header does")
    return text


def _parsed(path: str, text: bytes) -> Header | Unread:
    try:
        return parse_header(text)
    except HeaderError as error:
        return Unread(path, "file-unreadable", str(error))


def _no_header(path: str, start: bytes) -> Unread:
    """What a file is that does not begin as one of safetensors."""
    hint = ""
    if start.startswith(b"PK\x03\x04") and b"data.pkl" in start[:256]:
        what = (
            "a torch.save payload stands where the header should be, as HuggingFaceStorageWriter "
            "leaves it for a state dict that is not of tensors alone"
        )
        hint = "give that writer tensors alone; those behind the payload can be cut out"
    elif start.startswith(b"PK\x03\x04"):
        what = "it is a zip archive, no safetensors file"
    elif start.count(0) == len(start):
        what = "only zeros are there: it was never written out, or the file has a hole"
    elif start[8:9] == b"{":
        length = int.from_bytes(start[:8], "little")
        what = f"it claims a header of {length:,} bytes; safetensors allows {MAX_HEADER_BYTES:,}"
    else:
        found = foreign_kind(start)
        what = f"it is {found[0]}, no safetensors file" if found else "no header begins there"
        hint = found[1] if found else ""
    return Unread(path, "file-unreadable", what, hint)
