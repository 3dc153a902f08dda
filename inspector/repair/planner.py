"""A checkpoint's own metadata, held against what lies in its files: the plan that mends it.

`match_files` tells which file of the folder each name of the metadata means: exchanged, renamed and
moved files.
"""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

from inspector.checkpoint.dcp import is_escape
from inspector.checkpoint.model import Checkpoint
from inspector.checkpoint.storage.base import Storage
from inspector.checkpoint.text import plural, printable
from inspector.checks.findings import Finding, Report
from inspector.repair.boxes import drop_duplicates, mend_boxes
from inspector.repair.inventory import FoundPayload, Inventory, take_inventory
from inspector.repair.plan import (
    BytesEdit,
    PlacedChunk,
    RepairPlan,
    RepairStep,
    TensorEdit,
    Unrepaired,
)
from inspector.repair.ranges import match_ranges, match_unstored
from inspector.repair.slots import Slot, Slots, slots_of

__all__ = ["edits_of", "inventory_of", "plan_repair"]


def match_files(slots: Slots, *, likely: bool) -> Iterator[RepairStep]:
    """Give each name its file, and each entry that is as recorded its payload.

    Args:
        slots: The entries.
        likely: Also take a file that nothing but its content speaks for.

    Yields:
        A step for each file that gets another name, and each entry that led out of the folder.
    """
    by_name = slots.by_name()
    inside = {name: found for name, found in by_name.items() if not is_escape(name)}
    astray = [name for name, found in inside.items() if not _is_all_of(slots, found, name)]
    settled = {name for name in inside if name not in astray}
    files = [f for f in slots.inventory.files if f not in settled and slots.inventory.of(f)]
    fitting = {
        name: [f for f in files if f != name and _is_whole_of(slots, inside[name], f)]
        for name in astray
    }
    for name, found in fitting.items():
        rivals = [other for other, fs in fitting.items() if other != name and set(fs) & set(found)]
        if len(found) > 1 or (found and rivals):
            _tell_rivals(inside[name], name, found, rivals)
            continue
        if not found:
            continue
        # Its own file belongs to another name: the two, or more, were exchanged.
        is_exchange = found[0] in inside and bool(fitting.get(found[0]))
        if not is_exchange and not likely:
            for slot in inside[name]:
                slot.trouble = (
                    f"{printable(found[0])} holds the very payloads that {printable(name)} should, "
                    "but so may another save's file; --allow-likely takes it"
                )
            continue
        slots.links[name] = found[0]
        yield RepairStep(
            "file-name",
            "proven" if is_exchange else "likely",
            None,
            name,
            printable(found[0]),
            printable(name),
            _why_exchanged(len(inside[name]), is_exchange),
        )
    _claim_recorded(slots, inside)
    outside = {name: entries for name, entries in by_name.items() if is_escape(name)}
    sought = Counter((_own_name(n), s.offset) for n, entries in outside.items() for s in entries)
    for name, entries in outside.items():
        yield from _bring_back(slots, name, entries, sought)


def _own_name(name: str) -> str:
    return posixpath.basename(name.replace("\\", "/"))


def _why_exchanged(num_entries: int, is_exchange: bool) -> str:
    what = (
        f"all {plural(num_entries, 'entry', 'entries')} of the name are payloads of that file, at "
        "the recorded bytes, of the recorded dtypes and shapes, and it holds no other"
    )
    if is_exchange:
        return f"{what}; its own name's entries are those of another file"
    return f"{what}; nothing proves that it is of this save"


def _is_all_of(slots: Slots, entries: list[Slot], file: str) -> bool:
    """Whether all entries are in a file as they are recorded."""
    return all(_recorded(slots, slot, file) is not None for slot in entries)


def _is_whole_of(slots: Slots, entries: list[Slot], file: str) -> bool:
    """Whether a file holds all of them, and nothing else."""
    return len(slots.inventory.of(file)) == len(entries) and _is_all_of(slots, entries, file)


def _recorded(slots: Slots, slot: Slot, file: str) -> FoundPayload | None:
    """The payload that a file has where the entry says, of its length, dtype and shape."""
    payload = slots.inventory.beginning(file, slot.offset)
    is_it = payload is not None and slot.lies_at(payload) and slot.fits(payload)
    return payload if is_it else None


def _tell_rivals(entries: list[Slot], name: str, found: list[str], rivals: list[str]) -> None:
    files = ", ".join(printable(file, 60) for file in found[:4])
    names = ", ".join(printable(other, 60) for other in rivals[:4])
    also = f", and could be {names} as well" if rivals else ""
    for slot in entries:
        slot.trouble = (
            f"{files} {'hold' if len(found) > 1 else 'holds'} the payloads of {printable(name)}"
            f"{also}: which is which, nothing tells"
        )


