"""A folder with `.metadata` and `__R_N.distcp` files -> `Checkpoint`.

Format: torch/distributed/checkpoint/{metadata,filesystem}.py of torch 1.13 to 2.15.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inspector.checkpoint import torch_checkpointing
from inspector.checkpoint.child.isolated import Child, Early, Progress
from inspector.checkpoint.model import (
    BytesEntry,
    Checkpoint,
    DataFile,
    Malformed,
    Orphan,
    Provenance,
    TensorColumns,
    file_rank,
)
from inspector.checkpoint.own_folders import temporary_folder
from inspector.checkpoint.signatures import COMPRESSED, SIGNATURES, UNPACK
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.checkpoint.storage.opening import fetch_files
from inspector.checkpoint.text import plural, printable
from inspector.checkpoint.torch_checkpointing import is_torch_checkpointing
from inspector.checkpoint.workers import until
from inspector.errors import MetadataError, NotACheckpointError, StorageError

__all__ = ["METADATA", "is_escape", "rank_metadata", "read_dcp"]

METADATA = ".metadata"
_RANK_METADATA = re.compile(r"__(\d{1,9})\.metadata\Z")

# Payloads that are summed up together.
_SUM_BLOCK = 1 << 16

_OTHER_METADATA = re.compile(r"it holds an? (\w+)\.[\w.]*Metadata, not DCP")
# First bytes of files that are mistaken for a metadata pickle, and what they are.
_SIGNATURES = (
    *SIGNATURES,
    (b"PK\x03\x04", "a zip archive, as torch.save writes", "open it with torch.load"),
    (b"{", "JSON", ""),
)


def rank_metadata(entries: list[Entry]) -> dict[int, Entry]:
    """The per-rank metadata files (`__R.metadata`) of a listing, by rank."""
    found = {int(m[1]): e for e in entries if (m := _RANK_METADATA.match(e.name))}
    return dict(sorted(found.items()))


def is_escape(path: str) -> bool:
    """True if a data file's path leaves the checkpoint folder: absolute, `..`, NUL or a drive."""
    return (
        path.startswith(("/", "\\"))
        or "\0" in path
        or ".." in re.split(r"[/\\]", path)
        or bool(re.match(r"[A-Za-z]:", path))
        or "://" in path
    )


def read_dcp(
    storage: Storage,
    *,
    progress: Progress | None = None,
    prefetched: Child | None = None,
    metadata: str = METADATA,
    early: Early | None = None,
) -> Checkpoint:
    """Read the checkpoint in a folder: one listing, and its metadata.

    Args:
        storage: The folder.
        progress: Told the bytes read; may cancel.
        prefetched: A child that already reads this metadata; another's is stopped.
        metadata: Name of the metadata file (`.metadata.tmp` of a save that did not finish).
        early: Given the first entries of a large file while the rest is read.

    Raises:
        NotACheckpointError: There is no metadata.
        MetadataError: It cannot be read.
        StorageError: The folder cannot be listed.
        Cancelled: `progress` said so.
    """
    try:
        return _read(storage, progress, prefetched, metadata, early)
    finally:
        if prefetched is not None:
            prefetched.stop()


def _read(
    storage: Storage,
    progress: Progress | None,
    prefetched: Child | None,
    metadata: str,
    early: Early | None,
) -> Checkpoint:
    listing = storage.list()
    by_name = {entry.name: entry for entry in listing}
    ranks: list[int | None]
    if metadata in by_name:
        sources, ranks = [by_name[metadata]], [None]
    else:
        per_rank = rank_metadata(listing)
        if not per_rank:
            raise _no_metadata(storage, listing)
        sources, ranks = list(per_rank.values()), list(per_rank)
    header, arrays = _unpickle(storage, sources, ranks, progress, prefetched, early)
    num_bytes = sum(s.num_bytes or 0 for s in sources)
    return _checkpoint(storage, listing, header, arrays, sources, num_bytes)


