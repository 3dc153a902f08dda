"""What another step of the same run gives: its metadata for a lost one, its values for lost ones.

Nothing in a payload names its tensor. Ranks of one run write the same entries in the same order in
each step, so an entry of the other step's metadata means the payload at the same position of the
file of the same name; that holds only if every payload of every file is of the same dtype, shape
and length in both. Entries whose values are taken are of that other step, and this is said loudly.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

from inspector.checkpoint.dcp import METADATA
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Report
from inspector.repair.inventory import Inventory
from inspector.repair.plan import (
    BytesEdit,
    PlacedChunk,
    RepairPlan,
    RepairStep,
    TakenPayload,
    TensorEdit,
    Unrepaired,
)
from inspector.repair.planner import edits_of, inventory_of
from inspector.repair.slots import Slot, Slots, slots_of

__all__ = ["plan_like", "take_from"]

_NAME = "taken.distcp"


def plan_like(storage: Storage, before: str, like: Checkpoint, like_storage: Storage) -> RepairPlan:
    """What the metadata of another step makes of a folder's files.

    Args:
        storage: The folder.
        before: What is wrong with its own metadata, in a few words.
        like: The other step.
        like_storage: Its folder, on this machine.
    """
    shown = printable(like.path, 120)
    refused = _refusal(like)
    source = like_storage.local_path(METADATA)
    if refused or source is None:
        why = f"{shown} cannot stand for it: {refused or 'it is not on this machine'}"
        return RepairPlan(storage.root, None, (), (Unrepaired(None, METADATA, "", why),))
    names = [file.path for file in like.files if file.num_payloads]
    theirs = inventory_of(like_storage, names)
    ours = inventory_of(storage, names)
    recorded, slots = slots_of(like), Slots(slots_of(like), ours)
    unrepaired = [*_claim(slots, theirs, shown), *_compared(ours, theirs, shown)]
    if not unrepaired:
        unrepaired = list(_damaged(slots))
    if unrepaired:
        return RepairPlan(storage.root, None, (), tuple(unrepaired))
    edits = tuple(edits_of(recorded, slots))
    changed = plural(len(edits), "entry", "entries")
    step = RepairStep(
        "metadata-like",
        "like",
        None,
        METADATA,
        before,
        f"that of {shown}, with the byte ranges of {changed} changed",
        _why(slots, shown),
    )
    return RepairPlan(
        storage.root, os.path.abspath(source), (step,), (), {}, edits, is_other_save=True
    )


def _refusal(like: Checkpoint) -> str:
    """Why a checkpoint's metadata cannot be taken, or an empty string."""
    if like.format != "dcp":
        return "it is no DCP checkpoint"
    if like.per_rank_metadata:
        return "each rank wrote metadata of its own"
    if like.unsafe_globals or like.malformed:
        return "its own metadata is damaged, or names code to be run"
    if any(like.columns.transforms.values()) or any(e.transforms for e in like.bytes_entries):
        return "its payloads are compressed, so their dtypes and shapes are not compared"
    return ""


def _claim(slots: Slots, theirs: Inventory, shown: str) -> Iterator[Unrepaired]:
    """Give each entry the payload at its position; what the other step does not have itself."""
    positions = {
        (p.file, p.offset): n for found in theirs.files.values() for n, p in enumerate(found)
    }
    for slot in slots.all:
        file = slot.file or ""
        payload = theirs.beginning(file, slot.offset)
        if payload is None or not slot.lies_at(payload) or not slot.fits(payload):
            what = f"{shown} is damaged itself: {slot.name} is not as recorded there, or "
            what += "of a class of its own"
            yield Unrepaired(slot.fqn, slot.file, "", what)
            return
        ours = slots.inventory.of(file)
        position = positions[file, slot.offset]
        if position < len(ours):
            slots.claim(slot, ours[position], as_recorded=slot.lies_at(ours[position]))


def _compared(ours: Inventory, theirs: Inventory, shown: str) -> Iterator[Unrepaired]:
    for name in dict.fromkeys([*theirs.files, *ours.files]):
        mine, other = ours.of(name), theirs.of(name)
        if len(mine) != len(other):
            why = (
                f"{printable(name)} holds {plural(len(mine), 'payload')}, and {len(other):,} in "
                f"{shown}: another mesh, or damaged"
            )
            yield Unrepaired(None, name, "", why)
            continue
        for number, (a, b) in enumerate(zip(mine, other, strict=True)):
            is_same = a.what == b.what and a.form in ("tensor", "bytes")
            # The length of a pickled object hangs on its value.
            if not is_same or (a.form == "tensor" and a.length != b.length):
                why = (
                    f"payload {number + 1:,} of {printable(name)} is {a.words}, {a.length:,} "
                    f"bytes; in {shown} {b.words}, {b.length:,} bytes"
                )
                yield Unrepaired(None, name, "", why)
                break


def _damaged(slots: Slots) -> Iterator[Unrepaired]:
    for slot in slots.all:
        payload = slot.payload
        if payload is None or not slots.inventory.is_whole(payload):
            why = f"{slot.name}: its payload's bytes differ from their CRC32, or have none"
            yield Unrepaired(slot.fqn, slot.file, "payload-corrupt", why)


def _why(slots: Slots, shown: str) -> str:
    counts = Counter((s.file, s.what) for s in slots.all)
    alike = sum(n for n in counts.values() if n > 1)
    return (
        f"each of {plural(len(slots.all), 'payload')} is of the dtype, shape and length of the one "
        f"at its position in {shown}; {alike:,} of them are told from others of their file by that "
        "order alone"
    )


def take_from(
    plan: RepairPlan, checkpoint: Checkpoint, older: Checkpoint, storage: Storage, report: Report
) -> RepairPlan:
    """The plan, with whole entries of an older step in place of those that cannot be repaired."""
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
        why = _not_taken(checkpoint, older, wanted[fqn], offered.get(fqn, []), fqn in bad)
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


def _not_taken(
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