def _claim_recorded(slots: Slots, inside: dict[str, list[Slot]]) -> None:
    for name, entries in inside.items():
        file = slots.file_of(name)
        for slot in entries:
            if file is None:
                continue
            payload = slots.inventory.beginning(file, slot.offset)
            if payload is None or not slot.lies_at(payload):
                continue
            owner = slots.owner(payload)
            if owner is None:
                slots.claim(slot, payload, as_recorded=True)
            elif (owner.fqn, owner.offsets) != (slot.fqn, slot.offsets):
                _part(slots, slot, owner)


def _part(slots: Slots, slot: Slot, owner: Slot) -> None:
    """Two entries name one payload: it is that of the one it fits, if it fits one alone."""
    payload = owner.payload
    if payload is None or (owner.fits(payload) and not slot.fits(payload)):
        return
    slots.release(owner)
    if slot.fits(payload) and not owner.fits(payload):
        slots.claim(slot, payload, as_recorded=True)
        return
    for one, other in ((slot, owner), (owner, slot)):
        one.trouble = f"{other.name} names the same payload: whose it is, nothing tells"


def _bring_back(
    slots: Slots, name: str, entries: list[Slot], sought: Counter[tuple[str, int]]
) -> Iterator[RepairStep]:
    """Entries that lead out of the folder: what they name lies in it, under the file's own name."""
    file = _own_name(name)
    for slot in entries:
        if sought[file, slot.offset] > 1:
            slot.trouble = slot.trouble or (
                f"it should lie in {printable(name, 120)}, outside of the folder, and another "
                f"entry at the same bytes of another {printable(file, 60)} outside: which of them "
                "the folder holds, nothing tells"
            )
            continue
        payload = _recorded(slots, slot, file)
        if payload is None or slots.owner(payload) is not None:
            slot.trouble = slot.trouble or (
                f"it should lie in {printable(name, 120)}, outside of the folder, and no file of "
                f"the folder is called {printable(file, 60)} and has its payload there"
            )
            continue
        slots.claim(slot, payload)
        yield RepairStep(
            "file-path",
            "proven",
            slot.fqn,
            file,
            printable(name, 120),
            printable(slots.name_of(file)),
            f"the folder's own {printable(file)} holds a payload at these very bytes, "
            f"{payload.words}, and no other entry names it",
        )


_FROM = "--from OLDER_STEP takes such entries from there, with the values of that step"
_METADATA_CODES = frozenset({"metadata-missing", "save-unfinished"})


def inventory_of(storage: Storage, named: Iterable[str] = ()) -> Inventory:
    """The payloads of a folder's data files."""
    there = [e.name for e in storage.list() if e.kind == "file" and ".distcp" in e.name]
    inside = [name for name in named if not is_escape(name)]
    return take_inventory(storage, dict.fromkeys([*there, *inside]))


def plan_repair(
    checkpoint: Checkpoint,
    storage: Storage,
    report: Report,
    *,
    metadata: str,
    likely: bool,
    first: Iterable[RepairStep] = (),
) -> RepairPlan:
    """What can be done about a checkpoint whose metadata can be read.

    Args:
        checkpoint: The checkpoint.
        storage: Its folder, on this machine.
        report: What `check --deep` says of it.
        metadata: Path of its metadata file.
        likely: Also do what nothing proves.
        first: Steps that lead to this metadata.
    """
    steps = list(first)
    why = _why_not_read(checkpoint)
    if why:
        return RepairPlan(storage.root, None, tuple(steps), (Unrepaired(None, None, *why),))
    inventory = inventory_of(storage, [file.path for file in checkpoint.files])
    recorded = slots_of(checkpoint)
    slots = Slots(slots_of(checkpoint), inventory)
    codes = _codes_of(report)
    steps += drop_duplicates(slots)
    steps += match_files(slots, likely=likely)
    steps += match_ranges(slots, likely=likely)
    steps += match_unstored(slots, checkpoint, likely=likely)
    steps += mend_boxes(slots, checkpoint, codes, likely=likely)
    _believe_check(slots, report, codes)
    corrupt = _refuse_corrupt(slots, steps)
    steps = [step for step in steps if step.fqn is None or step.fqn not in corrupt]
    return RepairPlan(
        storage.root,
        metadata,
        tuple(steps),
        tuple(_unrepaired(slots, report, steps)),
        dict(slots.links),
        tuple(edits_of(recorded, slots)),
    )


def _why_not_read(checkpoint: Checkpoint) -> tuple[str, str, str] | None:
    """Why this metadata is not written anew: code, reason, hint."""
    hint = "--like takes the metadata of another step of the run"
    if checkpoint.unsafe_globals:
        named = ", ".join(printable(name, 60) for name in checkpoint.unsafe_globals[:3])
        what = f"the metadata names code to be run ({named}), and is not written anew"
        return "metadata-unsafe", what, hint
    if checkpoint.malformed:
        first = checkpoint.malformed[0]
        what = f"{printable(first.fqn, 120)}: {first.what}; nothing else tells what it should be"
        return "entry-malformed", what, hint
    return None


