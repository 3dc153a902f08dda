"""The metadata against the folder: what is missing, cut off, left over or of another time.

The rule this module keeps: it lists and looks at sizes and times; no data file is opened but one
that is too short, whose first bytes may tell what it is.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from inspector.checkpoint.dcp import METADATA, is_escape, rank_metadata
from inspector.checkpoint.find.save_times import Split, split_by_time
from inspector.checkpoint.model import Checkpoint, DataFile, Ints
from inspector.checkpoint.signatures import COMPRESSED, foreign_kind
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.checks.findings import Finding, NotChecked
from inspector.checks.metadata.entries import Entries, total
from inspector.errors import StorageError
from inspector.layout.geometry import unique

__all__ = ["check_files"]

# `__1_0 (1).distcp` of a browser or a file manager, `.__1_0.distcp.Xy12Zz` of rsync.
_COPY = re.compile(r" \(\d{1,3}\)(?=\.[^.]*\Z)")
_RSYNC = re.compile(r"\A\.(.+)\.\w{6}\Z")
_FROM_ANOTHER = "copy the file from the original, or load an earlier checkpoint"
_CUT_SHORT = f"unless a save or a copy is still running, it was cut short: {_FROM_ANOTHER}"
_MAX_NAMED = 8
_MAX_MISSING = 1000

#: What macOS copies of a file's attributes: `._NAME` beside NAME (AppleDouble).
_OF_MACOS = "._"
# What stands in a data file's place is looked for in so many files of a checkpoint.
_MAX_OPENED, _FIRST_BYTES = 64, 64
_FATE_OF_NOTHING = "never reads them: the chunks hold no element"
_LEFTOVER = re.compile(
    r"\.tmp\Z|\.tmp[.-]|\.part(ial)?\Z|\.incomplete\Z|\.crdownload\Z|\.swp\Z|~\Z"
    r"|\A\.nfs[0-9a-f]{8,}\Z|\A\..+\.(distcp|metadata|safetensors)\.[A-Za-z0-9]{6}\Z"
)


def check_files(
    checkpoint: Checkpoint, storage: Storage, entries: Entries
) -> tuple[list[Finding], list[NotChecked]]:
    """All findings about the files of a checkpoint, and what could not be looked at.

    Raises:
        StorageError: The folder cannot be listed.
    """
    listing = storage.list()
    findings: list[Finding] = []
    found = _look(checkpoint, storage, listing, entries, findings)
    there = [
        replace(file, num_bytes=entry.num_bytes, modified_s=entry.modified_s)
        for file, entry in zip(checkpoint.files, found, strict=True)
        if entry is not None and file.num_payloads
    ]
    truncated = set(_truncated(storage, entries, found, findings))
    findings += _unreferenced(checkpoint)
    findings += _leftovers(listing)
    findings += _ranks(checkpoint, listing)
    split = split_by_time(there, checkpoint.metadata_modified_s)
    if split is not None:
        findings.append(_out_of_step(split))
    findings += _unowned(entries, found, truncated)
    not_checked = []
    if checkpoint.format == "dcp" and any(f.modified_s is None for f in there):
        why = f"{printable(storage.root, 80)} tells no modification times"
        not_checked.append(NotChecked("whether all data files are of one save", why))
    if not storage.has_listing:
        why = f"{printable(storage.root, 80)} lists no folder"
        not_checked.append(NotChecked("what else lies beside the files that are named", why))
    if storage.local_path("") is None and there:
        why = "permissions of a remote storage show only when a file is read, as --deep does"
        not_checked.append(NotChecked("whether the data files may be read", why))
    return findings, not_checked


# -- each file that the metadata names ---------------------------------------------------------


def _look(
    checkpoint: Checkpoint,
    storage: Storage,
    listing: list[Entry],
    entries: Entries,
    findings: list[Finding],
) -> list[Entry | None]:
    """What lies at the path of every data file; None where it is no readable file."""
    known = {entry.name: entry for entry in listing}
    found: list[Entry | None] = []
    outside: list[str] = []
    lost: dict[int, tuple[str, str, str]] = {}
    for number, file in enumerate(checkpoint.files):
        found.append(None)
        if not file.num_payloads:
            continue
        if is_escape(file.path):
            findings.append(_escape(file.path))
            continue
        path = posixpath.normpath(file.path)
        try:
            entry = known.get(path) or storage.stat(path)
        except StorageError as error:
            lost[number] = ("file-unreadable", error.message, "raises PermissionError or OSError")
            continue
        problem = _problem(storage, path, entry)
        if problem is not None:
            lost[number] = problem
            continue
        found[number] = entry
        if entry is not None and (entry.is_link or "/" in path):
            target = _target_outside(storage, path)
            if target is not None:
                outside.append(f"{printable(file.path, 80)} (to {printable(target, 120)})")
    numbers = np.fromiter(lost, dtype=np.int64)
    rows_of = dict(entries.by_file(np.flatnonzero(np.isin(entries.file, numbers))))
    for number, (code, what, torch_does) in lost.items():
        path = checkpoint.files[number].path
        rows = rows_of.get(number, np.zeros(0, dtype=np.int64))
        num = total(entries.volume[rows])
        findings.append(
            Finding(
                code,
                f"{printable(path, 120)}: {what}; {_holds(entries, rows)} in it",
                _FATE_OF_NOTHING if _holds_nothing(entries, rows) else torch_does,
                _instead(path, known)
                if code == "file-missing"
                else "make it a file that may be read",
                file=path,
                num_elements=num,
            )
        )
    if outside:
        more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
        findings.append(
            Finding(
                "path-escapes",
                f"{outside[0]}{more}: a link that leads outside the checkpoint folder",
                "follows the link and reads that file",
                "make sure that the link's target is meant, and that it is copied along",
                file=outside[0].partition(" (to ")[0],
                severity="warning",
            )
        )
    return found


def _instead(path: str, known: Mapping[str, Entry]) -> str:
    """What to do about a file that is not there; another may be it under a changed name."""
    for name in sorted(known):
        shown = printable(name, 80)
        if name != path and name.casefold() == path.casefold():
            return f"{shown} is there, which differs in its case alone: rename it, and check again"
        if name != path and _COPY.sub("", name) == path:
            return f"{shown} is there, as a second download is named: rename it, and check again"
        if name in (path + ending for ending in COMPRESSED):
            return f"{shown} is there: unpack it, and check again"
        if _RSYNC.sub(r"\1", name) == path:
            return f"{shown} is there, as rsync names what it has not copied whole: copy it again"
    return _FROM_ANOTHER


def _problem(storage: Storage, path: str, entry: Entry | None) -> tuple[str, str, str] | None:
    """Why a data file cannot be read (code, words, what torch does), or None."""
    if entry is None:
        return (
            "file-missing",
            "it is not there",
            "raises FileNotFoundError on each rank that reads it",
        )
    if entry.kind == "folder":
        return "file-unreadable", "it is a folder", "raises IsADirectoryError"
    local = storage.local_path(path)
    if entry.kind == "other":
        if entry.is_link and local is not None and "no such file" in entry.problem:
            target = printable(str(Path(local).readlink()), 120)
            what = f"it is a link to {target}, which is not there"
            return "file-missing", what, "raises FileNotFoundError on each rank that reads it"
        # Opening a FIFO for reading waits for a writer.
        waits = "waits for ever, or raises OSError"
        does = waits if "regular" in entry.problem else "raises OSError"
        return "file-unreadable", entry.problem, does
    if local is not None and not os.access(local, os.R_OK):
        return "file-unreadable", "permission denied", "raises PermissionError"
    return None


def _escape(path: str) -> Finding:
    return Finding(
        "path-escapes",
        f"{printable(path, 120)}: entries of the metadata lie in this file, {_way_out(path)}; it "
        "was not looked at",
        "follows the path and reads that file",
        "do not load this checkpoint unless you know who wrote it and why",
        file=path,
    )


def _way_out(path: str) -> str:
    if path.startswith(("/", "\\")):
        return "named by an absolute path, where torch names them inside the checkpoint folder"
    if ".." in re.split(r"[/\\]", path):
        return "whose path has `..` in it and may lead outside the checkpoint folder"
    return "outside the checkpoint folder"


def _target_outside(storage: Storage, path: str) -> str | None:
    """Where a link leads, if that is neither in the folder nor in its Hugging Face cache."""
    local = storage.local_path(path)
    if local is None:
        return None
    target, root = Path(os.path.realpath(local)), Path(os.path.realpath(storage.root))
    # `models--x--y/snapshots/<revision>/file` is a link to `models--x--y/blobs/<hash>`.
    caches = [p.parent / "blobs" for p in (root, *root.parents) if p.name == "snapshots"]
    homes = [root, *(Path(os.path.realpath(cache)) for cache in caches)]
    return None if any(target.is_relative_to(home) for home in homes) else str(target)


def _holds(entries: Entries, rows: Ints) -> str:
    """`3 payloads (24 elements of 2 tensors)`."""
    chunks = rows[rows < entries.num_chunks]
    tensors = len(unique(entries.entry[chunks]))
    num = total(entries.volume[rows])
    elements = f" ({plural(num, 'element')} of {plural(tensors, 'tensor')})" if tensors else ""
    return plural(len(rows), "payload") + elements


def _holds_nothing(entries: Entries, rows: Ints) -> bool:
    """Whether all are chunks without elements, of which torch's planner makes no read."""
    if entries.checkpoint.format != "dcp" or not len(rows):
        return False
    return bool((rows < entries.num_chunks).all()) and not entries.volume[rows].any()


