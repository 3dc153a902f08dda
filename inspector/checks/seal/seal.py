"""Writing a seal beside a checkpoint, never into it.

The rule this module keeps: the checkpoint folder is not written to, whatever links and dots the
path of the seal holds, and no file is replaced that is not a seal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timezone

from inspector._version import __version__
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.outside import outermost, refuse_inside
from inspector.checkpoint.own_folders import write_whole
from inspector.checkpoint.payload.source import (
    MissingPackageError,
    PackedPayloadError,
    PayloadError,
)
from inspector.checkpoint.storage.base import Storage, why
from inspector.checkpoint.text import plural, printable
from inspector.checkpoint.workers import BytesProgress
from inspector.checks.seal.manifest import Manifest, make_manifest, manifest_json, parse_manifest
from inspector.errors import Cancelled, InspectError, StorageError, UsageError
from inspector.layout.contents import missing_parts
from inspector.values.fingerprint import Fingerprints, fingerprints, reason

__all__ = ["default_output", "read_seal", "refuse_output", "seal", "write_seal"]

_SUFFIX = ".seal.json"
_MAX_BYTES = 1 << 28
_MAX_NAMED = 3


def default_output(storage: Storage, path: str = "") -> str:
    """`PATH.seal.json`, in the folder in which the checkpoint lies.

    Args:
        storage: The checkpoint's folder.
        path: The path that was given, where it is a folder around that (NeMo's, Megatron's run).

    Raises:
        UsageError: The checkpoint is remote, or is a whole file system.
    """
    local = outermost(storage.local_path(""), path)
    if local is None:
        raise UsageError(
            f"{printable(storage.root)} is not on this machine, and nothing is written there",
            "--output FILE says where the seal goes",
        )
    # Not resolved: the seal of a link named `latest` is `latest.seal.json`, beside it.
    folder = os.path.abspath(local)
    if not os.path.basename(folder):
        raise UsageError("a whole file system has nothing beside it", "--output FILE says where")
    return folder + _SUFFIX


def refuse_output(storage: Storage, output: str, path: str = "") -> None:
    """Say no to a path in the checkpoint folder, however it is written.

    Raises:
        UsageError: It lies there, is one of the checkpoint's files, or is no path for a file.
    """
    local = outermost(storage.local_path(""), path)
    shown = printable(output)
    try:
        if os.path.isdir(output):
            raise UsageError(f"{shown} is a folder, not a file", "--output takes a file")
        parent = os.path.realpath(os.path.dirname(os.path.abspath(output)))
        if not os.path.isdir(parent):
            raise UsageError(f"cannot write {shown}: there is no such folder")
        if local is not None:
            refuse_inside("--output", output, [local])
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {shown}: {why(error)}") from error


def seal(
    checkpoint: Checkpoint,
    storage: Storage,
    *,
    progress: Callable[[BytesProgress], bool] | None = None,
    workers: int = 2,
    digests: Callable[[Checkpoint, Storage], Fingerprints] | None = None,
) -> Manifest:
    """The seal of a checkpoint: every tensor and bytes entry, hashed.

    What cannot be digested though nothing is wrong with it (a tensor of a class of its own, or a
    package is not installed) is left out, and the seal names it.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
        progress: Called about ten times a second, in the calling thread; True cancels.
        workers: Threads.
        digests: Has everything hashed by others.

    Raises:
        InspectError: Something in it is damaged, so that a seal would not stand for all of it;
            nothing of it can be digested, or there is nothing in it.
        Cancelled: `progress` said so, or Ctrl+C.
    """
    where = printable(checkpoint.path)
    if not checkpoint.num_tensors and not checkpoint.bytes_entries:
        raise InspectError(f"{where} is empty: there is nothing to seal")
    if checkpoint.malformed:
        names = ", ".join(printable(m.fqn, 80) for m in checkpoint.malformed[:_MAX_NAMED])
        what = plural(len(checkpoint.malformed), "part")
        raise _Damaged(f"{where} was not sealed: {what} of its metadata cannot be read ({names})")
    parts = missing_parts(checkpoint)
    if parts:
        raise _Damaged(f"{where} was not sealed: it is not whole. {'; '.join(parts[:_MAX_NAMED])}")
    if digests is not None:
        found = digests(checkpoint, storage)
    else:
        found = fingerprints(checkpoint, storage, progress=progress, workers=workers)
    if found.is_cancelled:
        raise Cancelled("stopped before everything was hashed; nothing was written")
    not_sealed = _undigested(checkpoint, found)
    errors = [(checkpoint.columns.fqns[i], e) for i, e in found.tensor_errors.items()]
    errors += [(checkpoint.bytes_entries[i].fqn, e) for i, e in found.entry_errors.items()]
    errors = [(fqn, error) for fqn, error in errors if fqn not in not_sealed]
    if not errors and not found.tensors and not found.entries:
        why = next(iter(not_sealed.values()))
        raise InspectError(f"{where} was not sealed: nothing of it can be digested: {why}")
    if errors:
        told = "; ".join(f"{printable(n, 80)}: {e.message}" for n, e in errors[:_MAX_NAMED])
        more = f"; and {len(errors) - _MAX_NAMED:,} more" if len(errors) > _MAX_NAMED else ""
        what = plural(len(errors), "entry", "entries")
        raise _Damaged(f"{where} was not sealed: {what} cannot be read. {told}{more}")
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    tool = f"hsdp-inspect {__version__}"
    return make_manifest(checkpoint, found, created=created, tool=tool, not_sealed=not_sealed)


def _undigested(checkpoint: Checkpoint, found: Fingerprints) -> dict[str, str]:
    """Entries that could not be hashed though nothing says that they are damaged, with why."""
    errors = {checkpoint.columns.fqns[i]: e for i, e in found.tensor_errors.items()}
    errors |= {checkpoint.bytes_entries[i].fqn: e for i, e in found.entry_errors.items()}
    return {
        fqn: reason(error)
        for fqn, error in errors.items()
        if isinstance(error, MissingPackageError | PackedPayloadError)
        or (isinstance(error, PayloadError) and error.is_foreign)
    }


class _Damaged(InspectError):
    """The checkpoint is damaged, so that a seal would not stand for all of it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "hsdp-inspect check --deep says what is wrong with it")


