"""Writing a seal beside a checkpoint, never into it, and holding a checkpoint against its seal.

The rule this module keeps: the checkpoint folder is not written to, whatever links and dots the
path of the seal holds, and no file is replaced that is not a seal.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
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
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checkpoint.workers import BytesProgress
from inspector.checks.findings import CODES, Against, Coverage, DeepReport, Finding, NotChecked
from inspector.checks.seal.manifest import Manifest, make_manifest, manifest_json, parse_manifest
from inspector.errors import Cancelled, InspectError, StorageError, UnreachableError, UsageError
from inspector.layout.contents import missing_parts
from inspector.values.fingerprint import (
    Fingerprint,
    Fingerprints,
    fingerprints,
    reason,
)

__all__ = ["check_manifest", "default_output", "read_seal", "refuse_output", "seal", "write_seal"]

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


_LOADS = "loads it silently: it keeps no digest of what was saved"


def check_manifest(
    checkpoint: Checkpoint,
    storage: Storage,
    manifest: Manifest,
    *,
    name: str = "",
    progress: Callable[[BytesProgress], bool] | None = None,
) -> DeepReport:
    """Hash everything that is sealed, and compare."""
    work = _Check(checkpoint, manifest)
    found = fingerprints(
        checkpoint,
        storage,
        tensors=work.tensors_to_hash(),
        entries=work.entries_to_hash(),
        progress=progress,
    )
    work.compare(found)
    return work.report(found, name)


@dataclass(slots=True)
class _Check:
    """A checkpoint, its seal, and what is found of the two."""

    checkpoint: Checkpoint
    manifest: Manifest
    findings: list[Finding] = field(default_factory=list)
    num_matching: int = 0
    unreached: dict[str, str] = field(default_factory=dict)
    not_sealed: list[str] = field(default_factory=list)

    def tensors_to_hash(self) -> list[int]:
        """Tensors that are as sealed, as far as dtype and shape go; the others are told of."""
        columns, wanted = self.checkpoint.columns, []
        for index in self.checkpoint.tensor_order.tolist():
            fqn = columns.fqns[index]
            sealed = self.manifest.tensors.get(fqn)
            if sealed is None:
                self._extra(fqn, "tensor", is_other_kind=fqn in self.manifest.entries)
                continue
            dtype, shape = columns.dtype(index), columns.shape(index)
            if (dtype, shape) == (sealed.dtype, sealed.shape):
                wanted.append(index)
                continue
            now = f"{dtype} {format_shape(shape)}"
            then = f"{printable(sealed.dtype, 60)} {format_shape(sealed.shape)}"
            self._error("seal-mismatch", fqn, f"it is {now}, and was sealed as {then}")
        self._missing("tensor", self.manifest.tensors, columns.fqns)
        return wanted

    def entries_to_hash(self) -> list[int]:
        """Bytes entries that are sealed; the others are told of."""
        fqns = [entry.fqn for entry in self.checkpoint.bytes_entries]
        wanted = []
        for index in self.checkpoint.bytes_order.tolist():
            if fqns[index] in self.manifest.entries:
                wanted.append(index)
            else:
                is_tensor = fqns[index] in self.manifest.tensors
                self._extra(fqns[index], "bytes entry", is_other_kind=is_tensor)
        self._missing("bytes entry", self.manifest.entries, fqns)
        return wanted

    def compare(self, found: Fingerprints) -> None:
        """Digests against the sealed ones."""
        columns, entries = self.checkpoint.columns, self.checkpoint.bytes_entries
        for index, digest in found.tensors.items():
            fqn = columns.fqns[index]
            elements = columns.num_elements[index]
            self._judge(fqn, digest, self.manifest.tensors[fqn].sha256, elements)
        for index, digest in found.entries.items():
            fqn = entries[index].fqn
            self._judge(fqn, digest, self.manifest.entries[fqn].sha256, None)
        for index, error in found.tensor_errors.items():
            self._unreadable(columns.fqns[index], error)
        for index, error in found.entry_errors.items():
            self._unreadable(entries[index].fqn, error)

    def _judge(self, fqn: str, now: Fingerprint, sealed: str, num_elements: int | None) -> None:
        if now.sha256 == sealed:
            self.num_matching += 1
            return
        self._error(
            "seal-mismatch",
            fqn,
            f"its content is not what was sealed (SHA-256 {now.sha256[:12]}..., "
            f"not {printable(sealed, 80)[:12]}...)",
            num_elements=num_elements,
        )

    def _unreadable(self, fqn: str, error: InspectError) -> None:
        if isinstance(error, UnreachableError | MissingPackageError) or (
            isinstance(error, PayloadError) and error.is_foreign
        ):
            self.unreached[fqn] = reason(error)  # It says nothing of the checkpoint.
            return
        code = getattr(error, "code", "payload-unreadable")
        self._error(
            code if CODES.get(code) == "error" else "payload-unreadable",
            fqn,
            f"it cannot be compared with the seal: {error.message}",
            hint=error.hint or "check --deep says what is wrong with it",
            torch_does="raises an error, or loads it wrongly",
            is_echo=True,
        )

    def _error(
        self,
        code: str,
        fqn: str,
        what: str,
        *,
        hint: str = "take the checkpoint from where it was sealed; diff A B --values says where "
        "the two differ",
        torch_does: str = _LOADS,
        num_elements: int | None = None,
        is_echo: bool = False,
    ) -> None:
        message = f"{printable(fqn, 200) or repr('')}: {what}"
        self.findings.append(
            Finding(
                code, message, torch_does, hint, fqn=fqn, num_elements=num_elements, is_echo=is_echo
            )
        )

    def _missing(self, noun: str, sealed: Iterable[str], present: Iterable[str]) -> None:
        there = set(present)
        for fqn in sealed:
            if fqn not in there:
                what = f"this {noun} was sealed, and is not there any more"
                fate = "raises KeyError or RuntimeError if it is asked for"
                self._error("seal-missing", fqn, what, torch_does=fate)

    def _extra(self, fqn: str, noun: str, *, is_other_kind: bool) -> None:
        if fqn in self.manifest.not_sealed:
            self.not_sealed.append(fqn)
            return
        if is_other_kind:
            other = "tensor" if noun == "bytes entry" else "bytes entry"
            self._error("seal-mismatch", fqn, f"it is a {noun}, and was sealed as a {other}")
            return
        self.findings.append(
            Finding(
                "seal-extra",
                f"{printable(fqn, 200) or repr('')}: this {noun} was not there when the "
                "checkpoint was sealed",
                "loads it if it is asked for",
                "seal the checkpoint again if it belongs there",
                fqn=fqn,
            )
        )

    def report(self, found: Fingerprints, name: str) -> DeepReport:
        """The findings, and what was hashed."""
        checkpoint, columns = self.checkpoint, self.checkpoint.columns
        lengths = [int(columns.tensor(i).byte_length.sum()) for i in found.tensors]
        lengths += [checkpoint.bytes_entries[i].byte_length for i in found.entries]
        num_chunks = sum(int(columns.num_chunks_of[i]) for i in found.tensors)
        sealed = len(self.manifest.tensors) + len(self.manifest.entries)
        num_hashed = len(found.tensors) + len(found.entries)
        left = []
        if found.is_cancelled:
            what = plural(sealed - num_hashed, "sealed entry", "sealed entries")
            left.append(NotChecked(what, "it was cancelled"))
        if self.unreached:
            what = plural(len(self.unreached), "sealed entry", "sealed entries")
            left.append(NotChecked(what, printable(next(iter(self.unreached.values())), 300)))
        if self.not_sealed:
            why = self.manifest.not_sealed[self.not_sealed[0]]
            what = f"the content of {plural(len(self.not_sealed), 'entry', 'entries')}"
            left.append(NotChecked(what, f"the seal left them out: {printable(why, 300)}"))
        extra = [f for f in self.findings if f.code == "seal-extra"]
        if extra:
            what = f"the content of {plural(len(extra), 'entry', 'entries')}"
            left.append(NotChecked(what, "the seal does not have them"))
        return DeepReport(
            tuple(self.findings),
            Coverage(
                tensors=len(found.tensors),
                chunks=num_chunks,
                payloads=num_chunks + len(found.entries),
                payload_bytes=sum(lengths),
                not_checked=tuple(left),
                against=(Against("seal", name, sealed, self.num_matching),),
                num_unread=len(self.unreached),
            ),
            found.is_cancelled,
        )