def _truncated(
    storage: Storage, entries: Entries, found: list[Entry | None], findings: list[Finding]
) -> Iterator[int]:
    unknown = np.iinfo(np.int64).max
    sizes = [
        unknown if entry is None or entry.num_bytes is None else entry.num_bytes for entry in found
    ]
    # The extra last place is for what is stored nowhere (-1).
    size = np.asarray([*sizes, unknown], dtype=np.int64)[entries.file]
    rows = np.flatnonzero(entries.start + entries.length > size)
    for opened, (number, members) in enumerate(entries.by_file(rows)):
        path, num_bytes = entries.checkpoint.files[number].path, sizes[number]
        end = int(entries.sweep.end[number])
        kind = _foreign(storage, entries, number) if opened < _MAX_OPENED else None
        of_kind = f" of {kind[0]}" if kind else ""
        needing = "the metadata" if entries.checkpoint.format == "dcp" else "its header"
        findings.append(
            Finding(
                "file-truncated",
                f"{printable(path, 120)}: {num_bytes:,} bytes{of_kind}, but {needing} needs "
                f"{end:,}; {_holds(entries, members)} past its end",
                _cut_fate(entries, members, num_bytes, is_foreign=kind is not None),
                kind[1] if kind else _CUT_SHORT,
                file=path,
                num_elements=total(entries.volume[members]),
            )
        )
        yield number


