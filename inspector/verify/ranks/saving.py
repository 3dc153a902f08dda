"""The save leg: `dcp.save` of one wave to a scratch folder, and our own check of that folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as _dcp
from torch.distributed.checkpoint.api import CheckpointException

from inspector.checkpoint import open_checkpoint
from inspector.checkpoint.model import Tensor
from inspector.checkpoint.storage.opening import open_storage
from inspector.checkpoint.text import format_bytes
from inspector.checks.judge import judge
from inspector.errors import InspectError
from inspector.layout.rows import RowBlock
from inspector.verify.failures import describe_failure, is_out_of_memory
from inspector.verify.ranks.bits import RegionTally
from inspector.verify.ranks.targets import Targets
from inspector.verify.ranks.torch_dcp import SavePlanner
from inspector.verify.ranks.vitals import Reporter
from inspector.verify.ranks.wave import tell
from inspector.verify.seams import Seams

__all__ = ["save"]

# Its stubs do not export what it exports.
dcp: Any = _dcp

#: What a payload takes besides its elements, and its file and metadata.
_OVERHEAD_BYTES = 4096


def save(
    reporter: Reporter,
    seams: Seams,
    targets: Targets,
    folder: Path,
    hop: int,
    tensors: dict[str, Tensor],
    names: set[str],
    rows: RowBlock | None = None,
) -> bool:
    """Save a wave as a checkpoint; whether there is one to reload, on every rank alike.

    Files are not synced: the folder is removed in a moment. `names` are the entries that count: the
    canary does not. `rows` are those of the one tensor that is saved, if it is not all of them.
    """
    is_first = targets.grid.rank == 0
    told = [_lack_of_space(targets, folder, tensors) if is_first else ""]
    dist.broadcast_object_list(told, src=0)
    if told[0]:
        if is_first:
            reporter.send("failed", kind="exception", message=told[0], stack="", phase="save")
        return False
    try:
        writer = dcp.FileSystemWriter(folder, sync_files=False)
        dcp.save(targets.state, storage_writer=writer, planner=SavePlanner(seams.save_plan()))
    except BaseException as error:
        if not isinstance(error, CheckpointException) or is_out_of_memory(error):
            raise
        if is_first:
            reporter.send("failed", **describe_failure(error), phase="save")
        return False
    num_bytes = sum(_held(targets, fqn, tensors.get(fqn)) for fqn in names)
    reporter.advance(num_bytes, len(names))
    reporter.progress(force=True)
    if is_first:
        _check(reporter, folder, set(targets.state), targets, hop, rows)
    return True


def _held(targets: Targets, fqn: str, tensor: Tensor | None) -> int:
    if tensor is None:
        return len(targets.local_bytes(fqn) or b"")
    return targets.grid.held_bytes(tensor)


def _lack_of_space(targets: Targets, folder: Path, tensors: dict[str, Tensor]) -> str:
    """What is missing for the save, or an empty string."""
    need = 0
    for fqn in targets.state:
        tensor = tensors.get(fqn)
        need += tensor.num_bytes if tensor else len(targets.local_bytes(fqn) or b"")
        need += _OVERHEAD_BYTES * (targets.grid.num_parts if tensor else 1)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
    except OSError as error:
        return f"the scratch folder cannot be used: {error.strerror}"
    if free >= need:
        return ""
    return (
        f"no room to save: {format_bytes(need)} are needed in {folder.parent.parent}, "
        f"{format_bytes(free)} are free; --scratch DIR takes another place"
    )


def _check(
    reporter: Reporter,
    folder: Path,
    names: set[str],
    targets: Targets,
    hop: int,
    rows: RowBlock | None,
) -> None:
    """Judge the folder; each error becomes a `tensor` or `failed` event of phase `save`."""
    try:
        checkpoint = open_checkpoint(str(folder))
        report = judge(checkpoint, open_storage(str(folder)))
    except InspectError as error:
        what = f"the saved folder cannot be read: {error.message}"
        reporter.send("failed", kind="exception", message=what, stack="", phase="save")
        return
    errors = [f for f in report.findings if f.severity == "error"]
    for finding in errors:
        if finding.fqn is None:
            what = f"the saved folder fails the check: {finding.message}"
            reporter.send("failed", kind="exception", message=what, stack="", phase="save")
            continue
        tally = RegionTally(finding.fqn, finding.num_elements or 0)
        verdict = "MISSING" if finding.code in ("chunk-gap", "chunk-unstored") else "FAILED"
        tally.problem(verdict, f"in the saved folder: {finding.message}", finding.file)
        tally.first_index = finding.offsets
        if rows is not None and finding.offsets:
            tally.first_index = (rows.first + finding.offsets[0], *finding.offsets[1:])
        tell(reporter, "save", targets, tally, targets.via.get(finding.fqn, ""), hop=hop)
    saved = set(checkpoint.fqns)
    for fqn in sorted(names - saved):
        tally = RegionTally(fqn, 0)
        tally.problem("MISSING", "the saved folder does not have it")
        tell(reporter, "save", targets, tally, targets.via.get(fqn, ""), hop=hop)
    reporter.send(
        "phase",
        phase="save",
        hop=hop,
        checked=report.verdict,
        num_findings=len(errors),
        num_bytes=checkpoint.stored_bytes,
        num_files=len(checkpoint.files),
    )
