"""A checkpoint held against its seal: what changed since."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.payload.source import MissingPackageError, PayloadError
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checkpoint.workers import BytesProgress
from inspector.checks.findings import CODES, Against, Coverage, DeepReport, Finding, NotChecked
from inspector.checks.seal.manifest import Manifest
from inspector.errors import InspectError, UnreachableError
from inspector.values.fingerprint import (
    Fingerprint,
    Fingerprints,
    fingerprints,
    reason,
)

__all__ = ["check_manifest"]

_LOADS = "loads it silently: it keeps no digest of what was saved"


def check_manifest(
    checkpoint: Checkpoint,
    storage: Storage,
    manifest: Manifest,
    *,
    name: str = "",
    progress: Callable[[BytesProgress], bool] | None = None,
    workers: int = 2,
) -> DeepReport:
    """Hash everything that is sealed, and compare."""
    work = _Check(checkpoint, manifest)
    found = fingerprints(
        checkpoint,
        storage,
        tensors=work.tensors_to_hash(),
        entries=work.entries_to_hash(),
        progress=progress,
        workers=workers,
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
                code,
                "error",
                message,
                torch_does,
                hint,
                fqn=fqn,
                num_elements=num_elements,
                is_echo=is_echo,
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
                "warning",
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
