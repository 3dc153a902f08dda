"""Items that lie in another rank's file than DCP's writer would have put them in.

The rule this module keeps: a warning at most. The replay explains every item of an undisturbed
save by DCP's default planner (see `layout/writer/written_by.py`); where it explains nearly all, the
few others may be entries that were swapped or taken from another save, which torch loads silently.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.text import format_shape, plural, printable
from inspector.checks.findings import Finding
from inspector.layout.writer.written_by import WrittenBy, infer

__all__ = ["check_replay"]

_MAX_SHOWN = 3
# Checkpoints whose findings are remembered (the parts of a step), and how large one may be.
_MAX_KNOWN = 16
_MAX_CHUNKS = 20_000


def check_replay(checkpoint: Checkpoint, written_by: WrittenBy | None = None) -> list[Finding]:
    """One finding for each data file that holds items of another rank."""
    if checkpoint.per_rank_metadata or checkpoint.format != "dcp":
        return []
    if not checkpoint.state_paths:
        # Without the planner's data the order in which items were dealt out is not known.
        return []
    if written_by is not None:
        return _findings(checkpoint, written_by)
    if checkpoint.num_chunks > _MAX_CHUNKS:
        return _findings(checkpoint, infer(checkpoint))
    return list(_known.findings(checkpoint))


class _Known:
    """Findings of the checkpoints seen last, by all of them that `infer` rests on.

    The steps of a run hold the same tensors in the same boxes and files, so that hundreds of
    replays would all be the first one's.
    """

    def __init__(self) -> None:
        self._findings: OrderedDict[tuple[Any, ...], tuple[Finding, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def findings(self, checkpoint: Checkpoint) -> tuple[Finding, ...]:
        key = _replayed_part(checkpoint)
        with self._lock:
            found = self._findings.get(key)
            if found is not None:
                self._findings.move_to_end(key)
                return found
        found = tuple(_findings(checkpoint, infer(checkpoint)))
        with self._lock:
            self._findings[key] = found
            if len(self._findings) > _MAX_KNOWN:
                self._findings.popitem(last=False)
        return found


_known = _Known()


def _replayed_part(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Everything of a checkpoint that a replay may ask for.

    Not where it lies, its sizes and times on storage, nor where in their files the payloads lie.
    """
    columns, provenance = checkpoint.columns, checkpoint.provenance
    arrays = (
        columns.property_id,
        columns.shapes,
        columns.dim_start,
        columns.chunk_start,
        columns.box_start,
        columns.offsets,
        columns.sizes,
        columns.file,
        checkpoint.order,
    )
    return (
        tuple(columns.fqns),
        tuple(columns.properties),
        tuple(sorted(columns.transforms.items())),
        tuple(array.tobytes() for array in arrays),
        tuple((e.fqn, e.file, e.transforms, e.rank) for e in checkpoint.bytes_entries),
        tuple((f.path, f.rank, f.num_payloads, f.num_bytes == 0) for f in checkpoint.files),
        tuple(checkpoint.state_paths.items()),
        provenance,
        checkpoint.malformed,
        checkpoint.orphans,
        checkpoint.unknown_globals,
        checkpoint.unsafe_globals,
    )


def _findings(checkpoint: Checkpoint, written_by: WrittenBy) -> list[Finding]:
    if written_by.replayed_on is None or not written_by.deviating:
        return []
    files = {f.rank: f.path for f in reversed(checkpoint.files) if f.num_payloads}
    findings = []
    # What another rank might have written as well is no evidence: planners of one's own, and
    # entries that only one rank has, move the balance of all that come after them.
    impossible = [d for d in written_by.deviating if not d.possible]
    for rank in sorted({d.actual for d in impossible}):
        here = [d for d in impossible if d.actual == rank]
        num = len(here)
        named = ", ".join(
            f"{printable(d.fqn, 60)}"
            + (f" at {format_shape(d.offsets)}" if d.offsets else "")
            + f" (rank {d.predicted}'s)"
            for d in here[:_MAX_SHOWN]
        )
        path = files.get(rank, f"__{rank}_0.distcp")
        first = here[0] if here else None
        findings.append(
            Finding(
                "file-newer",
                f"{printable(path, 120)}: it holds {plural(num, 'item')} that DCP's writer, "
                f"replayed on {written_by.replayed_on}, puts into another rank's file: "
                f"{named or 'not listed'}; the other {written_by.num_placed:,} lie as it says",
                "loads silently; if entries were swapped, with values in the wrong place",
                "no fault if a planner of your own wrote it; else compare these items with another "
                "checkpoint",
                fqn=first.fqn if first else None,
                file=path,
                offsets=first.offsets if first else None,
            )
        )
    return findings