def _foreign(storage: Storage, entries: Entries, number: int) -> tuple[str, str] | None:
    """What stands in the place of a data file, by its first bytes, and what to do about it.

    Where the metadata says that payloads are compressed, a data file begins as such data do.
    """
    checkpoint = entries.checkpoint
    if checkpoint.columns.transforms or any(entry.transforms for entry in checkpoint.bytes_entries):
        return None
    if checkpoint.format != "dcp":
        return None  # Its header was read.
    try:
        start = storage.read(posixpath.normpath(checkpoint.files[number].path), 0, _FIRST_BYTES)
    except StorageError:
        return None
    return foreign_kind(start)


def _cut_fate(entries: Entries, rows: Ints, num_bytes: int, *, is_foreign: bool) -> str:
    """What torch does about entries that reach past the end of their file."""
    if entries.checkpoint.format != "dcp":
        return "raises SafetensorError: incomplete metadata, file not fully covered"
    if _holds_nothing(entries, rows):
        return _FATE_OF_NOTHING
    if is_foreign:
        return "raises an error that names neither the entry nor the file"
    fates = []
    if (entries.start[rows] < num_bytes).any():
        fates.append("RuntimeError: PytorchStreamReader failed reading zip archive")
    if (entries.start[rows] >= num_bytes).any():
        fates.append("EOFError")
    return f"raises {' or '.join(fates)}{entries.or_packed}"


# -- the folder as a whole ---------------------------------------------------------------------


def _unreferenced(checkpoint: Checkpoint) -> Iterator[Finding]:
    world_size = checkpoint.world_size
    paths = {file.path for file in checkpoint.files}
    for file in checkpoint.files:
        if file.num_payloads or not file.num_bytes:
            continue
        if checkpoint.stored is None and file.path.startswith(_OF_MACOS) and file.path[2:] in paths:
            continue  # `_leftovers` tells of it.
        if checkpoint.stored is not None:
            if file.path not in checkpoint.stored.paths:
                yield _of_another_set(file)
            continue
        if file.rank is not None and world_size is not None and file.rank >= world_size:
            why = (
                f"rank {file.rank} is past the {plural(world_size, 'rank')} of this save, so it is "
                "left from an earlier save with more ranks"
            )
        else:
            why = "it is left from another save, or .metadata is"
        yield Finding(
            "file-unreferenced",
            f"{printable(file.path, 120)}: {format_bytes(file.num_bytes)} that no entry of the "
            f"metadata names; {why}",
            "ignores it",
            "remove it once you are sure that nothing needs it",
            file=file.path,
        )


def _of_another_set(file: DataFile) -> Finding:
    return Finding(
        "file-unreferenced",
        f"{printable(file.path, 120)}: {format_bytes(file.num_bytes)} that are no part of this "
        "checkpoint, by the index or by the name",
        "readers that go by the index or by the name ignore it; HuggingFaceStorageReader reads "
        "every .safetensors file of a folder, and this one's tensors too",
        "load from a folder of its own if you load with DCP",
        file=file.path,
        severity="note",
    )


