"""Errors of a checkpoint itself that a planned load runs into: `plan_faults`."""

from __future__ import annotations

from collections.abc import Iterable

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage import Storage
from inspector.checks.findings import Finding
from inspector.checks.shallow import check_all
from inspector.layout.written_by import WrittenBy

__all__ = ["plan_faults"]


def plan_faults(
    checkpoint: Checkpoint,
    storage: Storage,
    problems: Iterable[Finding],
    written_by: WrittenBy | None = None,
) -> list[Finding]:
    """The errors that `check` finds without reading a payload, save those that are told already.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder.
        problems: What is told already, rank by rank: the same code and name, or file, is the same.
        written_by: What `infer` says of it, if that is known already.

    Raises:
        StorageError: The folder cannot be listed.
    """
    told = {(problem.code, problem.fqn or problem.file) for problem in problems}
    found, _ = check_all(checkpoint, storage, written_by)
    return [f for f in found if f.severity == "error" and (f.code, f.fqn or f.file) not in told]
