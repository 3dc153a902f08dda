"""What is lost, taken from an older step: its values are of that step, and this is said loudly."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Report
from inspector.repair.plan import (
    BytesEdit,
    PlacedChunk,
    RepairPlan,
    RepairStep,
    TakenPayload,
    TensorEdit,
    Unrepaired,
)
from inspector.repair.planner import inventory_of
from inspector.repair.slots import Slot, slots_of

__all__ = ["take_from"]

_NAME = "taken.distcp"


def take_from(
    plan: RepairPlan, checkpoint: Checkpoint, older: Checkpoint, storage: Storage, report: Report
) -> RepairPlan:
    """The plan, with whole entries of an older step in place of those that cannot be repaired.

    Args:
        plan: What can be done without.
        checkpoint: What is repaired.
        older: The older step.
        storage: Its folder, on this machine.
        report: What `check` says of it.
    """
    lost = dict.fromkeys(u.fqn for u in plan.unrepaired if u.fqn is not None)
    if plan.metadata is None or not lost:
        return plan
    shown = printable(older.path, 120)
    wanted = _entries_of(checkpoint)
    offered = _entries_of(older)
    inventory = inventory_of(storage, [file.path for file in older.files])
    bad = {
        fqn
        for finding in report.findings
        if finding.severity == "error"
        for fqn in (finding.fqn, *finding.entries)
    }
    name = _free_name(checkpoint)
    steps, edits, taken, end = [], [], list(plan.taken), 0
    refused: dict[str, str] = {}
    for fqn in lost:
        if fqn is None or fqn not in wanted:
            continue
        why = _refusal(checkpoint, older, wanted[fqn], offered.get(fqn, []), fqn in bad)
        pieces: list[PlacedChunk] = []
        payloads: list[TakenPayload] = []
        at = end
        for slot in () if why else offered[fqn]:
            path = storage.local_path(slot.file or "")
            payload = inventory.beginning(slot.file or "", slot.offset)
            fits = payload is not None and slot.lies_at(payload) and slot.fits(payload)
            if payload is None or path is None or not fits or not inventory.is_whole(payload):
                why = "it is damaged there, or compressed, or of a class of its own"
                break
            pieces.append(PlacedChunk(slot.offsets, slot.sizes, name, at, slot.length))
            payloads.append(TakenPayload(path, slot.offset, slot.length))
            at += slot.length
        if why:
            refused[fqn] = f"not taken from {shown}: {why}"
            continue
        end, first = at, offered[fqn][0]
        taken += payloads
        edits.append(
            TensorEdit(fqn, tuple(pieces), None, ())
            if first.is_tensor
            else BytesEdit(fqn, name, pieces[0].byte_offset, pieces[0].byte_length, ())
        )
        reasons = [u.why for u in plan.unrepaired if u.fqn == fqn]
        steps.append(
            RepairStep(
                "taken-from", "from", fqn, name, reasons[0], f"the values of {shown}",
                "asked for by --from: the same name, dtype and shape, each of "
                f"{plural(len(pieces), 'payload')} as it was written; NOT this step's values",
            )
        )  # fmt: skip
    done = {edit.fqn for edit in edits}
    return replace(
        plan,
        steps=(*(s for s in plan.steps if s.fqn not in done), *steps),
        edits=(*(e for e in plan.edits if e.fqn not in done), *edits),
        unrepaired=tuple(_left(u, refused) for u in plan.unrepaired if u.fqn not in done),
        taken=tuple(taken),
        taken_name=name if taken else "",
    )


def _left(item: Unrepaired, refused: dict[str, str]) -> Unrepaired:
    why = refused.get(item.fqn or "")
    return item if why is None else replace(item, why=f"{item.why}; {why}")


def _entries_of(checkpoint: Checkpoint) -> dict[str, list[Slot]]:
    found: dict[str, list[Slot]] = defaultdict(list)
    for slot in slots_of(checkpoint):
        found[slot.fqn].append(slot)
    return found


def _free_name(checkpoint: Checkpoint) -> str:
    names = {file.path for file in checkpoint.files} | set(checkpoint.folder_files)
    number, name = 1, _NAME
    while name in names:
        number += 1
        name = f"taken_{number}.distcp"
    return name


def _refusal(
    checkpoint: Checkpoint, older: Checkpoint, wanted: list[Slot], offered: list[Slot], bad: bool
) -> str:
    """Why an entry is not taken, or an empty string."""
    if not offered:
        return "no entry there has this name"
    if bad:
        return "it is damaged there"
    mine, theirs = wanted[0], offered[0]
    if mine.is_tensor != theirs.is_tensor:
        return "it is a tensor in one, and none in the other"
    if not mine.is_tensor:
        return ""
    shape = checkpoint.columns.shape(mine.tensor)
    if (mine.dtype, shape) != (theirs.dtype, older.columns.shape(theirs.tensor)):
        return "it is of another dtype or shape there"
    return ""