def _codes_of(report: Report) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for finding in report.findings:
        if finding.severity == "error":
            for fqn in (finding.fqn, *finding.entries):
                if fqn is not None:
                    found[fqn].add(finding.code)
    return found


def _believe_check(slots: Slots, report: Report, codes: Mapping[str, Collection[str]]) -> None:
    """Entries that nothing here explains, and with which the deep check found nothing wrong."""
    errors = [finding for finding in report.findings if finding.severity == "error"]
    files = {finding.file for finding in errors}
    for slot in slots.all:
        if slot.payload is None and slot.fqn not in codes and slot.file not in files:
            slots.release(slot)
            if slot.file is not None and not is_escape(slot.file) and slot.length > 0:
                slot.payload = FoundPayload(slot.file, slot.offset, slot.length, "sealed")
                slot.is_as_recorded = True
                slot.trouble = ""


def _refuse_corrupt(slots: Slots, steps: list[RepairStep]) -> set[str]:
    """Entries that a step would give a payload whose bytes are not as they were written."""
    moved = {step.fqn for step in steps if step.fqn is not None}
    found = set()
    for slot in slots.all:
        payload = slot.payload
        if payload is None or slot.fqn not in moved or payload.form == "sealed":
            continue
        if not slots.inventory.is_whole(payload):
            slot.trouble = (
                f"its payload in {printable(payload.file)} at byte {payload.offset:,} is damaged: "
                "its bytes differ from their CRC32, or have none"
            )
            found.add(slot.fqn)
    for slot in slots.all:
        if slot.fqn in found:
            slots.release(slot)
    return found


def _unrepaired(slots: Slots, report: Report, steps: list[RepairStep]) -> Iterable[Unrepaired]:
    told = {step.fqn for step in steps if step.fqn is not None}
    troubled: dict[tuple[str, str], Slot] = {}
    for slot in slots.all:
        if slot.trouble:
            troubled.setdefault((slot.fqn, slot.trouble), slot)
    for slot in troubled.values():
        yield Unrepaired(slot.fqn, slot.file, "", f"{slot.name}: {slot.trouble}", _FROM)
    told |= {slot.fqn for slot in troubled.values()}
    by_name = slots.by_name()
    for finding in report.findings:
        if finding.severity == "error" and not _is_told(finding, told, by_name, steps):
            yield Unrepaired(finding.fqn, finding.file, finding.code, finding.message, finding.hint)


def _is_told(
    finding: Finding, told: set[str], by_name: dict[str, list[Slot]], steps: list[RepairStep]
) -> bool:
    """Whether a step, or a reason, is about what a finding says."""
    if finding.code in _METADATA_CODES:
        return any(step.kind in ("metadata-name", "metadata-like") for step in steps)
    files = {step.file for step in steps if step.kind == "file-name"}
    if finding.file is not None and finding.file in files:
        return True
    names = {fqn for fqn in (finding.fqn, *finding.entries) if fqn is not None}
    if names:
        # Of files that were exchanged, every entry is mended though no step names it.
        moved = {s.fqn for name in files if name is not None for s in by_name.get(name, ())}
        return names <= told | moved
    of_file = by_name.get(finding.file or "", [])
    # A file that is cut short is told by the entries that it lacks; the rest of it is whole.
    return any(slot.fqn in told for slot in of_file)


def edits_of(recorded: list[Slot], slots: Slots) -> Iterable[TensorEdit | BytesEdit]:
    """The changes that the metadata takes, by what it has and what was found."""
    before: dict[str, list[PlacedChunk]] = defaultdict(list)
    dtypes: dict[str, str] = {}
    for slot in recorded:
        before[slot.fqn].append(_placed(slot, slots, is_recorded=True))
        dtypes[slot.fqn] = slot.dtype
    after: dict[str, list[Slot]] = defaultdict(list)
    for slot in slots.all:
        after[slot.fqn].append(slot)
    for fqn, group in after.items():
        placed = [_placed(slot, slots) for slot in group]
        dtype = group[0].dtype if group[0].dtype != dtypes[fqn] else None
        if placed == before[fqn] and dtype is None:
            continue
        if group[0].is_tensor:
            yield TensorEdit(fqn, tuple(placed), dtype)
        else:
            chunk = placed[0]
            yield BytesEdit(fqn, chunk.file, chunk.byte_offset, chunk.byte_length)


def _placed(slot: Slot, slots: Slots, *, is_recorded: bool = False) -> PlacedChunk:
    payload = slot.payload
    if is_recorded or payload is None:
        return PlacedChunk(slot.offsets, slot.sizes, slot.file or "", slot.offset, slot.length)
    name = slots.name_of(payload.file)
    if slot.file is not None and slots.file_of(slot.file) == payload.file:
        name = slot.file  # As it is written there: `./x` is the same file.
    return PlacedChunk(slot.offsets, slot.sizes, name, payload.offset, payload.length)
