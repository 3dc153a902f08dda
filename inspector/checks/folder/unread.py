"""A checkpoint whose metadata cannot be read -> findings that say what is there instead."""

from __future__ import annotations

from inspector.checkpoint.dcp import METADATA, rank_metadata, read_dcp
from inspector.checkpoint.lookalike import lookalike
from inspector.checkpoint.pickle.frames import STRADDLED
from inspector.checkpoint.storage.base import Entry, Storage
from inspector.checkpoint.text import format_bytes, plural, printable
from inspector.checks.findings import Finding
from inspector.checks.folder.files import check_files
from inspector.checks.metadata.entries import entries_of
from inspector.checks.metadata.metadata import check_metadata
from inspector.checks.metadata.structure import check_structure
from inspector.errors import InspectError, MetadataError, NotACheckpointError

__all__ = ["check_unread"]

_TMP = METADATA + ".tmp"

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


def _read_fails(error: MetadataError) -> str:
    if STRADDLED in error.message:
        # Seen with 2.13: the same bytes raise, or load whole.
        return "raises, or loads it, by where the buffer of the file's reader ends"
    return _READ_FAILS.get(error.code, "raises an error")


def check_unread(storage: Storage, error: NotACheckpointError | MetadataError) -> list[Finding]:
    """Findings about a folder whose metadata could not be read.

    Raises:
        StorageError: The folder cannot be listed.
    """
    if isinstance(error, MetadataError):
        return [_unreadable(error, storage.list())]
    return _without_metadata(storage, storage.list(), error)


def _unreadable(error: MetadataError, listing: list[Entry]) -> Finding:
    names = {entry.name for entry in listing}
    per_rank = next((entry.name for entry in rank_metadata(listing).values()), None)
    if METADATA not in names and per_rank is None:
        what = "raises SafetensorError, HuggingFaceStorageReader as well as transformers"
        return Finding(error.code, error.message, what, error.hint, severity="error")
    return Finding(
        error.code,
        error.message,
        _read_fails(error),
        error.hint
        or "fetch .metadata again from where it was written, or load an earlier checkpoint",
        file=METADATA if METADATA in names else per_rank,
        severity="error",
    )


def _without_metadata(
    storage: Storage, listing: list[Entry], error: NotACheckpointError
) -> list[Finding]:
    where = printable(storage.root)
    if any(entry.name == _TMP for entry in listing):
        finding = _unfinished(storage)
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
                f"{where}: a folder of a save that has not finished ({what})",
                _NO_METADATA,
                "load the checkpoint before it, unless the save is still running",
            )
        )
    return findings


def _missing(message: str, hint: str) -> Finding:
    return Finding("metadata-missing", message, _NO_METADATA, hint, file=METADATA)


def _unfinished(storage: Storage) -> Finding:
    """Is `.metadata.tmp` complete? It is read through the same gate as `.metadata`.

    torch writes it, syncs it, removes the old `.metadata` and renames it
    (`FileSystemWriter.finish`); a job that dies between leaves it complete.
    """
    where = f"{printable(storage.root)}: the save has not finished"
    try:
        checkpoint = read_dcp(storage, metadata=_TMP)
        entries = entries_of(checkpoint)
        found, _ = check_files(checkpoint, storage, entries)
        found += [*check_metadata(checkpoint), *check_structure(checkpoint, entries)]
    except InspectError as error:
        message = f"{where}, and its {_TMP} is not complete ({error.message})"
        hint = (
            "unless the save is still running, it cannot be repaired from this folder: load an "
            "earlier checkpoint"
        )
        return Finding("save-unfinished", message, _NO_METADATA, hint, file=_TMP)
    errors = [f for f in found if f.severity == "error"]
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
        hint = (
            f"if no save is running any more, rename {_TMP} to {METADATA}, which repairs the "
            "checkpoint, and check it again"
        )
    return Finding("save-unfinished", message, _NO_METADATA, hint, file=_TMP)