def _leftovers(listing: list[Entry]) -> Iterator[Finding]:
    names = {entry.name for entry in listing}
    for entry in listing:
        is_of_macos = entry.name.startswith(_OF_MACOS) and entry.name[2:] in names
        if entry.kind != "file" or not (is_of_macos or _LEFTOVER.search(entry.name)):
            continue
        what = "a temporary file was left here"
        if is_of_macos:
            what = f"attributes of {printable(entry.name[2:], 120)}, as macOS copies them"
        hint = "remove it"
        if entry.name.endswith(".metadata.tmp") and entry.name.removesuffix(".tmp") in names:
            what = "a later save into this folder has not finished"
            hint = "the data files may be of that later save: see whether they are newer"
        yield Finding(
            "file-leftover",
            f"{printable(entry.name, 120)}: {what}",
            "ignores it",
            hint,
            file=entry.name,
        )


def _ranks(checkpoint: Checkpoint, listing: list[Entry]) -> Iterator[Finding]:
    present = {f.rank for f in checkpoint.files if f.rank is not None}
    if checkpoint.per_rank_metadata:
        have = set(rank_metadata(listing))
        names = {entry.name for entry in listing}
        for rank in _missing(have, max(have | present, default=-1) + 1):
            unfinished = f"__{rank}.metadata.tmp" in names
            yield Finding(
                "rank-missing",
                f"rank {rank}: its metadata file __{rank}.metadata is not there"
                + (" (only its .tmp: that rank has not finished)" if unfinished else ""),
                f"raises AssertionError: metadata is None, on rank {rank}",
                "copy the file from the original, or load an earlier checkpoint",
                file=f"__{rank}.metadata",
            )
        return
    if checkpoint.format != "dcp":
        return  # `stored` tells of them.
    # Megatron-Core and OLMo-core create no file for a rank without an item.
    if any(re.search(r"megatron|olmo", note) for note in checkpoint.provenance.notes):
        return
    if checkpoint.provenance.num_plans:
        return
    num = checkpoint.world_size or 0
    missing = _missing(present, num)
    if missing:
        shown = ", ".join(map(str, missing[:_MAX_NAMED]))
        count = num - len({rank for rank in present if rank < num})
        yield Finding(
            "rank-missing",
            f"no data file of rank {shown}"
            + (" and more" if count > len(missing[:_MAX_NAMED]) else "")
            + f", though ranks up to {num - 1} wrote one; no entry of the metadata names it",
            "loads silently: it reads only files that the metadata names",
            "no fault if the file was empty and a copy dropped it; else look for elements that no "
            "chunk holds",
            severity="warning",
        )


def _missing(present: set[int], num: int) -> list[int]:
    """The first ranks below `num` that are not present."""
    return list(islice((rank for rank in range(num) if rank not in present), _MAX_MISSING))


def _out_of_step(split: Split) -> Finding:
    odd = split.odd
    ranks = sorted({f.rank for f in odd if f.rank is not None})
    who = ", ".join(printable(f.path, 60) for f in odd[:_MAX_NAMED])
    if len(odd) > _MAX_NAMED:
        who += f" and {len(odd) - _MAX_NAMED} more"
    num, num_all = len(split.newer), len(split.newer) + len(split.older)
    gap = split.gap
    if not split.metadata_is_older:
        what = f"{who}: {gap} older than {METADATA} and the other {plural(num, 'data file')}"
    elif not split.older:
        what = f"every data file changed {gap} after {METADATA}, which may be of an earlier save"
    elif odd == split.older:
        what = (
            f"{who}: as old as {METADATA}, but the other {num} of {num_all} data files changed "
            f"{gap} later"
        )
    else:
        what = f"{who}: changed {gap} after {METADATA} and the other data files"
    out = f"; out of step: rank {', '.join(map(str, ranks[:_MAX_NAMED]))}" if ranks else ""
    return Finding(
        "file-newer",
        what + (out if split.older else ""),
        "loads silently a mixture of two saves, if they are of two",
        "an overwrite in place that died leaves this; if the folder was only copied, it is none: "
        "compare with another copy, or load an earlier checkpoint",
        file=odd[0].path,
    )


def _unowned(entries: Entries, found: list[Entry | None], truncated: set[int]) -> Iterator[Finding]:
    checkpoint = entries.checkpoint
    if checkpoint.format != "dcp":
        return  # A safetensors header is owned by no tensor.
    sweep = entries.sweep
    for number, entry in enumerate(found):
        file: DataFile = checkpoint.files[number]
        if entry is None or entry.num_bytes is None or number in truncated:
            continue
        unowned = entry.num_bytes - int(sweep.owned[number])
        if unowned <= 0:
            continue
        tail = entry.num_bytes - int(sweep.end[number])
        where = "at its end" if tail == unowned else "between payloads" if not tail else "in places"
        yield Finding(
            "bytes-unreferenced",
            f"{printable(file.path, 120)}: {plural(unowned, 'byte')} that no entry owns, {where}",
            "ignores them",
            "harmless in itself; if it is so in many files, the metadata may be of another save",
            file=file.path,
        )
