"""What a side of a comparison lacks, told without reading a payload: `damage_of`.

The rule this module keeps: shapes and dtypes that agree say nothing of elements that no chunk
holds, or that lie in no file. What `check` finds wrong with them is told beside the structure.
"""

from __future__ import annotations

from typing import Literal

from inspector.checkpoint.find.locate import matching
from inspector.checkpoint.text import printable
from inspector.checks.findings import Finding
from inspector.checks.folder.files import check_files
from inspector.checks.folder.stored import check_stored
from inspector.checks.metadata.entries import entries_of
from inspector.checks.metadata.metadata import check_metadata
from inspector.checks.metadata.structure import check_structure
from inspector.checks.payload.packed import without_packed
from inspector.diff.model import Damage, Side
from inspector.errors import StorageError

__all__ = ["damage_of"]

# Metadata that names code holds its tensors all the same.
_NO_DAMAGE = frozenset({"metadata-unsafe"})


def damage_of(name: Literal["A", "B"], side: Side, filter_text: str = "") -> list[Damage]:
    """What a side lacks, or holds twice: errors by its metadata and the sizes of its files.

    Args:
        name: `A` or `B`.
        side: The checkpoint.
        filter_text: Only of names that it selects; what concerns a file is told whatever it is.
    """
    checkpoint = side.checkpoint
    entries = entries_of(checkpoint)
    found = [
        *check_metadata(checkpoint),
        *without_packed(checkpoint, side.storage, entries, check_structure(checkpoint, entries)),
        *check_stored(checkpoint, entries),
    ]
    try:
        found += check_files(checkpoint, side.storage, entries)[0]
    except StorageError as error:
        found.append(Finding("file-unreadable", "error", printable(error.message, 300)))
    errors = [f for f in found if f.severity == "error" and f.code not in _NO_DAMAGE]
    kept = set(matching([finding.fqn or "" for finding in errors], filter_text))
    return [
        Damage(name, f.code, f.message, f.fqn)
        for i, f in enumerate(errors)
        if i in kept or f.fqn is None
    ]
