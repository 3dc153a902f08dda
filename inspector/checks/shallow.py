"""Every check that reads no payload: metadata alone, and metadata against the folder."""

from __future__ import annotations

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage import Storage
from inspector.checks.entries import entries_of
from inspector.checks.files import check_files
from inspector.checks.findings import Finding, NotChecked
from inspector.checks.metadata import check_metadata, reading_notes
from inspector.checks.optimizer import check_optimizer
from inspector.checks.replay import check_replay
from inspector.checks.stored import check_stored, left_unchecked
from inspector.checks.structure import check_structure
from inspector.layout.written_by import WrittenBy

__all__ = ["check_all"]

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


def check_all(
    checkpoint: Checkpoint,
    storage: Storage,
    written_by: WrittenBy | None = None,
    torch_version: str | None = None,
) -> tuple[list[Finding], list[NotChecked]]:
    """All findings, in no order, and what of the folder could not be looked at.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
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
        *check_stored(checkpoint, entries),
    ]
    if not any(finding.code in _OTHER_ITEMS for finding in findings):
        findings += check_replay(checkpoint, written_by)
    return findings, [*not_checked, *left_unchecked(checkpoint)]
