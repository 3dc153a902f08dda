"""A checkpoint -> its `Report`: every check in order, and what was not checked.

The rule this module keeps: a checkpoint that cannot be read is judged too. Only a path that is
not there, may not be listed, or is no folder at all is an error instead of a report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Protocol

from inspector.checkpoint.dcp import METADATA, rank_metadata, read_dcp
from inspector.checkpoint.isolated import Child, Limits, Progress
from inspector.checkpoint.locate import folder_of
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage import Entry, Storage
from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.checks.entries import entries_of
from inspector.checks.files import check_files
from inspector.checks.findings import CODES, Coverage, Finding, NotChecked, Report
from inspector.checks.lookalike import lookalike
from inspector.checks.metadata import check_metadata, reading_notes
from inspector.checks.optimizer import check_optimizer
from inspector.checks.replay import check_replay
from inspector.checks.structure import check_structure
from inspector.errors import InspectError, MetadataError, NotACheckpointError
from inspector.layout.written_by import WrittenBy

__all__ = ["Checked", "Deep", "check", "check_storage", "judge", "merge"]

_TMP = METADATA + ".tmp"
_SEVERITIES = {"error": 0, "warning": 1, "note": 2}
_ORDER = {code: i for i, code in enumerate(CODES)}

# With these the metadata lists other items than were saved, so that replaying the writer on them
# would put innocent ones elsewhere.
_OTHER_ITEMS = frozenset(
    {
        "entry-malformed",
        "chunk-gap",
        "chunk-overlap",
        "chunk-duplicate",
        "chunk-out-of-bounds",
        "storage-orphan",
    }
)

_NO_METADATA = (
    "raises AssertionError: metadata is None; global metadata read failed; rank local metadata "
    "read failed"
)
_READ_FAILS = {
    "metadata-truncated": "raises AssertionError: metadata is None; ... Ran out of input, or "
    "pickle data was truncated",
    "metadata-unreadable": "raises AssertionError: metadata is None; global metadata read failed",
    "metadata-unsafe": "runs that code while reading the metadata",
}


class Checked(Protocol):
    """What a further check returns (`payloads.PayloadReport` is one)."""

    @property
    def findings(self) -> Iterable[Finding]:
        """What it found."""
        ...

    @property
    def checked(self) -> Coverage:
        """What it looked at; counts that `judge` has as well are taken once."""
        ...


#: A check that reads payloads; it runs after the others.
Deep = Callable[[Checkpoint, Storage], Checked]


def check(
    path: str,
    *,
    deep: Deep | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> Report:
    """Judge the checkpoint at a path or URL.

    Args:
        path: A checkpoint folder, or the metadata file in it.
        deep: Reads the payloads as well; None leaves that out, and the report says so.
        limits: What unpickling the metadata may cost.
        progress: Told the bytes of metadata read; may cancel.

    Raises:
        StorageError: The path is not there, or the folder cannot be listed.
        UsageError: It is no path.
        NotACheckpointError: It is a file of another kind.
        Cancelled: `progress` said so.
    """
    return check_storage(folder_of(path), deep=deep, limits=limits, progress=progress)


def check_storage(
    storage: Storage,
    *,
    deep: Deep | None = None,
    limits: Limits | None = None,
    progress: Progress | None = None,
    prefetched: Child | None = None,
) -> Report:
    """As `check`, for a folder that is open already (and its metadata perhaps being read)."""
    try:
        checkpoint = read_dcp(storage, limits=limits, progress=progress, prefetched=prefetched)
    except NotACheckpointError as error:
        findings = _without_metadata(storage, storage.list(), error, limits)
    except MetadataError as error:
        findings = [_unreadable(error, storage.list())]
    else:
        return judge(checkpoint, storage, deep=deep)
    nothing = NotChecked("everything", "the metadata could not be read")
    return Report(storage.root, _sorted(findings), Coverage(not_checked=(nothing,)))


def judge(
    checkpoint: Checkpoint,
    storage: Storage,
    *,
    deep: Deep | None = None,
    written_by: WrittenBy | None = None,
    torch_version: str | None = None,
) -> Report:
    """Judge a checkpoint that was read.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
        deep: Reads the payloads as well.
        written_by: What `infer` says of it, if that is known already.
        torch_version: The torch that would load it; by default the installed one.

    Raises:
        StorageError: The folder cannot be listed.
    """
    entries = entries_of(checkpoint)
    from_files, not_checked = check_files(checkpoint, storage, entries)
    findings = [
        *check_metadata(checkpoint),
        *reading_notes(checkpoint.provenance, torch_version=torch_version),
        *check_structure(checkpoint, entries),
        *check_optimizer(checkpoint),
        *from_files,
    ]
    if not any(finding.code in _OTHER_ITEMS for finding in findings):
        findings += check_replay(checkpoint, written_by)
    checked = Coverage(
        tensors=checkpoint.num_tensors,
        chunks=checkpoint.num_chunks,
        files=sum(1 for f in checkpoint.files if f.num_bytes is not None),
        not_checked=(*_left_out(checkpoint), *not_checked),
    )
    num_bytes_entries = len(checkpoint.bytes_entries)
    report = Report(checkpoint.path, _sorted(findings), checked, num_bytes_entries)
    if deep is not None:
        found = deep(checkpoint, storage)
        return merge(report, found.findings, found.checked)
    if len(entries.file):
        what = f"the bytes of {plural(len(entries.file), 'payload')}"
        why = "without --deep only sizes are compared; a flipped bit shows only in the bytes"
        return merge(report, (), Coverage(not_checked=(NotChecked(what, why),)))
    return report


def merge(report: Report, findings: Iterable[Finding], checked: Coverage) -> Report:
    """The report with the findings and the coverage of a further check.

    Tensors, chunks and files are counted once (the larger number); payloads are added.
    """
    mine = report.checked
    both = Coverage(
        tensors=max(mine.tensors, checked.tensors),
        chunks=max(mine.chunks, checked.chunks),
        files=max(mine.files, checked.files),
        payloads=mine.payloads + checked.payloads,
        payload_bytes=mine.payload_bytes + checked.payload_bytes,
        not_checked=tuple(dict.fromkeys((*mine.not_checked, *checked.not_checked))),
    )
    return replace(report, findings=_sorted([*report.findings, *findings]), checked=both)


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """By severity, then as the codes are listed, then as they were found."""
    return tuple(sorted(findings, key=lambda f: (_SEVERITIES[f.severity], _ORDER[f.code])))


def _left_out(checkpoint: Checkpoint) -> list[NotChecked]:
    left = []
    if not checkpoint.num_tensors and not checkpoint.bytes_entries:
        left.append(NotChecked("everything", "the checkpoint is empty: no tensor, no bytes entry"))
    elif not checkpoint.num_chunks:
        left.append(NotChecked("any chunk", "the checkpoint holds no tensor that has chunks"))
    if checkpoint.malformed:
        what = plural(len(checkpoint.malformed), "malformed part")
        left.append(NotChecked(f"{what} of the metadata", "no value could be made of them"))
    return left


# -- a checkpoint that cannot be read ----------------------------------------------------------


def _unreadable(error: MetadataError, listing: list[Entry]) -> Finding:
    is_global = any(entry.name == METADATA for entry in listing)
    return Finding(
        error.code,
        "error",
        error.message,
        _READ_FAILS.get(error.code, "raises an error"),
        error.hint
        or "fetch .metadata again from where it was written, or load an earlier checkpoint",
        file=METADATA if is_global else next(iter(rank_metadata(listing).values())).name,
    )


def _without_metadata(
    storage: Storage, listing: list[Entry], error: NotACheckpointError, limits: Limits | None
) -> list[Finding]:
    where = printable(storage.root)
    if any(entry.name == _TMP for entry in listing):
        finding = _unfinished(storage, limits)
        missing = f"{where}: there is no {METADATA}, only {_TMP}"
        return [_missing(missing, finding.hint), finding]
    other = lookalike(listing)
    if other is not None:
        return [_missing(f"{where}: no {METADATA}; this is {other.what}", other.hint)]
    findings = [_missing(error.message, error.hint)]
    temporary = [e.name for e in listing if e.name.endswith(".metadata.tmp")]
    name = storage.root.rstrip("/").rpartition("/")[2]
    if temporary or name.endswith((".tmp", "-tmp", "_tmp", ".incomplete")):
        what = f"only {printable(temporary[0], 60)} is there" if temporary else "its name says so"
        findings.append(
            Finding(
                "save-unfinished",
                "error",
                f"{where}: a folder of a save that did not finish ({what})",
                _NO_METADATA,
                "load the checkpoint before it",
            )
        )
    return findings


def _missing(message: str, hint: str) -> Finding:
    return Finding("metadata-missing", "error", message, _NO_METADATA, hint, file=METADATA)


def _unfinished(storage: Storage, limits: Limits | None) -> Finding:
    """Is `.metadata.tmp` complete? It is read through the same gate as `.metadata`.

    torch writes it, syncs it, removes the old `.metadata` and renames it
    (`FileSystemWriter.finish`); a job that dies between leaves it complete.
    """
    where = f"{printable(storage.root)}: the save did not finish"
    try:
        checkpoint = read_dcp(storage, limits=limits, metadata=_TMP)
        entries = entries_of(checkpoint)
        found, _ = check_files(checkpoint, storage, entries)
        found += [*check_metadata(checkpoint), *check_structure(checkpoint, entries)]
    except InspectError as error:
        message = f"{where}, and its {_TMP} is not complete ({error.message})"
        hint = "it cannot be repaired from this folder: load an earlier checkpoint"
        return Finding("save-unfinished", "error", message, _NO_METADATA, hint, file=_TMP)
    errors = [f for f in _sorted(found) if f.severity == "error"]
    if errors:
        message = (
            f"{where}; {_TMP} is complete, but what it describes is not sound: {errors[0].message}"
        )
        hint = "renaming it would not repair the checkpoint: load an earlier one"
    else:
        size = format_bytes(checkpoint.stored_bytes)
        message = (
            f"{where}, but {_TMP} is complete, and the {size} of data files are as it says: "
            f"{plural(checkpoint.num_tensors, 'tensor')}, {plural(len(entries.file), 'payload')}"
        )
        hint = f"rename {_TMP} to {METADATA}, which repairs the checkpoint, and check it again"
    return Finding("save-unfinished", "error", message, _NO_METADATA, hint, file=_TMP)
