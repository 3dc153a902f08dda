"""The checks that read every byte, one after the other: payloads, seal, `integrity.json`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural
from inspector.checkpoint.workers import BytesProgress
from inspector.checks.findings import INTEGRITY, Coverage, DeepReport, Finding, NotChecked

if TYPE_CHECKING:
    from inspector.checks.seal.manifest import Manifest

__all__ = ["DeepRequest", "check_deep", "read_wanted"]


#: Makes what is told the progress of one reading, and may cancel it.
Line = Callable[[], AbstractContextManager[Callable[[BytesProgress], bool]]]


@dataclass(frozen=True, slots=True)
class DeepRequest:
    """Which of them.

    Attributes:
        payloads: Every stored byte against its CRC32, and `integrity.json` where there is one.
        values: NaN and infinities, too.
        manifest: The seal to compare with, or None.
        manifest_path: Its path, raw.
        read: Has the payloads read by others, or None.
    """

    payloads: bool
    values: bool
    manifest: Manifest | None = None
    manifest_path: str = ""
    read: Callable[[Checkpoint, Storage], DeepReport] | None = None


def read_wanted(*, deep: bool, values: bool, manifest: str | None) -> DeepRequest:
    """The checks that a command asks for; reads the seal.

    Raises:
        UsageError: The seal cannot be read.
    """
    if manifest is None:
        return DeepRequest(deep or values, values)
    # lazy: what was asked for alone
    from inspector.checks.seal.seal import read_seal

    return DeepRequest(deep or values, values, read_seal(manifest), manifest)


def check_deep(
    checkpoint: Checkpoint, storage: Storage, wanted: DeepRequest, line: Line
) -> DeepReport:
    """Run them; once one is cancelled, the rest is left out, and that is said."""
    report = DeepReport((), Coverage())
    if wanted.payloads:
        # lazy: what was asked for alone
        from inspector.checks.payload.dtensors import check_dtensors

        # lazy: as above
        from inspector.checks.payload.payloads import check_payloads

        # lazy: as above
        from inspector.checks.payload.stored_step import check_file_steps, check_steps

        if wanted.read is not None:
            found = wanted.read(checkpoint, storage)
        else:
            with line() as told:
                found = check_payloads(checkpoint, storage, values=wanted.values, progress=told)
        more: list[Finding] = []
        if not found.is_cancelled:
            more = [
                *check_steps(checkpoint, storage),
                *check_file_steps(checkpoint, storage),
                *check_dtensors(checkpoint, storage),
            ]
        report = DeepReport((*found.findings, *more), found.checked, found.is_cancelled)
        if INTEGRITY in checkpoint.folder_files and not report.is_cancelled:
            # lazy: few checkpoints have one
            from inspector.checks.folder.integrity import check_integrity

            with line() as told:
                digests = check_integrity(checkpoint, storage, progress=told)
            report = _sum(report, digests.findings, digests.checked, digests.is_cancelled)
    if wanted.manifest is not None and not report.is_cancelled:
        # lazy: what was asked for alone
        from inspector.checks.seal.seal import check_manifest

        with line() as told:
            sealed = check_manifest(
                checkpoint, storage, wanted.manifest, name=wanted.manifest_path, progress=told
            )
        checked = sealed.checked
        if not wanted.payloads:
            left = NotChecked(
                f"the checksums of {plural(checked.payloads, 'payload')}",
                "a seal is of the content alone; --deep compares every stored byte",
            )
            checked = replace(checked, not_checked=(*checked.not_checked, left))
        report = _sum(report, sealed.findings, checked, sealed.is_cancelled)
    return report


def _sum(
    report: DeepReport, findings: tuple[Finding, ...], checked: Coverage, is_cancelled: bool
) -> DeepReport:
    """Both together; payloads that were read twice count once."""
    mine = report.checked
    both = replace(
        mine,
        tensors=max(mine.tensors, checked.tensors),
        chunks=max(mine.chunks, checked.chunks),
        payloads=max(mine.payloads, checked.payloads),
        payload_bytes=max(mine.payload_bytes, checked.payload_bytes),
        not_checked=(*mine.not_checked, *checked.not_checked),
        against=(*mine.against, *checked.against),
        num_unread=max(mine.num_unread, checked.num_unread),
    )
    return DeepReport((*report.findings, *findings), both, report.is_cancelled or is_cancelled)
