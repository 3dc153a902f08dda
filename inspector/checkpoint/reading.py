"""A folder -> its `Checkpoint`, whatever its format, and who wrote it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from inspector.checkpoint.dcp import read_dcp
from inspector.checkpoint.framework import recognise
from inspector.checkpoint.safetensors_sets import file_sets
from inspector.errors import NotACheckpointError

if TYPE_CHECKING:
    from inspector.checkpoint.isolated import Child, Limits, Progress
    from inspector.checkpoint.model import Checkpoint
    from inspector.checkpoint.storage import Storage

__all__ = ["has_safetensors", "read_checkpoint"]


def read_checkpoint(
    storage: Storage,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
    prefetched: Child | None = None,
) -> Checkpoint:
    """Read the checkpoint in a folder: DCP if its metadata is there, else safetensors.

    Args:
        storage: The folder, or one set of safetensors files in it.
        limits: What unpickling `.metadata` may cost.
        progress: Told the bytes read; may cancel.
        prefetched: A child that already reads the metadata.

    Raises:
        InspectError: As `read_dcp` and `read_safetensors` do.
    """
    try:
        checkpoint = read_dcp(storage, limits=limits, progress=progress, prefetched=prefetched)
    except NotACheckpointError:
        # DCP is tried first, and not asked for first: it has one listing to make, not two.
        if not has_safetensors(storage):
            raise
        from inspector.checkpoint.safetensors import read_safetensors

        checkpoint = read_safetensors(storage, progress=progress)
    return replace(checkpoint, framework=recognise(checkpoint, storage))


def has_safetensors(storage: Storage) -> bool:
    """True for a folder with safetensors files and nothing of a DCP save."""
    if not storage.has_listing:
        storage.stat_all(["model.safetensors.index.json", "model.safetensors"])
    names = [entry.name for entry in storage.list() if entry.kind != "folder"]
    is_dcp = any(name.endswith((".distcp", ".metadata.tmp")) for name in names)
    return not is_dcp and bool(file_sets(names))