def _unpickle(
    storage: Storage,
    sources: list[Entry],
    ranks: list[int | None],
    progress: Progress | None,
    prefetched: Child | None,
    early: Early | None,
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    for source in sources:
        where = printable(f"{storage.root}/{source.name}")
        if source.kind != "file":
            reason = source.problem or "it is a folder"
            raise MetadataError(f"{where} cannot be read: {reason}")
        if source.num_bytes == 0:
            raise MetadataError(
                f"{where} is empty",
                "the save was cut short: take an earlier checkpoint",
                code="metadata-truncated",
            )
    num_bytes = sum(s.num_bytes or 0 for s in sources)
    paths = [storage.local_path(s.name) for s in sources]
    local = [path for path in paths if path is not None]
    try:
        if len(local) == len(sources):
            if prefetched is None or prefetched.paths != local:
                prefetched = Child(local, ranks, num_bytes)
            return prefetched.result(progress, early)
        with temporary_folder() as folder:
            fetched = [str(Path(folder, str(i))) for i in range(len(sources))]
            with until(_fetching(storage, num_bytes, progress)):
                fetch_files(storage, sources, fetched)
            return Child(fetched, ranks, num_bytes).result(progress, early)
    except MetadataError as error:
        raise _explained(storage, sources, error) from error


def _fetching(storage: Storage, num_bytes: int, progress: Progress | None) -> Callable[[], bool]:
    """Tells how much of the metadata has come by now; True if fetching it was cancelled."""
    used = storage.used
    before = used.num_bytes if used is not None else 0

    def tell() -> bool:
        done = used.num_bytes - before if used is not None else 0
        return progress is not None and progress(min(done, num_bytes), num_bytes)

    return tell


def _explained(storage: Storage, sources: list[Entry], error: MetadataError) -> MetadataError:
    """The error, with the file's name and, if its first bytes tell, what it really is."""
    name = sources[0].name if len(sources) == 1 else "__R.metadata"
    where = printable(f"{storage.root}/{name}")
    if error.code == "metadata-unsafe":
        return MetadataError(f"{where}: {printable(error.message)}", error.hint, code=error.code)
    try:
        start = storage.read(sources[0].name, 0, 64)
    except StorageError as unreadable:
        return MetadataError(unreadable.message, unreadable.hint)
    if start.strip(b"\0") == b"":
        return MetadataError(
            f"{where} holds only zeros",
            "the file was never written out (a full disk, or a crash): take an earlier checkpoint",
        )
    for signature, what, hint in _SIGNATURES:
        if start.startswith(signature):
            return MetadataError(f"{where} is {what}, not DCP metadata", hint)
    hint = error.hint
    other = _OTHER_METADATA.match(error.message)
    if other is not None and other[1] not in ("torch", "builtins"):
        # ByteCheckpoint calls its own the same, beside .distcp files of bare elements.
        hint = f"this is a checkpoint of the package {printable(other[1], 60)}: load it with that"
    elif other is not None and other[1] == "torch" and error.code == "metadata-unreadable":
        hint = hint or "no torch known here (up to 2.15) writes this: load it with the one that did"
    if error.code == "metadata-truncated":
        hint = hint or "the copy or the save was cut short: compare its size with the original's"
    return MetadataError(f"{where}: {printable(error.message)}", hint, code=error.code)


def _no_metadata(storage: Storage, listing: list[Entry]) -> NotACheckpointError:
    where = printable(storage.root)
    names = {entry.name for entry in listing}
    data = [n for n in names if n.endswith(".distcp")]
    if METADATA + ".tmp" in names:
        return NotACheckpointError(
            f"{where}: the save has not finished (only .metadata.tmp is there)",
            "if no save is running any more and that file is complete, renaming it to .metadata "
            "repairs the checkpoint",
            code="save-unfinished",
        )
    # lazy: what is a checkpoint looks like no other
    from inspector.checkpoint.lookalike import lookalike, lookalike_below

    other = lookalike(listing)
    if other is not None:
        return NotACheckpointError(f"{where}: no .metadata; this is {other.what}", other.hint)
    packed = sorted(METADATA + ending for ending in COMPRESSED if METADATA + ending in names)
    if packed:
        return NotACheckpointError(f"{where}: no {METADATA}, but {packed[0]}", UNPACK)
    if data:
        hint = ".metadata is written last: a save is running or broke off, or a copy left it out"
        renamed = sorted(name for name in names if name.casefold().lstrip("._") == "metadata")
        if renamed:
            hint = f"{printable(renamed[0])} is there: if it was named {METADATA}, name it so again"
        return NotACheckpointError(
            f"{where}: {plural(len(data), 'data file')}, but no .metadata", hint
        )
    if not names:
        return NotACheckpointError(f"{where} is an empty folder")
    if is_torch_checkpointing(storage, listing):
        return NotACheckpointError(f"{where}: {torch_checkpointing.WHAT}", torch_checkpointing.HINT)
    below = lookalike_below(storage, listing)
    if below is not None:
        path, other = below
        what = f"{where}: no checkpoint here (no .metadata in it); {printable(path)} in it is"
        return NotACheckpointError(f"{what} {other.what}", other.hint)
    return NotACheckpointError(
        f"{where}: no checkpoint here (no .metadata in it)",
        "give the folder that holds .metadata, or one with checkpoints under it",
    )


def _checkpoint(
    storage: Storage,
    listing: list[Entry],
    header: dict[str, Any],
    arrays: dict[str, npt.NDArray[Any]],
    sources: list[Entry],
    metadata_bytes: int,
) -> Checkpoint:
    columns = TensorColumns(
        fqns=header["tensors"],
        properties=[tuple(p) for p in header["properties"]],
        transforms={i: tuple(names) for i, *names in header["transforms"]},
        **{name: array for name, array in arrays.items() if name != "order"},
    )
    entries = tuple(
        BytesEntry(fqn, file, offset, length, tuple(transforms), rank)
        for fqn, file, offset, length, rank, transforms in header["bytes"]
    )
    modified = [s.modified_s for s in sources if s.modified_s is not None]
    return Checkpoint(
        path=storage.root,
        format="dcp",
        columns=columns,
        bytes_entries=entries,
        files=_data_files(storage, listing, header["files"], columns, entries),
        order=arrays["order"],
        provenance=_provenance(header),
        state_paths=header["state_paths"],
        per_rank_metadata=_RANK_METADATA.match(sources[0].name) is not None,
        malformed=tuple(Malformed(*entry) for entry in header["malformed"]),
        orphans=tuple(
            Orphan(fqn, None if box is None else tuple(box), file, offset, length)
            for fqn, box, file, offset, length in header["orphans"]
        ),
        unknown_globals=tuple(header["unknown"]),
        unsafe_globals=tuple(header["unsafe"]),
        trailing_bytes=header["trailing_bytes"],
        metadata_bytes=metadata_bytes,
        metadata_modified_s=max(modified, default=None),
        folder_files={e.name: e.num_bytes or 0 for e in listing if e.kind == "file"},
    )


def _data_files(
    storage: Storage,
    listing: list[Entry],
    names: list[str],
    columns: TensorColumns,
    entries: tuple[BytesEntry, ...],
) -> tuple[DataFile, ...]:
    """Files the metadata names, then the other data files of the folder."""
    files = np.asarray([e.file for e in entries], np.int32)
    lengths = np.asarray([e.byte_length for e in entries], np.int64)
    (payloads, referenced), of_entries = (
        _sums(columns.file, columns.byte_length, len(names)),
        _sums(files, lengths, len(names)),
    )
    payloads += of_entries[0]
    referenced += of_entries[1]
    known = _stat_all(storage, listing, names)
    stored = [
        DataFile(
            name,
            file_rank(name),
            entry.num_bytes if entry is not None and entry.kind == "file" else None,
            int(referenced[i]),
            int(payloads[i]),
            entry.modified_s if entry is not None else None,
        )
        for i, (name, entry) in enumerate(zip(names, known, strict=True))
    ]
    mentioned = {posixpath.normpath(name) for name in names}
    others = [
        DataFile(e.name, file_rank(e.name), e.num_bytes, 0, 0, e.modified_s)
        for e in listing
        if e.kind == "file" and e.name.endswith(".distcp") and e.name not in mentioned
    ]
    return tuple(stored + others)


def _sums(
    files: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64], count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many payloads each file holds, and the sum of their lengths, which wraps in 64 bits.

    Exact, though `bincount` adds floats: each half of a number is below 2 ** 31, so that a block of
    them sums below 2 ** 53.
    """
    payloads, total = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for first in range(0, len(files), _SUM_BLOCK):
        file, number = files[first : first + _SUM_BLOCK], lengths[first : first + _SUM_BLOCK]
        # -1 (stored nowhere) falls on the extra last place.
        slots = np.where(file < 0, count, file)
        payloads += np.bincount(slots, minlength=count + 1)[:count]
        low = np.bincount(slots, number & 0x7FFFFFFF, count + 1).astype(np.int64)
        high = np.bincount(slots, number >> 31, count + 1).astype(np.int64)
        total += (low + (high << 31))[:count]
    return payloads, total


def _stat_all(storage: Storage, listing: list[Entry], names: list[str]) -> list[Entry | None]:
    """What lies at each data file's path; folders below are listed once each."""
    known = {entry.name: entry for entry in listing}
    if not storage.has_listing:
        paths = [posixpath.normpath(name) for name in names if not is_escape(name)]
        known |= {e.name: e for e in storage.stat_all(paths) if e is not None}
        return [None if is_escape(name) else known.get(posixpath.normpath(name)) for name in names]
    listed = {""}
    found: list[Entry | None] = []
    for name in names:
        path = "" if is_escape(name) else posixpath.normpath(name)
        folder = posixpath.dirname(path)
        if folder not in listed and path not in known:
            listed.add(folder)
            try:
                known.update({f"{folder}/{e.name}": e for e in storage.list(folder)})
            except StorageError:
                pass  # A missing folder: its files are missing, and shown so.
        found.append(known.get(path))
    return found


def _provenance(header: dict[str, Any]) -> Provenance:
    band, evidence = _torch_band(header)
    notes = []
    for name, module in header["modules"].items():
        package = module.partition(".")[0]
        if package not in ("torch", "builtins", "__builtin__", "pathlib", "collections", "_codecs"):
            notes.append(f"{name} of {module}")
    notes += [f"extra field {name}" for name in header["extra"]]
    return Provenance(
        protocol=header["protocol"] or 0,
        torch_band=band,
        torch_evidence=evidence,
        metadata_version=header["version"],
        notes=tuple(notes),
        fields=tuple(header["fields"]),
        classes=tuple(f"{module}.{name}" for name, module in header["modules"].items()),
        num_plans=header["num_plans"],
    )


def _torch_band(header: dict[str, Any]) -> tuple[str | None, str]:
    """Which torch versions write such a pickle (their dataclass fields and module paths)."""
    modules, fields = header["modules"], header["fields"]
    metadata = modules.get("Metadata", "")
    properties = modules.get("TensorProperties", "")
    if "_shard.checkpoint" in metadata:
        return "1.13", "classes of torch.distributed._shard.checkpoint"
    count = header["num_properties"]
    if count is not None and count > 5:
        return "2.15 or later", f"tensor properties of {count} values"
    if "version" in fields:
        if count is None:
            return "2.9 or later", "the metadata has a version field"
        return "2.9 to 2.14", "a version field, tensor properties of 5 values"
    if header["has_modules"]:
        return "2.7 to 2.8", "storage_meta lists modules, there is no version field"
    if "storage_meta" in fields:
        return "2.4 to 2.6", "a storage_meta without modules"
    if "_shard.sharded_tensor" in properties:
        return "2.0 to 2.2", "TensorProperties of torch.distributed._shard.sharded_tensor"
    if properties:
        return "2.3", "TensorProperties of its own, no storage_meta"
    if metadata:
        return "2.0 to 2.3", "no storage_meta (and no tensor to tell more)"
    return None, ""