def read_seal(path: str) -> Manifest:
    """The seal in a local file.

    Raises:
        UsageError: It cannot be read, or is no seal.
    """
    try:
        fd = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(fd, "rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the seal {printable(path)}: {why(error)}") from error
    if len(text) > _MAX_BYTES:
        raise UsageError(f"{printable(path)} is no seal: it is larger than one can be")
    return parse_manifest(text, path)


def write_seal(manifest: Manifest, storage: Storage, output: str, *, force: bool = False) -> bool:
    """Write a seal, whole or not at all.

    Args:
        manifest: The seal.
        storage: The folder of the checkpoint, which is not written to.
        output: Path of the file.
        force: Replace a seal of other content.

    Returns:
        False if a seal of the same content is there already; it stays as it is.

    Raises:
        UsageError: The path is refused, or something else is there already.
        StorageError: It cannot be written.
    """
    refuse_output(storage, output)
    shown = printable(output)
    if os.path.lexists(output):
        try:
            before = read_seal(output)
        except UsageError as error:
            what = f"{shown} is there already, and is no seal"
            raise UsageError(what, "--output FILE takes another path") from error
        if before.content_sha256 == manifest.content_sha256:
            return False
        if not force:
            raise UsageError(
                f"{shown} is there already, and seals other content",
                "check PATH --manifest FILE says what changed; --force replaces the seal",
            )
    try:
        write_whole(output, [manifest_json(manifest).encode("ascii")])
    except OSError as error:
        raise StorageError(f"cannot write {shown}: {why(error)}") from error
    return True
